import json
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.sources.model import safetensors
from warmfleet_agent.sources.safetensors import BadHeaderError, check_header, header_length


def check(content: bytes) -> None:
    length = header_length(content[:8], len(content))
    check_header(content[8 : 8 + length], len(content))


def file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def tensor(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


tensors = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.sampled_from([("U8", 1), ("F16", 2), ("BF16", 2), ("F32", 4), ("I64", 8), ("F8_E4M3", 1)]),
        st.lists(st.integers(0, 5), max_size=4),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(tensors, st.integers(0, 7))
def test_whatever_the_format_allows_is_accepted(
    wanted: dict[str, tuple[tuple[str, int], list[int]]], padding: int
) -> None:
    made = {}
    for name, ((dtype, width), shape) in wanted.items():
        size = width
        for each in shape:
            size *= each
        made[name] = (dtype, shape, b"x" * size)
    check(safetensors(made, padding))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_check(content: bytes) -> None:
    try:
        check(content)
    except BadHeaderError:
        return


@settings(deadline=None)
@given(tensors, st.data())
def test_a_header_with_one_changed_byte_is_refused_or_still_describes_the_file(
    wanted: dict[str, tuple[tuple[str, int], list[int]]], data: st.DataObject
) -> None:
    content = bytearray(safetensors({"a": ("U8", [4], b"abcd"), "b": ("F32", [2, 1], b"x" * 8)}))
    place = data.draw(st.integers(0, len(content) - 13))
    content[place] = data.draw(st.integers(0, 255))
    try:
        check(bytes(content))
    except BadHeaderError:
        return
    length = header_length(bytes(content[:8]), len(content))
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    assert max(each["data_offsets"][1] for each in header.values()) == len(content) - 8 - length


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x01\x02", "less than any"),
        (struct.pack("<Q", 2**63) + b"{}", "claims 9223372036854775808"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "claims"),
        (struct.pack("<Q", 100_000_001) + b"{}", "100000000 are allowed"),
        (file({}, length=3), "the file has"),
        (file(b"[]"), "no JSON object"),
        (file(b"{"), "damaged"),
        (file(b"{" * 5000), "damaged"),
        (file(b'{"a":' * 3000 + b"1" + b"}" * 3000), "damaged"),
        (file({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "overlaps"),
        (file({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234"), "overlaps"),
        (file({"a": tensor(0, 2), "b": tensor(4, 6)}, b"123456"), "hole"),
        (file({"a": tensor(2, 4)}, b"1234"), "hole"),
        (file({"a": tensor(0, 9)}, b"1234"), "tensors end at"),
        (file({"a": tensor(0, 4)}, b"123456"), "tensors end at"),
        (file({"a": tensor(0, 4, "F32", [2])}, b"1234"), "not as long"),
        (file({"a": {"dtype": "U8", "shape": [], "data_offsets": [4, 0]}}, b"1234"), "hole"),
        (file({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"), "damaged"),
        (file({"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}, b"1234"), "damaged"),
        (file({"a": tensor(0, 4, "U8", [2**62, 2**62, 4])}, b"1234"), "larger than any file"),
        (file({"a": tensor(0, 4, "U8", [1] * 33 + [4])}, b"1234"), "dimensions"),
        (file({"a": tensor(0, 4, "PICKLE")}, b"1234"), "unknown type"),
        (file({"a": {**tensor(0, 4), "code": "x"}}, b"1234"), "damaged"),
        (file({"__metadata__": {"format": 1}}), "damaged"),
        (file({"__metadata__": "pt"}), "damaged"),
        (file(b'{"\xff\xfe":1}'), "damaged"),
    ],
)
def test_a_header_that_lies_is_refused_in_words(content: bytes, word: str) -> None:
    with pytest.raises(BadHeaderError, match=word):
        check(content)


@pytest.mark.parametrize("filling", [b'"a":1,', b'"a":[' + b"1," * 50 + b"1],", b'"a":{"b":{"c":[]}},'])
def test_a_header_of_many_small_values_does_not_fill_memory(filling: bytes) -> None:
    size = 20_000_000
    header = b"{" + filling * (size // len(filling)) + b'"z":1}'
    tracemalloc.start()
    try:
        with pytest.raises(BadHeaderError):
            check_header(header, 8 + len(header))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
