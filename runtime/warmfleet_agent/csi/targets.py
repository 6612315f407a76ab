"""Volumes on the node: a read-only bind of a view at the place that kubelet names. Every function blocks.

All of them may be repeated, and may be cut off anywhere by a crash: the next call finds what is there and goes on.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from warmfleet_agent import mounts
from warmfleet_agent.csi.requests import MOUNT_FOLDER, Target, is_pod_uid, target_of

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def publish(kubelet: Path, target: Target, view: Path) -> None:
    """Mount a view read-only at a target; what is mounted there of former views goes.

    Raises:
        MountError: mounting failed, kubelet has not made the volume's folder, or something else lies there.
    """
    with _told(kubelet, target), _opened(view) as wanted, _volume_folder(kubelet, target) as folder:
        with suppress(FileExistsError):
            os.mkdir(MOUNT_FOLDER, 0o755, dir_fd=folder)
        with _opened(MOUNT_FOLDER, folder) as place:
            present = mounts.mounted_on(place, folder)
            if present is not None and "ro" in present.options and _is_same(place, wanted):
                return
        mounts.unmount(MOUNT_FOLDER, folder)
        with _opened(MOUNT_FOLDER, folder) as place:
            mounts.bind_read_only(wanted, place)


def unpublish(kubelet: Path, target: Target) -> None:
    """Unmount what is at a target and remove the folder; nothing there is fine.

    Raises:
        MountError: unmounting failed, or something else lies there.
    """
    with _told(kubelet, target), suppress(FileNotFoundError), _volume_folder(kubelet, target) as folder:
        mounts.unmount(MOUNT_FOLDER, folder)
        os.rmdir(MOUNT_FOLDER, dir_fd=folder)


def bound(kubelet: Path) -> frozenset[str]:
    """Return the UIDs of the pods that have their view mounted now."""
    found = ((target_of(each.point, kubelet), each) for each in mounts.table())
    return frozenset(
        target.uid for target, each in found if target is not None and each.root.endswith(f"/views/{target.uid}")
    )


def orphans(kubelet: Path, views: Collection[str]) -> frozenset[str]:
    """Return the views of pods that are gone: mounted nowhere, and kubelet has no such pod."""
    mounted = bound(kubelet)
    return frozenset(
        view for view in views if is_pod_uid(view) and view not in mounted and not (kubelet / "pods" / view).exists()
    )


@contextmanager
def _told(kubelet: Path, target: Target) -> Iterator[None]:
    """Say of any error at which place it was, and what to do."""
    try:
        yield
    except (OSError, mounts.MountError) as error:
        place = kubelet.joinpath(*target.folders, MOUNT_FOLDER)
        words = error.strerror if isinstance(error, OSError) else error
        raise mounts.MountError(f"{place}: {words}; look at it on the node, kubelet tries again") from error


def _is_same(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


@contextmanager
def _opened(name: str | Path, inside: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, _FOLDER, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _volume_folder(kubelet: Path, target: Target) -> Iterator[int]:
    """Open the folder that kubelet made for the volume; no link on the way is followed."""
    current = os.open(kubelet, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in target.folders:
            with _opened(name, current) as found:
                os.dup2(found, current, inheritable=False)
        yield current
    finally:
        os.close(current)
