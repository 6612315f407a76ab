"""Checks options of `vllm serve` against the table of the pinned version, without importing vLLM.

What is refused here is refused before a runner starts; where the table leaves doubt the option passes, and vLLM has
the last word. The table's shape and the rules of vLLM's parser stand in `hack/images/engine_arguments.py`.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Literal

import msgspec

_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_INTEGER = re.compile(r"^[+-]?\d+$")
_INTEGER_WITH_SUFFIX = re.compile(r"^[+-]?\d+(\.\d+)?[kKmMgGtT]?i?$")
_OPTIMIZATION_LEVEL = re.compile(r"^-O\.?\d$")
_OPTIONAL_VALUE = {"hf_token"}
"""Options whose value may be left out; the table can't tell."""
_PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


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


class Table(msgspec.Struct, frozen=True):
    """All options of one version."""

    version: str
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
def _flags() -> Mapping[str, Option]:
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
    """Whether one key of a JSON option is given, as in `--compilation-config.level 3`."""
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


def parallel_sizes(arguments: Sequence[str]) -> Mapping[str, int]:
    """Return the sizes that arguments set of those whose product is the number of GPUs, by the option's name."""
    given = {
        use.option.dest: use.inline or next(iter(use.values), "")
        for use in uses(arguments)
        if use.option is not None and use.option.dest in _PARALLEL_SIZES
    }
    return {name: int(text) for name, text in given.items() if _INTEGER.match(text)}


def complaints(arguments: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the arguments, each time with what to write instead."""
    for use in uses(arguments):
        complaint = _complaint(use, arguments)
        if complaint is not None:
            yield f"engine.args[{use.position}]: {complaint}"


def _is_flag(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not _NUMBER.match(text)


def _find(flag: str) -> Option | None:
    """Return the option of a flag or of an unambiguous prefix of one."""
    known = _flags().get(flag)
    if known is not None or not flag.startswith("--"):
        return known
    candidates = {option.dest: option for name, option in _flags().items() if name.startswith(flag)}
    return next(iter(candidates.values())) if len(candidates) == 1 else None


def _complaint(use: Use, arguments: Sequence[str]) -> str | None:
    written = arguments[use.position]
    if not use.flag:
        return f"{written!r} is no option; options start with --"
    if " " in written.partition("=")[0]:
        flag, _, value = written.partition(" ")
        return f"{written!r} is one item; write two: {json.dumps([flag, value.strip()])}"
    if use.option is None:
        return _unknown(use.flag)
    given = (*([use.inline] if use.inline is not None else []), *use.values)
    return _wrong_number_of_values(use.option, use.flag, given) or (
        None if use.is_part else _wrong_value(use.option, use.flag, given)
    )


def _wrong_number_of_values(option: Option, flag: str, given: Sequence[str]) -> str | None:
    if not option.takes_value:
        return f"{flag} takes no value, {given[0]!r} is given" if given else None
    if not given:
        return None if option.dest in _OPTIONAL_VALUE else f"{flag} needs a value{_expected(option)}"
    if len(given) > 1 and not option.multiple:
        return f"{flag} takes one value, {given[1]!r} is left over"
    return None


def _wrong_value(option: Option, flag: str, given: Sequence[str]) -> str | None:
    wrong = next((text for text in given if not _accepts(option, text)), None)
    return None if wrong is None else f"{flag} does not take {wrong!r}{_expected(option)}{_did_you_mean(option, wrong)}"


def _unknown(flag: str) -> str:
    version = pinned_table().version
    if flag.startswith("--") and any(name.startswith(flag) for name in _flags()):
        meant = sorted(name for name in _flags() if name.startswith(flag))[:4]
        return f"{flag} is ambiguous in vLLM {version}: write {', '.join(meant)}"
    nearest = difflib.get_close_matches(flag, _flags(), n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; see `vllm serve --help=all`"
    return f"{flag} is no option of vLLM {version}{hint}"


def _accepts(option: Option, text: str) -> bool:
    if text in option.words:
        return True
    if option.choices is not None:
        return text in option.choices
    match option.type:
        case "int":
            return bool((_INTEGER_WITH_SUFFIX if option.suffixes else _INTEGER).match(text))
        case "float":
            return bool(_NUMBER.match(text)) or text in {"inf", "nan"}
        case "json":
            return not text.startswith(("{", "[")) or _is_json(text)
        case _:
            return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _expected(option: Option) -> str:
    if option.choices is not None:
        shown = ", ".join(option.choices[:8]) + (", …" if len(option.choices) > 8 else "")
        return f"; one of {shown}"
    kind = {"int": "a whole number", "float": "a number", "json": "JSON", "str": "text", "bool": "no value"}[
        option.type
    ]
    return f"; give {' or '.join([kind, *option.words])}"


def _did_you_mean(option: Option, text: str) -> str:
    nearest = difflib.get_close_matches(text, option.choices or (), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else ""
