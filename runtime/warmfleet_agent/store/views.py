"""What runners see: one folder per pod, with hard links to the files of the entries it may read."""

import os
import stat
from collections.abc import Iterator, Set

from warmfleet_agent.store import folders, manifest
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.manifest import BadNameError
from warmfleet_api.weights import Manifest


def link(views: int, view: str, key: str, entry: Manifest, source: int) -> None:
    """Show an entry, whose open folder is `source`, in a view; what is there already and is the same stays.

    Raises:
        OSError: the view is gone, or something is in the way.
    """
    with folders.opened(view, views) as target:
        folders.make(key, target)
        with folders.opened(key, target) as there:
            # The manifest last here too: a runner waits for it.
            for path in (*(piece.path for piece in entry.files), manifest.FILE_NAME):
                _link_file(path, source, there)


def unlink(views: int, view: str, key: str | None) -> None:
    """Take an entry, or everything, out of a view."""
    try:
        with folders.opened(view, views) as folder:
            for name in folders.names(folder) if key is None else (key,):
                _remove(name, folder)
    except FileNotFoundError:
        return


def read(views: int) -> dict[str, frozenset[str]]:
    """Return the keys in each view."""
    found = {}
    for name in folders.names(views):
        if _is_folder(name, views):
            with folders.opened(name, views) as folder:
                found[name] = frozenset(folders.names(folder))
    return found


def recover(views: int, keys: Set[str]) -> Iterator[str]:
    """Take out of all views what is no entry any more, and say what was no view."""
    for name in folders.names(views):
        try:
            manifest.check_key(name)
            with folders.opened(name, views) as folder:
                for key in folders.names(folder):
                    if key not in keys:
                        _remove(key, folder)
        except BadNameError:
            yield folders.cleared(name, views, f"{folders.shown(name)} was no view")
        except IntruderError as error:
            # A view that is one stays, as a running pod looks through its folder.
            why = f"view {name}: {error.strerror}"
            yield why if _is_folder(name, views) else folders.cleared(name, views, why)


def _remove(key: str, folder: int) -> None:
    """Take an entry out, its manifest first: what is left of it is never taken for a whole one."""
    if _is_folder(key, folder):
        with folders.opened(key, folder) as shown:
            folders.remove(manifest.FILE_NAME, shown)
    folders.remove(key, folder)


def _is_folder(name: str, inside: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)


def _link_file(path: str, source: int, target: int) -> None:
    with folders.walked(path, source) as (here, name), folders.walked(path, target, create=True) as (there, _):
        try:
            os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        except FileExistsError:
            found = os.stat(name, dir_fd=there, follow_symlinks=False)
            if not os.path.samestat(found, os.stat(name, dir_fd=here, follow_symlinks=False)):
                folders.remove(name, there)
                os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
