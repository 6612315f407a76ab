"""Checks options of `vllm serve` against the table of the pinned version, without importing vLLM.

What is refused here is refused before a runner starts; where the table leaves doubt the option passes, and vLLM has
the last word.
"""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from warmfleet_api.vllm_options import (
    Option,
    Use,
    flags,
    integer_of,
    is_on,
    pinned_table,
    read_integer,
    uses,
    value_of,
)

_OPTIONAL_VALUE = {"hf_token"}
"""Options whose value may be left out; the table can't tell."""
_PARALLEL_SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "data_parallel_size",
)
_BOUNDS = {
    **dict.fromkeys((*_PARALLEL_SIZES, "max_num_seqs", "max_num_batched_tokens"), (1.0, math.inf)),
    "gpu_memory_utilization": (0.0, 1.0),
}
"""Least and greatest value of options that vLLM checks after its parser (fields of its configuration)."""


def parallel_sizes(arguments: Sequence[str]) -> Mapping[str, int]:
    """Return the sizes that arguments set of those whose product is the number of GPUs, by the option's name."""
    given = {name: integer_of(arguments, name) for name in _PARALLEL_SIZES}
    return {name: size for name, size in given.items() if size is not None}


def complaints(arguments: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the arguments, each time with what to write instead."""
    for use in uses(arguments):
        complaint = _complaint(use, arguments)
        if complaint is not None:
            yield f"engine.args[{use.position}]: {complaint}"
    for contradiction in _contradictions(arguments):
        yield f"engine.args: {contradiction}"


def unknown_word(name: str, word: str) -> str | None:
    """Say that vLLM knows no such word as the value of the option `name`, and the nearest it knows; None if it does."""
    known = pinned_table().checked_later[name]
    if word in known:
        return None
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]}?" if nearest else f"one of {', '.join(known[:8])}, …"
    return f"vLLM {pinned_table().version} does not know {word!r}; {hint}"


def _contradictions(arguments: Sequence[str]) -> Iterator[str]:
    """Yield what each option by itself is right about and vLLM refuses together (`SchedulerConfig`, `cli_args`)."""
    tokens, sequences = integer_of(arguments, "max_num_batched_tokens"), integer_of(arguments, "max_num_seqs")
    if tokens is not None and sequences is not None and 1 <= tokens < sequences:
        yield f"--max-num-batched-tokens {tokens} is less than --max-num-seqs {sequences}; raise it, or lower the other"
    active = integer_of(arguments, "max_num_active_seqs")
    if active is not None and sequences is not None and active > sequences >= 1:
        yield f"--max-num-active-seqs {active} is more than --max-num-seqs {sequences}; lower it, or raise the other"
    chooses_tools, parser = is_on(arguments, "enable_auto_tool_choice"), value_of(arguments, "tool_call_parser")
    if chooses_tools and parser is None:
        yield "--enable-auto-tool-choice needs --tool-call-parser; add it, e.g. --tool-call-parser hermes"
    if is_on(arguments, "enable_log_outputs") and not is_on(arguments, "enable_log_requests"):
        yield "--enable-log-outputs needs --enable-log-requests; add it"
    for name, checked, plugin in (
        ("tool_call_parser", chooses_tools, "tool_parser_plugin"),
        ("reasoning_parser", True, "reasoning_parser_plugin"),
    ):
        word = value_of(arguments, name)
        if word and checked and value_of(arguments, plugin) is None and (unknown := unknown_word(name, word)):
            yield f"--{name.replace('_', '-')}: {unknown}"
    method = value_of(arguments, "quantization")
    if method and method != "None" and (unknown := unknown_word("quantization", method.lower())):
        yield f"--quantization: {unknown}"


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
    if text.strip().lower() in {word.lower() for word in option.words}:
        return True
    if option.choices is not None:
        # Some options take their words in any letters, and the table can't tell which.
        return text.lower() in map(str.lower, option.choices) or str(read_integer(text)) in option.choices
    match option.type:
        case "int":
            return _is_in_bounds(option, read_integer(text, suffixes=option.suffixes))
        case "float":
            return _is_in_bounds(option, _read_number(text))
        case "json":
            return _is_json(text)
        case _:
            return True


def _is_in_bounds(option: Option, number: float | None) -> bool:
    if number is None:
        return False
    low, high = _BOUNDS.get(option.dest, (-math.inf, math.inf))
    return not low > number and not number > high


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
    if option.dest in _BOUNDS:
        low, high = _BOUNDS[option.dest]
        kind += f" from {low:g} to {high:g}" if math.isfinite(high) else f" of at least {low:g}"
    return f"; give {' or '.join([kind, *filter(None, option.words)])}"


def _did_you_mean(option: Option, text: str) -> str:
    nearest = difflib.get_close_matches(text, option.choices or (), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else ""
