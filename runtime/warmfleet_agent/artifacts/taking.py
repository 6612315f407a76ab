"""Takes a pack out of a runner's cache volume, which the runner may change at any moment, and makes it an entry.

The volume is opened by descriptors below kubelet's folder: no link is followed, no FIFO waited for, nothing of another
file system entered. What is checked is the store's own copy, never the runner's file.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from warmfleet_agent.store import Draft, IntruderError, ShortSourceError, Store
from warmfleet_agent.store.folders import open_file, opened
from warmfleet_api import artifacts
from warmfleet_api.artifacts import Index, PackError
from warmfleet_api.weights import Manifest

CACHE_VOLUME = "cache"
"""Name of the runner's emptyDir with its compile caches."""
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@contextmanager
def outbox_file(kubelet: Path, uid: str, key: str) -> Iterator[tuple[int, int]]:
    """Open the pack of a key that a runner of this node has made; gives its descriptor and its size in bytes.

    Args:
        kubelet: kubelet's folder.
        uid: of the runner's pod.
        key: of the compile cache.

    Raises:
        PackError: there is none, or something else has its name.
    """
    if not _UID.fullmatch(uid):
        raise PackError(f"{uid[:80]!r} is no uid of a pod")
    volume = kubelet / "pods" / uid / "volumes" / "kubernetes.io~empty-dir" / CACHE_VOLUME
    try:
        with ExitStack() as stack:
            inside = stack.enter_context(opened(str(volume)))
            outbox = stack.enter_context(opened(artifacts.OUTBOX, inside))
            descriptor = open_file(f"{key}.pack", outbox)
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if status.st_nlink != 1 or not stat.S_ISREG(status.st_mode):
                raise PackError(f"the compile cache of runner {uid} has a second name; it is not taken")
            if not artifacts.PREFIX_BYTES < status.st_size <= artifacts.MAX_BYTES:
                raise PackError(f"a compile cache of {status.st_size} bytes is not taken from runner {uid}")
            yield descriptor, status.st_size
    except FileNotFoundError:
        raise PackError(f"runner {uid} of this node has no compile cache {key}") from None
    except IntruderError as error:
        raise PackError(f"the compile cache of runner {uid} is not taken: {error.strerror}") from None


def take(store: Store, kubelet: Path, uid: str, key: str, namespace: str) -> Manifest:
    """Make a runner's pack an entry of the store; blocks.

    Raises:
        PackError: it is none, or not what it should be.
        NoSpaceError, PresentError, BadNameError, OSError: as `Store.begin`.
    """
    uri = f"runner://{namespace}/{uid}/{key}"
    with (
        outbox_file(kubelet, uid, key) as (source, size_bytes),
        store.begin(key, {artifacts.PACK_FILE: size_bytes}, uri) as draft,
    ):
        try:
            draft.fill(artifacts.PACK_FILE, source)
        except ShortSourceError:
            raise PackError(f"the compile cache of runner {uid} shrank while it was taken") from None
        check(draft, key, size_bytes)
        return draft.commit(uri)


def check(draft: Draft, key: str, size_bytes: int) -> Index:
    """Read the index of a pack that fills a draft, from here or from another node.

    Raises:
        PackError: it is not what it should be.
    """
    length = artifacts.index_bytes(draft.read(artifacts.PACK_FILE, 0, artifacts.PREFIX_BYTES))
    return artifacts.decode_index(draft.read(artifacts.PACK_FILE, artifacts.PREFIX_BYTES, length), key, size_bytes)
