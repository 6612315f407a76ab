"""Gives back the memory of a tmpfs that was the memory tier before `spec.memory.path` was changed.

An agent sees the folder around its own tmpfs, so it finds former ones that lie beside it. One elsewhere is given back
by the agent that mounted it, when it ends to be replaced. What a runner reads stays mounted until nobody reads it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from warmfleet_agent import mounts
from warmfleet_agent.store.errors import StoreError
from warmfleet_agent.store.store import Store


def beside(path: Path) -> Iterator[Path]:
    """Yield where else in the folder around the memory tier `path` an agent has mounted a tmpfs."""
    found = mounts.table()
    present = {each.device for each in found if each.point == str(path)}
    for each in found:
        # Views are bound from folders of a tmpfs: they are not the tmpfs itself.
        is_ours = each.filesystem == "tmpfs" and each.source == mounts.SOURCE and each.root == "/"
        if is_ours and each.device not in present and Path(each.point).parent == path.parent:
            yield Path(each.point)


def give_back(path: Path) -> str:
    """Unmount a former memory tier unless an entry of it is read; return in words why it stays, empty once it is gone.

    Blocks.
    """
    try:
        # Opening it fails while another agent owns it.
        with Store(path, 0) as store:
            read = sum(store.is_locked(key) for key in store.entries)
        if read:
            return f"runners read {read} of its entries"
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.unmount(path.name, parent)
            with suppress(OSError):
                os.rmdir(path.name, dir_fd=parent)
        finally:
            os.close(parent)
    except (OSError, StoreError, mounts.MountError) as error:
        return str(error)
    return ""
