"""Checks options of `vllm serve` against the table of the pinned version, without importing vLLM.

What is refused here is refused before a runner starts; where the table leaves doubt the option passes, and vLLM has
the last word.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from warmfleet_api.vllm_options import NUMBER, Option, Use, flags, pinned_table, uses, value_of

_INTEGER = re.compile(r"^[+-]?\d+$")
_INTEGER_WITH_SUFFIX = re.compile(r"^[+-]?\d+(\.\d+)?[kKmMgGtT]?i?$")
_OPTIONAL_VALUE = {"hf_token"}
"""Options whose value may be left out; the table can't tell."""
_PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def parallel_sizes(arguments: Sequence[str]) -> Mapping[str, int]:
    """Return the sizes that arguments set of those whose product is the number of GPUs, by the option's name."""
    given = {name: value_of(arguments, name) for name in _PARALLEL_SIZES}
    return {name: int(text) for name, text in given.items() if text is not None and _INTEGER.match(text)}


def complaints(arguments: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the arguments, each time with what to write instead."""
    for use in uses(arguments):
        complaint = _complaint(use, arguments)
        if complaint is not None:
            yield f"engine.args[{use.position}]: {complaint}"


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
    if flag.startswith("--") and any(name.startswith(flag) for name in flags()):
        meant = sorted(name for name in flags() if name.startswith(flag))[:4]
        return f"{flag} is ambiguous in vLLM {version}: write {', '.join(meant)}"
    nearest = difflib.get_close_matches(flag, flags(), n=1, cutoff=0.6)
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
            return bool(NUMBER.match(text)) or text in {"inf", "nan"}
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
