"""Where connections go. Pure."""

from collections.abc import Hashable

import msgspec


class Origin(msgspec.Struct, frozen=True):
    """Whom to ask. Connections are kept apart by all of it."""

    address: str | tuple[str, int]
    """Path of a unix socket, or host and port."""
    key: Hashable = None
    """Whatever tells this one from a former one at the same address: a pod's uid, a process' number."""
