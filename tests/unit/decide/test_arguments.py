"""Options of `vllm serve` as people write them, right and wrong."""

import pytest

from support.arguments import CONTRADICTING, REFUSED, TAKEN
from warmfleet_api.vllm_options import integer_of, is_on, pinned_table, read_integer
from warmfleet_operator.decide.arguments import complaints


@pytest.mark.parametrize("arguments", TAKEN, ids=" ".join)
def test_what_vllm_takes_is_not_refused(arguments: list[str]) -> None:
    assert list(complaints(arguments)) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    REFUSED,
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_vllm_refuses_is_refused_with_what_to_write_instead(arguments: list[str], complaint: str) -> None:
    version = pinned_table().version
    assert list(complaints(arguments)) == [f"engine.args[0]: {complaint.replace('{v}', version)}"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    CONTRADICTING,
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_vllm_refuses_after_its_parser_is_refused_too(arguments: list[str], complaint: str) -> None:
    assert list(complaints(arguments)) == [f"engine.args: {complaint.replace('{v}', pinned_table().version)}"]


def test_words_of_a_plugin_are_not_judged() -> None:
    ours = ["--enable-auto-tool-choice", "--tool-call-parser", "ours", "--tool-parser-plugin", "/models/tools.py"]
    assert list(complaints(ours)) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8),
        ("8k", 8000),
        ("8K", 8192),
        ("1.5k", 1500),
        ("1.5K", None),
        ("2g", 2 * 10**9),
        ("1_000", 1000),
        (" 7 ", 7),
        ("-1", -1),
        ("8Ki", None),
        ("eight", None),
        ("", None),
        ("1.5", None),
    ],
)
def test_whole_numbers_are_read_as_vllm_reads_them(text: str, number: int | None) -> None:
    assert read_integer(text) == number


def test_the_last_word_of_an_option_counts() -> None:
    arguments = ["--max-num-seqs", "8", "--max_num_seqs=16", "--enable-lora", "--no-enable-lora", "--max-num-se", "32"]
    assert integer_of(arguments, "max_num_seqs") == 32
    assert not is_on(arguments, "enable_lora")
    assert is_on(arguments[:4], "enable_lora")


def test_a_prefix_of_several_options_is_refused_with_the_options_it_may_mean() -> None:
    found = list(complaints(["--max-model-len", "8k", "--max-num-s"]))
    assert found[0].startswith("engine.args[2]: --max-num-s is ambiguous in vLLM")
    assert "--max-num-seqs" in found[0]


def test_each_complaint_names_its_item() -> None:
    found = list(complaints(["--enforce-eager", "--max-num-seqs", "x", "--qqq"]))
    assert [text.partition(":")[0] for text in found] == ["engine.args[1]", "engine.args[3]"]


def test_the_table_knows_its_version_and_no_flag_twice() -> None:
    table = pinned_table()
    assert table.version
    flags = [flag for option in table.options for flag in option.flags]
    assert len(flags) == len(set(flags)) == len(table.by_flag())
