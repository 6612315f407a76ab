"""What a store refuses.

StoreError
├── NoSpaceError      it does not fit
├── DamagedError      it is not what was announced, or not whole any more
├── LockedError       somebody uses it
└── PresentError      it is there already, or being filled
folders.IntruderError (an OSError): something lies in the store that the store did not make
manifest.BadNameError (a ValueError): a key or a file's path that the store takes from nobody
"""


class StoreError(Exception):
    """The store refuses; nothing was changed."""


class NoSpaceError(StoreError):
    """The entry does not fit."""


class DamagedError(StoreError):
    """An entry or a draft is not what it should be; it is none any more."""


class LockedError(StoreError):
    """A reader holds the entry, or another agent the store."""


class PresentError(StoreError):
    """The entry is there already, or is being filled."""
