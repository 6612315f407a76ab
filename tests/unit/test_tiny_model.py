import json
import struct
from pathlib import Path

from model.tiny_llama import SPECIAL, WORDS, vocabulary, write_model


def read_tensors(path: Path) -> dict[str, tuple[list[int], bytes]]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return {
        name: (entry["shape"], content[8 + length :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def test_every_run_makes_the_same_bytes_and_everyone_may_read_them(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_model(tmp_path / "one")
    write_model(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644


def test_only_words_can_be_answered(tmp_path: Path) -> None:
    write_model(tmp_path)
    shape, data = read_tensors(tmp_path / "model.safetensors")["lm_head.weight"]
    rows = [data[start : start + 2 * shape[1]] for start in range(0, len(data), 2 * shape[1])]
    assert [any(row) for row in rows] == [False] * (len(rows) - len(WORDS)) + [True] * len(WORDS)


def test_every_tensor_is_as_long_as_its_shape_says(tmp_path: Path) -> None:
    write_model(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    assert tensors["model.embed_tokens.weight"][0] == [len(vocabulary()), 128]
    for shape, data in tensors.values():
        rows, columns = shape if len(shape) == 2 else (1, *shape)
        assert len(data) == 2 * rows * columns


def test_the_tokenizer_knows_every_byte_and_no_token_twice() -> None:
    tokens = vocabulary()
    assert len(set(tokens)) == len(tokens) == len(SPECIAL) + 256 + len(WORDS)
