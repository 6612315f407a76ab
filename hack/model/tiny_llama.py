"""Makes the tiny model of demo and tests: a Llama of random weights with a tokenizer of its own.

    hack/model/tiny            ${WARMFLEET_CACHE:-~/.cache/warmfleet}/models/tiny-llama
    hack/model/tiny DIRECTORY  elsewhere

What it says makes no sense, but real vLLM loads it from safetensors and serves chat requests with it. Its greedy
answers are always the same words, and an answer only ends where `max_tokens` says. Every run makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import struct
import sys
import tempfile
from pathlib import Path

SEED = 0
HIDDEN = 128
INTERMEDIATE = 256
LAYERS = 2
HEADS = 4
POSITIONS = 2048
SPREAD = 0.2
"""Standard deviation of the weights; wide, so that the likeliest word is so by far."""

SPECIAL = ("<s>", "</s>", "<pad>")
_WORDS = """
a again all and are as at awake away back before below between bright calm cold come dark day deep down each every far
fast fleet float for from full go great green high hold home in is it keep lake later light like little long many memory
model moon more near never new night no of off old on one open or out over quick quiet rest river road run sail sea set
ship shore silver sky sleep slow small so soft some soon star stay still stone storm sun swift tall the then there they
this tide to two under until up wait wake warm watch water wave we when while white wide wild will wind with
"""
WORDS = _WORDS.split()
CHAT_TEMPLATE = """\
{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""

Tensor = tuple[tuple[int, ...], bytes]


def byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte: itself if it can be seen, else one from above 255."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


def vocabulary() -> list[str]:
    """All tokens: special ones, one for each byte so that any text can be read, and the words, each after a space."""
    characters = byte_characters()
    return [*SPECIAL, *characters, *(characters[ord(" ")] + word for word in WORDS)]


def tokenizer() -> dict[str, object]:
    """A `tokenizer.json`: whole words where they are known, bytes elsewhere."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    exact = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **exact} for number, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: number for number, token in enumerate(vocabulary())},
            "merges": [],
        },
    }


def config() -> dict[str, object]:
    """A `config.json`, as transformers writes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(vocabulary()),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def weights() -> dict[str, Tensor]:
    """The tensors by name. The rows of the output that are no words are zero: a word always scores higher."""
    source = random.Random(SEED)
    layer = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (HIDDEN, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(vocabulary()), HIDDEN)}
    for number in range(LAYERS):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (HIDDEN,)
    tensors = {
        name: (shape, ones(shape) if len(shape) == 1 else noise(shape, source)) for name, shape in shapes.items()
    }
    silent = len(vocabulary()) - len(WORDS)
    rows = bytes(2 * silent * HIDDEN) + noise((len(WORDS), HIDDEN), source)
    return tensors | {"lm_head.weight": ((len(vocabulary()), HIDDEN), rows)}


def bfloat16(value: float) -> bytes:
    """A number as bfloat16: the upper half of a float32."""
    return struct.pack("<f", value)[2:]


def ones(shape: tuple[int, ...]) -> bytes:
    """A tensor of ones."""
    return bfloat16(1.0) * math.prod(shape)


def noise(shape: tuple[int, ...], source: random.Random) -> bytes:
    """A tensor of normally distributed numbers."""
    return b"".join(bfloat16(source.gauss(0.0, SPREAD)) for _ in range(math.prod(shape)))


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    """The tensors in the safetensors format (https://huggingface.co/docs/safetensors): length, header, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def write_model(directory: Path) -> None:
    """Write all files of the model into an empty directory, readable by everyone."""
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[2]}
    texts = {
        "config.json": config(),
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": POSITIONS,
            **special,
        },
    }
    files = {name: json.dumps(content, indent=1).encode() for name, content in texts.items()}
    files |= {"chat_template.jinja": CHAT_TEMPLATE.encode(), "model.safetensors": safetensors(weights())}
    for name, content in files.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o644)


def main() -> None:
    """Make the model unless it is there, made by this very program."""
    cache = Path(os.environ.get("WARMFLEET_CACHE") or "~/.cache/warmfleet").expanduser().absolute()
    directory = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else cache / "models" / "tiny-llama"
    program = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = directory / ".made-by"
    if not (stamp.exists() and stamp.read_text() == program):
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=directory.parent))
        unfinished.chmod(0o755)
        write_model(unfinished)
        (unfinished / stamp.name).write_text(program)
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    print(directory)


if __name__ == "__main__":
    main()
