"""Options of `vllm serve` as people write them, right and wrong."""

import pytest

from warmfleet_api.vllm_options import pinned_table
from warmfleet_operator.decide.arguments import complaints


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--enforce-eager"],
        ["--max-num-seqs", "8"],
        ["--max-num-seqs=8"],
        ["--max_num_seqs", "8"],
        ["--max-num-batched-tokens", "8k"],
        ["--max-model-len", "auto"],
        ["-tp", "2"],
        ["-O3"],
        ["--no-enable-prefix-caching"],
        ["--compilation-config", '{"level": 3}'],
        ["--compilation-config.level", "3"],
        ["--cudagraph-capture-sizes", "1", "2", "4"],
        ["--seed", "-1"],
        ["--dtype", "bfloat16"],
        ["--enable-chunked-prefil"],
        ["--gpu-memory-utilization", "0.9"],
    ],
    ids=" ".join,
)
def test_what_vllm_takes_is_not_refused(arguments: list[str]) -> None:
    assert list(complaints(arguments)) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--enable-chunk-prefill"],
            "--enable-chunk-prefill is no option of vLLM {v}; did you mean --enable-chunked-prefill?",
        ),
        (["--qqq"], "--qqq is no option of vLLM {v}; see `vllm serve --help=all`"),
        (["--max-num-seqs", "eight"], "--max-num-seqs does not take 'eight'; give a whole number of at least 1"),
        (["--max-num-seqs"], "--max-num-seqs needs a value; give a whole number of at least 1"),
        (["--max-num-seqs", "1", "2"], "--max-num-seqs takes one value, '2' is left over"),
        (["--max-num-seqs 8"], '\'--max-num-seqs 8\' is one item; write two: ["--max-num-seqs", "8"]'),
        (["--enforce-eager", "true"], "--enforce-eager takes no value, 'true' is given"),
        (["--enforce-eager=true"], "--enforce-eager takes no value, 'true' is given"),
        (
            ["--scheduling-policy", "prioirty"],
            "--scheduling-policy does not take 'prioirty'; one of fcfs, priority; did you mean priority?",
        ),
        (["--compilation-config", "{level: 3"], "--compilation-config does not take '{level: 3'; give JSON"),
        (
            ["--gpu-memory-utilization", "most"],
            "--gpu-memory-utilization does not take 'most'; give a number from 0 to 1",
        ),
        (["eager"], "'eager' is no option; options start with --"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_vllm_refuses_is_refused_with_what_to_write_instead(arguments: list[str], complaint: str) -> None:
    version = pinned_table().version
    assert list(complaints(arguments)) == [f"engine.args[0]: {complaint.replace('{v}', version)}"]


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
