"""The weight store: models as whole entries below one folder, in node memory (tmpfs) or on disk.

    drafts/<key>/    an entry while it is filled; its space is reserved before the first byte
    entries/<key>/   a whole entry: read-only files, and `manifest.json`, which was written last
    views/<pod uid>/<key>/   what one runner may read: hard links to an entry's files

No manifest, no entry: whoever opens a store after a crash deletes what has none, so that a part of a model is never
served. Readers hold a shared lock on the manifest, and eviction takes only what nobody locks. Files are never written
in place nor truncated: a reader that maps them never gets SIGBUS. On disk an unfinished draft is gone on with after a
restart: its journal says which ranges are there.
"""

from warmfleet_agent.store.accounts import Usage
from warmfleet_agent.store.copying import ShortSourceError
from warmfleet_agent.store.draft import Draft
from warmfleet_agent.store.errors import DamagedError, LockedError, NoSpaceError, PresentError, StoreError
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.manifest import BadNameError
from warmfleet_agent.store.store import Store

__all__ = [
    "BadNameError",
    "DamagedError",
    "Draft",
    "IntruderError",
    "LockedError",
    "NoSpaceError",
    "PresentError",
    "ShortSourceError",
    "Store",
    "StoreError",
    "Usage",
]
