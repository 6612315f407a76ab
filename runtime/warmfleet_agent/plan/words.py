"""Numbers in words."""

from collections.abc import Sequence

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_NAMED = 4


def size(size_bytes: float) -> str:
    """Return e.g. `15.2 GB`."""
    for unit, name in _UNITS:
        if abs(size_bytes) >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """Return e.g. `76 s` or `12 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def listing(items: Sequence[str]) -> str:
    """Join the first few, and count the others."""
    named = ", ".join(items[:_NAMED])
    return named if len(items) <= _NAMED else f"{named} and {len(items) - _NAMED} more"
