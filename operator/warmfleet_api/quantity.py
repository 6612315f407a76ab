"""Kubernetes quantities: `500m`, `40Gi`, `1e3`.

Grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import ROUND_CEILING, Decimal

PATTERN = r"^[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,3})?$"
"""Non-negative quantities; `n` and `u` are left out: nothing here is measured in them."""

_FACTORS = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_FACTORS |= {suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)}
_FACTORS |= {
    suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
}
_PARSE = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]+)|(n|u|m|k|[MGTPE]|[KMGTPE]i)?)")


def parse(value: str | int) -> Decimal:
    """Return the quantity in its base unit.

    Raises:
        ValueError: not a quantity.
    """
    match = _PARSE.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity; write for instance 500m, 4 or 40Gi")
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _FACTORS[suffix or ""]


def to_bytes(value: str | int) -> int:
    """Return a size in bytes, rounded up."""
    return int(parse(value).to_integral_value(ROUND_CEILING))


def to_millicores(value: str | int) -> int:
    """Return CPU in thousandths of a core, rounded up."""
    return int((parse(value) * 1000).to_integral_value(ROUND_CEILING))


def format_bytes(size_bytes: int) -> str:
    """Return a size for people: `1.5 GiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
