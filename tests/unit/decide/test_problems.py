"""What is refused before a runner starts, and what its message tells a person to change."""

from typing import Any

import pytest

from support import make
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.fleet import Model, Problem
from warmfleet_operator.decide.parse import parse_model
from warmfleet_operator.decide.problems import problem_of


def problem(uri: str = "file:///srv/models/qwen", **engine: Any) -> Problem | None:
    spec = ModelDeploymentSpec.model_validate({"model": {"uri": uri}, "engine": {"type": "VLLM"} | engine})
    return problem_of(make.record("llama", {}).metadata, spec)


@pytest.mark.parametrize(
    "uri", ["file:///srv/models/qwen", "hf://org/qwen", "s3://bucket/qwen", "file:///srv/..models/x"]
)
def test_a_model_from_any_source_with_known_options_has_no_problem(uri: str) -> None:
    assert problem(uri, args=["--enforce-eager"], env=[{"name": "OMP_NUM_THREADS", "value": "2"}]) is None


@pytest.mark.parametrize(
    "uri", ["file:///srv/models/../secrets", "file:///srv/models/a/../../secrets", "file:///srv/models/.."]
)
def test_a_folder_that_climbs_is_refused_whatever_may_be_read(uri: str) -> None:
    found = problem(uri=uri)
    assert found is not None and found.reason is Reason.FORBIDDEN_SOURCE
    assert found.message == f"{uri}: write the folder without '..'"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--served-model-name", "x"], "--served-model-name is set by Warmfleet: write model.servedNames instead"),
        (["--model=x"], "--model is set by Warmfleet: write model.uri instead"),
        (["--port", "9000"], "--port is set by Warmfleet: the runner gives the engine its address"),
        (["--api-key", "x"], "--api-key is set by Warmfleet: requests reach the engine only through the runner"),
        (["--download-dir", "/x"], "--download-dir is set by Warmfleet: weights come from model.uri"),
        (["--enforce-eager", "true"], "--enforce-eager takes no value"),
    ],
)
def test_options_that_clash_or_do_not_exist_are_refused(args: list[str], message: str) -> None:
    found = problem(args=args)
    assert found is not None and found.reason is Reason.INVALID_ARGS
    assert f"engine.args[0]: {message}" in found.message


@pytest.mark.parametrize(
    ("args", "engine", "message"),
    [
        (["-tp", "2"], {"parallelism": {"data": 2}}, "[0]: -tp clashes with engine.parallelism; remove one of them"),
        (["-q", "fp8"], {"quantization": "fp8"}, "[0]: -q clashes with engine.quantization; remove one of them"),
        (
            ["--enforce-eager", "--spec-tokens", "3"],
            {"speculative": {"uri": "file:///srv/models/draft", "tokens": 5}},
            "[1]: --spec-tokens clashes with engine.speculative; remove one of them",
        ),
        (["--lora-modules", "a=/b"], {}, "[0]: --lora-modules is set by Warmfleet: write model.adapters instead"),
        (["--no-enable-sleep-mode"], {}, "is set by Warmfleet: every engine can be put to sleep; remove it"),
        (["--worker-cls", "x.Y"], {}, "the worker on CPUs is one that can sleep; remove it"),
        (["--nnodes", "2"], {}, "an engine runs in one runner, on one node; write engine.parallelism"),
        (["--load-format", "pt"], {}, "--load-format pt loads pickled weights, which can execute code; remove it"),
        (["--max-num-seqs", "0"], {}, "--max-num-seqs does not take '0'; give a whole number of at least 1"),
        ([], {"quantization": "fp-8"}, "engine.quantization: vLLM 0.32.0 does not know 'fp-8'; did you mean fp8?"),
    ],
    ids=str,
)
def test_options_that_clash_with_a_field_or_a_runner_say_what_to_remove(
    args: list[str], engine: dict[str, Any], message: str
) -> None:
    found = problem(args=args, **engine)
    assert found is not None and found.reason is Reason.INVALID_ARGS
    assert message in found.message


def problem_with(**fields: Any) -> Problem | None:
    """The problem of a VLLM model with further fields of the spec."""
    body = {"model": {"uri": "file:///srv/models/qwen"}} | fields
    return problem_of(make.record("llama", {}).metadata, ModelDeploymentSpec.model_validate(body))


def test_gpus_that_options_would_leave_idle_or_lack_are_named() -> None:
    found = problem_with(resources={"gpus": 4}, engine={"args": ["-tp", "2", "--pipeline-parallel-size=1"]})
    assert found is not None and found.message == (
        "engine.args: --tensor-parallel-size 2 and --pipeline-parallel-size 1 spread the engine over 2 GPUs, and "
        "resources.gpus is 4; make them equal, or write engine.parallelism instead"
    )
    assert problem_with(resources={"gpus": 4}, engine={"args": ["-tp", "2", "-dp", "2"]}) is None
    assert problem_with(resources={"gpus": 4}) is None
    assert problem_with(engine={"args": ["-tp", "2"]}) is None, "processes on CPU"


def test_drafts_and_adapters_climb_neither() -> None:
    outside = "file:///srv/models/../draft"
    found = problem_with(engine={"speculative": {"uri": outside, "tokens": 3}})
    assert found is not None and found.reason is Reason.FORBIDDEN_SOURCE
    assert found.message == f"{outside}: write the folder without '..'"
    adapters = [{"name": "a", "uri": "file:///srv/models/a"}, {"name": "b", "uri": "file:///srv/models/../b"}]
    found = problem_with(model={"uri": "hf://org/qwen", "adapters": adapters})
    assert found is not None and found.message == "file:///srv/models/../b: write the folder without '..'"


def test_sizes_for_adapters_that_contradict_each_other_are_named() -> None:
    adapters = [{"name": "a", "uri": "file:///srv/models/a"}]
    found = problem_with(
        model={"uri": "file:///srv/models/qwen", "adapters": adapters},
        engine={"args": ["--max-loras", "4", "--max-cpu-loras", "2"]},
    )
    assert found is not None and "--max-cpu-loras 2 is less than --max-loras 4" in found.message


def test_warm_up_prompts_count_for_what_an_assignment_can_carry() -> None:
    found = problem_with(coldStart={"warmup": {"prompts": ["x" * 8192] * 8}})
    assert found is not None and "coldStart.warmup.prompts take" in found.message


def test_the_context_length_may_be_an_option_or_a_field_but_not_both() -> None:
    assert problem(args=["--max-model-len", "512"]) is None
    found = problem(args=["--max-model-len", "512"], maxModelLen=256)
    assert found is not None and "clashes with engine.maxModelLen; remove one of them" in found.message


def test_an_own_image_may_have_options_that_the_pinned_version_has_not() -> None:
    body = make.spec(
        engine={"type": "VLLM", "args": ["--from-the-future"]},
        model={"uri": "file:///srv/models/x"},
        podTemplate={"image": "registry.example/own:2"},
    )
    model = parse_model(make.record("llama", body), make.LIMITS)
    assert isinstance(model, Model) and model.problem is None


@pytest.mark.parametrize("name", ["WARMFLEET_X", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "HOME"])
def test_reserved_variables_are_refused_for_any_engine(name: str) -> None:
    for body in (
        make.spec(engine={"type": "Simulated", "env": [{"name": name}]}),
        make.spec(engine={"env": [{"name": name}]}, model={"uri": "file:///srv/models/x"}),
    ):
        model = parse_model(make.record("llama", body), make.LIMITS)
        assert isinstance(model, Model) and model.problem is not None
        assert model.problem.message.startswith(f"engine.env {name} is reserved: ")


def test_what_no_assignment_can_carry_is_refused() -> None:
    env = [{"name": f"V{number}", "value": "x" * 2048} for number in range(32)]
    found = problem(env=env)
    assert found is not None and "engine.args, engine.env and coldStart.warmup.prompts take" in found.message


def test_at_most_three_things_are_said_at_once() -> None:
    found = problem(args=["--qqq1", "--qqq2", "--qqq3", "--qqq4"])
    assert found is not None and found.message.count("is no option") == 3


def test_a_service_of_somebody_else_takes_the_name() -> None:
    assert make.model(service=make.service("llama", owner_uid="uid-default-llama")).problem is None
    for owner in (None, "uid-of-another"):
        found = make.model(service=make.service("llama", owner_uid=owner)).problem
        assert found is not None and found.reason is Reason.NAME_TAKEN
        assert "kubectl -n default delete service llama" in found.message


def test_a_spec_of_another_version_is_unreadable_and_says_where() -> None:
    found = parse_model(make.record("llama", {"model": {"uri": "hf://a/b"}, "pool": ["x"]}), make.LIMITS)
    assert found == "spec.pool: Extra inputs are not permitted"


def test_a_status_that_can_not_be_read_counts_as_none() -> None:
    model = parse_model(make.record("llama", make.spec(), status={"phase": "Running"}), make.LIMITS)
    assert isinstance(model, Model) and model.status.observed_generation == -1
