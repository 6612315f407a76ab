"""`warmfleet simulate`: what it prints and writes, and what it says of wrong fleets and traces."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from warmfleet_cli.__main__ import main
from warmfleet_emulator.demand import Request
from warmfleet_emulator.reading import ScenarioError, read, shipped_scenarios
from warmfleet_emulator.scenario import Scenario
from warmfleet_emulator.simulating import cases_of
from warmfleet_emulator.traces import read_trace, requests_of

FLEET = """\
nodes:
  - {name: n, gpus: 2, load: 1Gi}
pools:
  - name: default
    spec: {replicas: 2, gpus: 1, cpu: "1", memory: 32Gi}
models:
  - name: m
    count: 2
    spec: {resources: {gpus: 1, gpuMemory: 40Gi, memory: 16Gi}}
    start: {bytes: 4Gi, cpuSeconds: 1}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


def problem_of(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "fleet.yaml")


def test_figures_of_every_policy_are_written_for_machines(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(fleet), "--output", "json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert set(case["policies"]) == {"ours", "arrival", "priority", "all-at-once"}
    for figures in case["policies"].values():
        assert figures["makespan_over_bound"] >= 1
        assert figures["weighted_completion_over_bound"] >= 1
        assert set(figures["p50_seconds"]) == set(figures["p99_seconds"]) == {"Normal"}


def test_a_table_is_printed_for_people(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(fleet), "--policy", "arrival"]) == 0
    printed = capsys.readouterr().out
    assert "arrival" in printed
    assert "all-at-once" not in printed
    assert "MAKESPAN" in printed


def test_a_picture_shows_each_start(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.svg"
    assert main(["simulate", str(fleet), "--policy", "arrival", "--picture", str(path)]) == 0
    capsys.readouterr()
    texts = [each.text or "" for each in ElementTree.parse(path).iter() if each.tag.endswith("title")]
    for model in ("m-0", "m-1"):
        assert any(text.startswith(f"{model}: link") for text in texts)
        assert any(text.startswith(f"{model}: Ready") for text in texts)


def test_a_picture_that_cannot_be_written_says_where_to(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(fleet), "--policy", "arrival", "--picture", "/nowhere/out.svg"]) == 1
    assert "name another file after --picture" in capsys.readouterr().err


def test_what_is_not_there_is_named_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "nothing.yaml"]) == 2
    assert "reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("gpus: 2", "gpuz: 2", 2, "nodes.0.gpuz: there is no such field"),
        ("name: n,", "", 2, "nodes.0.name: it is missing"),
        (
            "cpuSeconds: 1",
            "cpuSeconds: -1",
            10,
            "models.0.start.cpuSeconds: Input should be greater",
        ),
        ("bytes: 4Gi", "bytes: lots", 10, "models.0.start.bytes"),
        ("name: default", "name: other", 1, ""),
        ("spec: {resources", "spec: {priority: Urgent, resources", 9, "models.0.spec.priority: Input should be"),
        ("spec: {resources", "spec: {pools: [nix], resources", 9, "there is no pool nix; add it to pools"),
        ("count: 2", "count: 2\n    wantedAtSeconds: .inf", 9, "models.0.wantedAtSeconds"),
        ("start: {", "start: {nodes: [n-7], ", 10, "there is no node n-7; there are n"),
        ("load: 1Gi", "load: 1Gi, cacheMemory: 1Gi", 2, "nodes.0.cacheMemory: 1Gi is less than 8.0 GiB"),
        ("models:", "models: []\nother:", 6, "models"),
        ("nodes:", "nodes: [", 2, "this is no YAML"),
    ],
)
def test_wrong_fields_are_told_with_line_field_and_what_to_write(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    path = tmp_path / "fleet.yaml"
    if not said:  # a model may do without a pool: it gets runners of its own
        path.write_text(FLEET.replace(old, new))
        assert len(read(path)) == 1
        return
    problem = problem_of(path, FLEET.replace(old, new, 1))
    assert said in problem
    assert f"fleet.yaml:{line}:" in problem


@pytest.mark.parametrize("text", ["", "---\n", "- 1\n", "nodes: 3\n", "just words\n"])
def test_what_is_no_fleet_is_refused(tmp_path: Path, text: str) -> None:
    assert "fleet.yaml" in problem_of(tmp_path / "fleet.yaml", text)


def test_sizes_that_no_gpu_has_end_as_not_ready_and_say_why(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write_text(FLEET.replace("gpus: 1, gpuMemory", "gpus: 4, gpuMemory") + "untilSeconds: 30\n")
    assert main(["simulate", str(fleet), "--policy", "ours", "--output", "json"]) == 0
    figures = json.loads(capsys.readouterr().out)["cases"][0]["policies"]["ours"]
    assert set(figures["not_ready"]) == {"m-0", "m-1"}
    assert "4 nvidia.com/gpu" in figures["not_ready"]["m-0"]


@pytest.mark.parametrize("name", shipped_scenarios())
def test_every_scenario_that_ships_can_be_read_with_its_trace(name: str) -> None:
    assert all(case.scenario.models for case in cases_of(name))


# Traces ---------------------------------------------------------------------------------------------------------------


def test_both_formats_of_traces_are_read(tmp_path: Path) -> None:
    azure, mooncake = tmp_path / "a.csv", tmp_path / "m.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04.5,20,2\n2023-11-16 18:17:03.9799600,10,1\n"
    )
    mooncake.write_text('{"timestamp": 1000, "input_length": 10, "output_length": 1, "hash_ids": [0]}\n')
    assert [(round(each.time, 2), each.prompt_tokens) for each in read_trace(azure)] == [(0, 10), (0.52, 20)]
    assert [(each.time, each.answer_tokens) for each in read_trace(mooncake)] == [(0, 1)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", ""),
        ("t.csv", "a,b\n1,2\n"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9,-1,2\n"),
        ("t.jsonl", "{}\n"),
        ("t.jsonl", "not json\n"),
        ("t.jsonl", "[]\n"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_fields_it_needs(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ScenarioError, match=r"it needs columns|it holds no request"):
        read_trace(path)


def test_a_trace_asks_for_few_models_at_a_time_the_same_ones_each_time(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    lines = (f'{{"timestamp": {1000 * second}, "input_length": 8000, "output_length": 60}}' for second in range(300))
    trace.write_text("\n".join(lines))
    resources = {"gpus": 1}
    scenario = Scenario.model_validate(
        {
            "nodes": [{"name": "n", "gpus": 2}],
            "models": [{"name": "m", "count": 10, "spec": {"resources": resources}}],
            "trace": {"windowSeconds": 100, "activeModels": 2},
        }
    )
    requests = requests_of(scenario, read_trace(trace))
    assert requests == requests_of(scenario, read_trace(trace))
    assert [each.serve_seconds for each in requests] == [2.0] * 300
    for begin in (0, 100, 200):
        assert len({each.model for each in _between(requests, begin, begin + 100)}) == 2


def _between(requests: list[Request], begin: float, end: float) -> list[Request]:
    return [each for each in requests if begin <= each.time < end]
