"""Quantities as Kubernetes reads them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api import quantity


@pytest.mark.parametrize(
    ("value", "base_units"),
    [
        ("500m", "0.5"),
        ("4", "4"),
        (4, "4"),
        (".5", "0.5"),
        ("+1.5", "1.5"),
        ("1k", "1000"),
        ("1Ki", "1024"),
        ("40Gi", str(40 * 1024**3)),
        ("1E", str(10**18)),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("12E-1", "1.2"),
    ],
)
def test_reads_numbers_units_and_exponents(value: str | int, base_units: str) -> None:
    assert quantity.parse(value) == Decimal(base_units)


@pytest.mark.parametrize("value", ["", "Gi", "1.5.5", "1GB", "1 Gi", "1kk", "one", "--1", "1e", "1ki", "1\n"])
def test_refuses_what_is_no_quantity(value: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity.parse(value)


def test_rounds_up_to_whole_bytes_and_millicores() -> None:
    assert quantity.to_bytes("1500m") == 2
    assert quantity.to_millicores("0.0001") == 1


@given(st.from_regex(quantity.PATTERN, fullmatch=True))
def test_reads_all_that_the_api_server_lets_pass(value: str) -> None:
    assert quantity.parse(value) >= 0


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40 * 3000, "3000.0 TiB")]
)
def test_formats_sizes_for_people(size: int, text: str) -> None:
    assert quantity.format_bytes(size) == text
