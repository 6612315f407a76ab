"""Options of `vllm serve`: the table of the pinned version, and arguments read as vLLM's parser reads them.

Nothing here imports vLLM. The table's shape and the rules of vLLM's parser stand in `hack/images/engine_arguments.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Literal

import msgspec

NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_WITH_SUFFIX = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_OPTIMIZATION_LEVEL = re.compile(r"^-O\.?\d$")


class Option(msgspec.Struct, frozen=True, rename="camel"):
    """One option of `vllm serve`."""

    flags: tuple[str, ...]
    dest: str
    type: Literal["int", "float", "str", "bool", "json"]
    choices: tuple[str, ...] | None
    takes_value: bool
    multiple: bool
    suffixes: bool
    """An integer that may be written 8k, 2M, 1G."""
    words: tuple[str, ...]
    """Words accepted in place of a number or of JSON."""


class Table(msgspec.Struct, frozen=True, rename="camel"):
    """All options of one version."""

    version: str
    checked_later: Mapping[str, tuple[str, ...]]
    """Words that vLLM knows as values of options whose own list of choices is open, by the option's name."""
    options: tuple[Option, ...]

    def by_flag(self) -> Mapping[str, Option]:
        """Return the options under each of their flags."""
        return {flag: option for option in self.options for flag in option.flags}


@cache
def pinned_table() -> Table:
    """Return the table of the vLLM version that the runtime image holds."""
    text = resources.files("warmfleet_api").joinpath("vllm_arguments.json").read_bytes()
    return msgspec.json.decode(text, type=Table)


@cache
def flags() -> Mapping[str, Option]:
    """Return the options of the pinned version under each of their flags."""
    return pinned_table().by_flag()


class Use(msgspec.Struct, frozen=True):
    """One option as a person wrote it."""

    position: int
    """Index into the arguments."""
    flag: str
    option: Option | None
    """None for an unknown or ambiguous option."""
    inline: str | None
    """The value after `=`."""
    is_part: bool
    """Whether one key of a JSON option is given, as in `--compilation-config.mode 3`."""
    values: tuple[str, ...]
    """The arguments that follow up to the next option."""


def uses(arguments: Sequence[str]) -> Iterator[Use]:
    """Split arguments into options with their values; values before the first option are an option without a flag."""
    starts = [index for index, text in enumerate(arguments) if _is_flag(text)]
    first = starts[0] if starts else len(arguments)
    if first > 0:
        yield Use(0, "", None, None, False, tuple(arguments[:first]))
    for start, end in pairwise([*starts, len(arguments)]):
        written, equals, inline = arguments[start].partition("=")
        if _OPTIMIZATION_LEVEL.match(written):
            written, equals, inline = "--optimization-level", "=", written[-1]
        name, dot, _ = written.partition(".")
        flag = name if not name.startswith("--") else name.replace("_", "-")
        yield Use(
            position=start,
            flag=flag,
            option=_find(flag),
            inline=inline if equals else None,
            is_part=bool(dot),
            values=tuple(arguments[start + 1 : end]),
        )


def value_of(arguments: Sequence[str], name: str) -> str | None:
    """Return the value that arguments give the option of this name (as in `max_model_len`); the last one counts."""
    given = [use for use in uses(arguments) if use.option is not None and use.option.dest == name]
    return (given[-1].inline or next(iter(given[-1].values), "")) if given else None


def integer_of(arguments: Sequence[str], name: str) -> int | None:
    """Return the whole number that arguments give the option of this name; None where they give none."""
    text = value_of(arguments, name)
    return read_integer(text) if text is not None else None


def is_on(arguments: Sequence[str], name: str) -> bool:
    """Return whether arguments switch on the option of this name, which is off by itself."""
    given = [use for use in uses(arguments) if use.option is not None and use.option.dest == name]
    return bool(given) and not given[-1].flag.startswith("--no-")


def read_integer(text: str, *, suffixes: bool = True) -> int | None:
    """Read a whole number as vLLM does: 8k is 8000, 8K is 8192, 1.5k is 1500; None where it refuses."""
    if suffixes and (found := _WITH_SUFFIX.fullmatch(text.strip())):
        number, suffix = found.groups()
        power = "kmgt".index(suffix.lower()) + 1
        if suffix.islower():
            return int(float(number) * 1000**power)
        return int(number) * 1024**power if number.isdecimal() else None
    try:
        return int(text)
    except ValueError:
        return None


def _is_flag(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not NUMBER.match(text)


def _find(flag: str) -> Option | None:
    """Return the option of a flag or of an unambiguous prefix of one."""
    known = flags().get(flag)
    if known is not None or not flag.startswith("--"):
        return known
    candidates = {option.dest: option for name, option in flags().items() if name.startswith(flag)}
    return next(iter(candidates.values())) if len(candidates) == 1 else None
