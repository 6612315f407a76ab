"""Mounts of the node: the tmpfs that is the memory tier, and read-only binds of what one runner may read.

Mounted is by system calls and not by the `mount` tool: binds are made on descriptors, so that no path is resolved
twice; a bind is read-only before anybody can see it, where the tool needs two steps; errors are numbers; and the image
needs no further package. Every function here blocks.
"""

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = "warmfleet"
"""What the mount table shows as source of our tmpfs: by it a restarted agent knows its own."""
MAX_STACKED = 16

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_PRIVATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 18
_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
# These system calls have the same number on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_AT_EMPTY_PATH, _OPEN_TREE_CLONE = 0x1000, 1
_MOVE_FROM_DESCRIPTOR, _MOVE_TO_DESCRIPTOR = 0x4, 0x40
_ATTR_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_libc = ctypes.CDLL(None, use_errno=True)


class MountError(Exception):
    """The node can't be mounted as it should; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    id: int
    parent: int
    device: str
    """`major:minor` of the file system: the same for all binds of it."""
    root: str
    """Which folder of the file system is bound here."""
    point: str
    options: frozenset[str]
    """Of this mount, e.g. `ro`."""
    filesystem: str
    source: str
    super_options: frozenset[str]
    """Of the file system, e.g. `huge=always`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory tier as it is mounted."""

    is_new: bool
    """False: it was there, with whatever it holds."""
    is_huge: bool
    note: str
    """Why it has no huge pages; empty: it has."""


class _Attributes(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


# The mount table ------------------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Mount, ...]:
    """Read /proc/<pid>/mountinfo; proc_pid_mountinfo(5). Optional fields are of any number, and names are escaped.

    Raises:
        ValueError: a line is none of a mount table.
    """
    # Only a newline ends a line: other characters that Python takes for one may stand in a name.
    return tuple(_parse_line(line) for line in text.split("\n") if line)


def _parse_line(line: str) -> Mount:
    left, separator, right = line.partition(" - ")
    fields, about = left.split(" "), right.split(" ")
    if not separator or len(fields) < 6 or len(about) < 3:
        raise ValueError(f"not a line of a mount table: {line[:200]!r}")
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2],
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        options=frozenset(fields[5].split(",")),
        filesystem=about[0],
        source=_unescape(about[1]),
        super_options=frozenset(about[2].split(",")),
    )


def _unescape(name: str) -> str:
    """Turn `\\040` into a space and so on: the kernel escapes space, tab, newline, backslash and `#`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def table() -> tuple[Mount, ...]:
    """Return the mounts of this thread; as a rule all threads see the same."""
    return parse(Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))


def mounted_on(folder: int, inside: int) -> Mount | None:
    """Return the mount that an open folder is the root of; None: it is an ordinary folder of `inside`, its parent."""
    found = _mount_id(folder)
    if found == _mount_id(inside):
        return None
    return next((each for each in table() if each.id == found), None)


def _mount_id(descriptor: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.partition(":")[2])
    raise MountError("the kernel does not tell mounts of descriptors (mnt_id); it needs Linux 5.12 or newer")


# The memory tier ------------------------------------------------------------------------------------------------------


def memory(path: Path, capacity_bytes: int) -> Memory:
    """Have a tmpfs of this size at `path`: mount it, or adopt and resize the one that is there. Never a second one.

    Raises:
        MountError: something else lies there, it can't be made that small, or mounting is not allowed.
    """
    try:
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{path.parent} can't be opened: {error.strerror}; make it on the node") from error
    try:
        folder = _open_or_make(path, parent)
        try:
            return _memory(path, folder, mounted_on(folder, parent), capacity_bytes)
        finally:
            os.close(folder)
    finally:
        os.close(parent)


def _open_or_make(path: Path, parent: int) -> int:
    try:
        os.mkdir(path.name, 0o755, dir_fd=parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise MountError(f"{path} can't be made: {error.strerror}; make it on the node: mkdir {path}") from error
    try:
        return os.open(path.name, _FOLDER, dir_fd=parent)
    except OSError as error:
        raise MountError(f"{path} is a link or no folder; remove it on the node: rm {path}") from error


def _memory(path: Path, folder: int, present: Mount | None, capacity_bytes: int) -> Memory:
    is_ours = present is not None and present.filesystem == "tmpfs" and present.source == SOURCE
    if present is not None and present.filesystem == "tmpfs" and not is_ours:
        raise MountError(
            f"{path} is a tmpfs that Warmfleet did not mount; unmount it on the node (umount {path}), or name another "
            "folder in spec.memory.path of the WeightCache"
        )
    if not is_ours:
        _check_unused(path, folder)
    flags = _FLAGS | (_MS_REMOUNT if is_ours else 0)
    size = f"size={capacity_bytes},mode=0755"
    try:
        _mount_on(folder, flags, f"{size},huge=always")
        return Memory(is_new=not is_ours, is_huge=True, note="")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _explained(path, error) from error
    try:
        _mount_on(folder, flags, size)
    except OSError as error:
        if is_ours and error.errno == errno.EINVAL:
            used = f"{path} holds more than {capacity_bytes} bytes"
            raise MountError(f"{used}; it gets smaller once enough is evicted") from error
        raise _explained(path, error) from error
    return Memory(is_new=not is_ours, is_huge=False, note=f"the kernel has no huge pages for {path}: reading is slower")


def _check_unused(path: Path, folder: int) -> None:
    """Refuse a folder that somebody else could take away from below a mount, or whose content a mount would hide."""
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise MountError(f"{path} belongs to somebody else (uid {status.st_uid}); remove it on the node: rm -r {path}")
    if any(Path(f"/proc/self/fd/{folder}").iterdir()):
        raise MountError(
            f"{path} holds files that are not Warmfleet's; move them away on the node, or name another "
            "folder in spec.memory.path of the WeightCache"
        )


def _mount_on(folder: int, flags: int, data: str) -> None:
    target = f"/proc/self/fd/{folder}".encode()
    if _libc.mount(SOURCE.encode(), target, b"tmpfs", ctypes.c_ulong(flags), data.encode()) != 0:
        raise _last_error()


def _explained(path: Path, error: OSError) -> MountError:
    if error.errno in {errno.EPERM, errno.EACCES}:
        return MountError(f"mounting {path} is not allowed; the agent's container has to be privileged")
    return MountError(f"{path} can't be mounted: {error.strerror}")


# Read-only binds ------------------------------------------------------------------------------------------------------


def bind_read_only(source: int, target: int) -> None:
    """Show the open folder `source` in the place of the open folder `target`, read-only for everybody.

    The bind is private and read-only before it is attached: a mount that spreads to other namespaces keeps the flags it
    has at that moment, and remounting it read-only later would leave those copies writable.

    Raises:
        MountError: mounting is not allowed, or the kernel is older than Linux 5.12.
    """
    bind = -1
    try:
        bind = _call(_SYS_OPEN_TREE, source, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)
        flags = _ATTR_READ_ONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC
        attributes = _Attributes(set=flags, clear=0, propagation=_MS_PRIVATE, userns=0)
        _call(_SYS_MOUNT_SETATTR, bind, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))
        _call(_SYS_MOVE_MOUNT, bind, b"", target, b"", _MOVE_FROM_DESCRIPTOR | _MOVE_TO_DESCRIPTOR)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise MountError("the kernel has no mount_setattr(2); the node needs Linux 5.12 or newer") from error
        raise _explained(Path(f"/proc/self/fd/{target}").readlink(), error) from error
    finally:
        if bind >= 0:
            os.close(bind)


def unmount(name: str, inside: int) -> None:
    """Take away whatever is mounted on a folder of the open folder `inside`; nothing there is fine.

    Raises:
        MountError: it can't be taken away.
    """
    for _ in range(MAX_STACKED):
        try:
            folder = os.open(name, _FOLDER, dir_fd=inside)
        except FileNotFoundError:
            return
        try:
            is_mounted = mounted_on(folder, inside) is not None
        finally:
            os.close(folder)
        if not is_mounted:
            return
        # Detached, not refused, where a reader is left: it keeps what it has open, and the place is free.
        target = os.fsencode(f"/proc/self/fd/{inside}/{name}")
        if _libc.umount2(target, _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            raise _explained(Path(name), _last_error())
    raise MountError(f"{name} is mounted more than {MAX_STACKED} times; unmount it on the node")


def roots_of(device: str, mounts: Iterable[Mount]) -> frozenset[str]:
    """Return which folders of a file system are bound somewhere."""
    return frozenset(each.root for each in mounts if each.device == device)


def _call(number: int, *arguments: object) -> int:
    converted: Sequence[object] = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise _last_error()
    return result


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
