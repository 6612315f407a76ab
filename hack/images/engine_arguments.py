"""Write down every option of `vllm serve` of the pinned version, as JSON on standard output.

Run inside the runtime image's environment, the only place where vLLM can be imported:

    python hack/images/engine_arguments.py > operator/warmfleet_api/vllm_arguments.json

The result is committed: the operator checks `spec.engine.args` against it without importing vLLM. Its shape:

    {"version": "0.32.0",
     "checkedLater": {"quantization": ["awq"]},   # words of options whose value the parser takes and vLLM then checks
     "options": [{"flags": ["--max-model-len"],   # as argparse knows them, aliases and `--no-…` included
                  "dest": "max_model_len",
                  "type": "int",                  # int | float | str | bool | json
                  "choices": null,                # or the accepted words, sorted
                  "takesValue": true,
                  "multiple": false,              # several values, or the option may be repeated
                  "booleanOptional": false,       # `--x` and `--no-x`
                  "suffixes": true,               # an int that may be written 8k, 2M, 1G
                  "words": ["auto"]}]}            # words accepted in place of a number, of JSON or of a choice

Rules of vLLM's parser that are not in the table, as they hold for every option: an underscore in a flag's
name reads as a dash; an option that takes JSON may also be given key by key (`--compilation-config.mode 3`, list
elements with `+`); `-O3` is `--optimization-level 3`; argparse itself takes any unambiguous prefix of a flag.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Literal, TypedDict

ValueType = Literal["int", "float", "str", "bool", "json"]


class Option(TypedDict):
    """One option; the module's docstring says what each field means."""

    flags: list[str]
    dest: str
    type: ValueType
    choices: list[str] | None
    takesValue: bool
    multiple: bool
    booleanOptional: bool
    suffixes: bool
    words: list[str]


class Arguments(TypedDict):
    """All options of one version."""

    version: str
    checkedLater: dict[str, list[str]]
    options: list[Option]


Converter = Callable[[str], object]


def _accepts(convert: Converter, text: str) -> bool:
    """Whether the option's own converter takes this value."""
    try:
        convert(text)
    except Exception:  # a converter may refuse in any way it likes
        return False
    return True


def _builds_object(convert: Converter) -> bool:
    """Whether the converter turns JSON text into something that is no longer text."""
    for text in ("{}", "[]"):
        with contextlib.suppress(Exception):
            if not isinstance(convert(text), str):
                return True
    return False


def _is_word(action: argparse.Action, convert: Converter, text: str) -> bool:
    """Whether the option takes this word beside its choices or instead of its type."""
    if not _accepts(convert, text):
        return False
    return action.choices is None or (convert(text) in action.choices and text not in (choices(action) or ()))


def value_type(convert: Converter | None) -> ValueType:
    """Classify a converter by what it accepts: its name says nothing, most are closures."""
    if convert is None or _accepts(convert, "a word"):
        return "str"
    if _builds_object(convert):
        return "json"
    if _accepts(convert, "1.5"):
        return "float"
    if _accepts(convert, "7"):
        return "int"
    return "json"  # a dataclass with required fields refuses even `{}`


def choices(action: argparse.Action) -> list[str] | None:
    """The accepted words in a stable order: numbers by size, then words by letter."""
    if action.choices is None:
        return None
    words = {str(word) for word in action.choices if word is not None}
    return sorted(words, key=lambda word: (not word.isdigit(), int(word) if word.isdigit() else 0, word))


def option(action: argparse.Action) -> Option:
    """One argparse action as a row of the table."""
    convert = action.type if callable(action.type) else None
    takes_value = action.nargs != 0
    kind: ValueType = value_type(convert) if takes_value else "bool"
    strict = convert if kind not in {"str", "bool"} else None
    picky = convert if strict is not None or (takes_value and action.choices is not None) else None
    return Option(
        flags=list(action.option_strings),
        dest=action.dest,
        type=kind,
        choices=choices(action),
        takesValue=takes_value,
        multiple=action.nargs in {"+", "*"} or type(action).__name__ == "_AppendAction",
        booleanOptional=isinstance(action, argparse.BooleanOptionalAction),
        suffixes=strict is not None and _accepts(strict, "1k"),
        words=[word for word in ("auto", "None", "") if picky is not None and _is_word(action, picky, word)],
    )


def arguments(parser: argparse.ArgumentParser, version: str, checked_later: dict[str, list[str]]) -> Arguments:
    """The table of a parser's options, sorted by first flag; positionals and `--help` are no options."""
    options = [option(action) for action in parser._actions if action.option_strings and action.dest != "help"]
    return Arguments(
        version=version, checkedLater=checked_later, options=sorted(options, key=lambda row: row["flags"][0])
    )


def render(table: Arguments) -> str:
    """The committed form: one option a line, so that a version change is readable in a diff."""
    rows = ",\n".join("  " + json.dumps(row, separators=(",", ":")) for row in table["options"])
    later = ",\n".join(f"  {json.dumps(dest)}: {json.dumps(words)}" for dest, words in table["checkedLater"].items())
    return (
        f'{{"version": {json.dumps(table["version"])},\n "checkedLater": {{\n{later}\n }},\n'
        f' "options": [\n{rows}\n ]}}\n'
    )


def checked_later() -> dict[str, list[str]]:
    """Words that vLLM itself knows, by option; plug-ins may bring others."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS  # noqa: PLC0415
    from vllm.reasoning import ReasoningParserManager  # noqa: PLC0415
    from vllm.tool_parsers import ToolParserManager  # noqa: PLC0415

    return {
        "quantization": sorted(QUANTIZATION_METHODS),
        "reasoning_parser": ReasoningParserManager.list_registered(),
        "tool_call_parser": ToolParserManager.list_registered(),
    }


def main() -> None:
    """Print the table of the installed vLLM."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    version = importlib.metadata.version("vllm").split("+", maxsplit=1)[0]
    sys.stdout.write(render(arguments(make_arg_parser(FlexibleArgumentParser()), version, checked_later())))


if __name__ == "__main__":
    main()
