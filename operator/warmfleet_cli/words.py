"""Times, sizes and shares as the tables show them."""

from collections.abc import Sequence

from warmfleet_api import quantity

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def seconds(value: float | None) -> str:
    """Return a time span: `0.4 s`, `12 s`, `3 m 05 s`, `2 h 10 m`, `4 d 3 h`; a dash for None."""
    if value is None:
        return "-"
    sign, value = ("-", -value) if value < 0 else ("", value)
    if value < 9.95:
        return f"{sign}{value:.1f} s"
    whole = round(value)
    if whole < _MINUTE:
        return f"{sign}{whole} s"
    if whole < _HOUR:
        return f"{sign}{whole // _MINUTE} m {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{sign}{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} m"
    return f"{sign}{whole // _DAY} d {whole % _DAY // _HOUR} h"


def share(used: int, capacity: int) -> str:
    """Return `5.2 GiB of 8.0 GiB`."""
    return f"{quantity.format_bytes(used)} of {quantity.format_bytes(capacity)}"


def bar(start: float, end: float, whole: float, width: int) -> str:
    """Return a bar from `start` to `end` of `whole`, `width` characters long; what is short still shows."""
    if whole <= 0 or width <= 0:
        return ""
    first = min(width - 1, int(start / whole * width))
    eighths = max(1, round((end - start) / whole * width * 8))
    full, rest = divmod(min(eighths, (width - first) * 8), 8)
    return (" " * first + "█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def portions(sizes: Sequence[float], width: int) -> list[int]:
    """Divide `width` characters in proportion to the sizes; what has a size gets at least one if there are enough.

    The largest remainders get the characters that rounding leaves.
    """
    whole = sum(sizes)
    if whole <= 0 or width <= 0:
        return [0] * len(sizes)
    shown = [index for index, size in enumerate(sizes) if size > 0]
    result = [0] * len(sizes)
    if len(shown) > width:
        for index in sorted(shown, key=lambda each: -sizes[each])[:width]:
            result[index] = 1
        return result
    exact = {index: sizes[index] / whole * width for index in shown}
    for index in shown:
        result[index] = max(1, int(exact[index]))
    by_excess = sorted(shown, key=lambda each: result[each] - exact[each])
    while sum(result) < width:
        for index in by_excess[: width - sum(result)]:
            result[index] += 1
    while sum(result) > width:
        result[max(shown, key=lambda each: result[each] - exact[each] if result[each] > 1 else float("-inf"))] -= 1
    return result
