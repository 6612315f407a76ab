"""Makes the tiny model of demo and tests: a Llama of random weights with a tokenizer of its own.

    hack/model/tiny            ${WARMFLEET_CACHE:-~/.cache/warmfleet}/models/tiny-llama
    hack/model/tiny DIRECTORY  elsewhere
    hack/model/tiny --draft    …/models/tiny-draft, half its size with the same words: a draft for speculative decoding
    hack/model/tiny --adapter  …/models/tiny-lora, a LoRA adapter that changes what it says
    hack/model/tiny --large    …/models/large-llama, 300 MB: what fetches and evicts weights needs some to work on

What it says makes no sense, but real vLLM loads it from safetensors and serves chat requests with it. Its greedy
answers are always the same words, and an answer only ends where `max_tokens` says. Every run makes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """How large a Llama is."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    seed: int


MODEL = Size(hidden=128, intermediate=256, layers=2, heads=4, seed=0)
DRAFT = Size(hidden=64, intermediate=128, layers=1, heads=2, seed=1)
LARGE = Size(hidden=1024, intermediate=2816, layers=12, heads=16, seed=3)
RANK = 4
"""Of the adapter."""
POSITIONS = 2048
MAX_DRAWN = 2**16
"""Random numbers of one tensor."""
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


def config(size: Size = MODEL) -> dict[str, object]:
    """A `config.json`, as transformers writes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(vocabulary()),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.hidden // size.heads,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def weights(size: Size = MODEL) -> dict[str, Tensor]:
    """The tensors by name. The rows of the output that are no words are zero: a word always scores higher."""
    source = random.Random(size.seed)
    hidden, intermediate = size.hidden, size.intermediate
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(vocabulary()), hidden)}
    for number in range(size.layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    tensors = {
        name: (shape, ones(shape) if len(shape) == 1 else noise(shape, source)) for name, shape in shapes.items()
    }
    silent = len(vocabulary()) - len(WORDS)
    rows = bytes(2 * silent * hidden) + noise((len(WORDS), hidden), source)
    return tensors | {"lm_head.weight": ((len(vocabulary()), hidden), rows)}


def adapter_config() -> dict[str, object]:
    """An `adapter_config.json`, as PEFT writes it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "r": RANK,
        "lora_alpha": 8 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "inference_mode": True,
    }


def adapter_weights() -> dict[str, Tensor]:
    """The tensors of the adapter by name: two thin matrices for each matrix they change."""
    source = random.Random(2)
    tensors: dict[str, Tensor] = {}
    for number in range(MODEL.layers):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{number}.self_attn.{module}"
            for half, shape in (("lora_A", (RANK, MODEL.hidden)), ("lora_B", (MODEL.hidden, RANK))):
                tensors[f"{name}.{half}.weight"] = (shape, noise(shape, source))
    return tensors


def bfloat16(value: float) -> bytes:
    """A number as bfloat16: the upper half of a float32."""
    return struct.pack("<f", value)[2:]


def ones(shape: tuple[int, ...]) -> bytes:
    """A tensor of ones."""
    return bfloat16(1.0) * math.prod(shape)


def noise(shape: tuple[int, ...], source: random.Random) -> bytes:
    """A tensor of normally distributed numbers; in a large one they come again."""
    count = math.prod(shape)
    drawn = min(count, MAX_DRAWN)
    numbers = b"".join(bfloat16(source.gauss(0.0, SPREAD)) for _ in range(drawn))
    return (numbers * (count // drawn + 1))[: 2 * count]


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


def write_model(directory: Path, size: Size = MODEL) -> None:
    """Write all files of a model into an empty directory, readable by everyone."""
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[2]}
    texts = {
        "config.json": config(size),
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": POSITIONS,
            **special,
        },
    }
    files = {name: as_json(content) for name, content in texts.items()}
    write(directory, files | {"chat_template.jinja": CHAT_TEMPLATE.encode()})
    write(directory, {"model.safetensors": safetensors(weights(size))})


def write_draft(directory: Path) -> None:
    """Write all files of the draft model into an empty directory."""
    write_model(directory, DRAFT)


def write_large(directory: Path) -> None:
    """Write all files of the large model into an empty directory."""
    write_model(directory, LARGE)


def write_adapter(directory: Path) -> None:
    """Write both files of the adapter into an empty directory."""
    files = {"adapter_config.json": as_json(adapter_config())}
    write(directory, files | {"adapter_model.safetensors": safetensors(adapter_weights())})


def as_json(content: object) -> bytes:
    """A JSON file's bytes."""
    return json.dumps(content, indent=1).encode()


def write(directory: Path, files: dict[str, bytes]) -> None:
    """Write files that everyone may read."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o644)


def make(directory: Path, write_files: Callable[[Path], None]) -> None:
    """Make a directory unless it is there, made by this very program."""
    program = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = directory / ".made-by"
    if stamp.exists() and stamp.read_text() == program:
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=directory.parent))
    unfinished.chmod(0o755)
    write_files(unfinished)
    (unfinished / stamp.name).write_text(program)
    if directory.exists():
        shutil.rmtree(directory)
    unfinished.rename(directory)


WRITERS = {
    "tiny-llama": write_model,
    "tiny-draft": write_draft,
    "tiny-lora": write_adapter,
    "large-llama": write_large,
}


def main() -> None:
    """Make what the command line asks for, and print where it is."""
    parser = argparse.ArgumentParser(prog="hack/model/tiny", description="Make the tiny model, if it is not there.")
    parser.add_argument("directory", nargs="?", type=Path, help="default: below the cache's models")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--draft", action="store_const", dest="what", const="tiny-draft", help="its draft instead")
    what.add_argument("--adapter", action="store_const", dest="what", const="tiny-lora", help="its adapter instead")
    what.add_argument("--large", action="store_const", dest="what", const="large-llama", help="a large one instead")
    parser.set_defaults(what="tiny-llama")
    wanted = parser.parse_args()
    cache = Path(os.environ.get("WARMFLEET_CACHE") or "~/.cache/warmfleet").expanduser().absolute()
    directory = wanted.directory.absolute() if wanted.directory else cache / "models" / wanted.what
    make(directory, WRITERS[wanted.what])
    print(directory)


if __name__ == "__main__":
    main()
