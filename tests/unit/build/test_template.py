"""The hash that tells a changed spec from an unchanged one, names, and the engine of an assignment."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make
from warmfleet_api.assignment import (
    AdmissionLimits,
    Batching,
    EngineSpec,
    EnvVar,
    LoraAdapter,
    Parallelism,
    Serving,
    SimulatedEngine,
    SimulatedFault,
    Speculative,
    Warmup,
)
from warmfleet_api.model_deployment import MAX_NAME_LENGTH, ModelDeploymentSpec
from warmfleet_api.vocabulary import BatchingPolicy, Priority, WarmupMode
from warmfleet_operator.build.template import engine_spec, runner_name, serving_of, template_hash, warmup_of
from warmfleet_operator.decide.weights import uris_of

IMAGE = "registry.example/warmfleet-runtime:1"


def hash_of(image: str = IMAGE, **fields: Any) -> str:
    return template_hash(ModelDeploymentSpec.model_validate({"model": {"uri": "hf://a/b"}} | fields), image)


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": 7},
        {"priority": "Critical"},
        {"rollout": {"progressDeadlineSeconds": 5}},
        {"serving": {"queue": {"maxRequests": 5}, "mergeWindowMilliseconds": 5}},
        {"coldStart": {"warmup": {"prompts": ["You are"]}}},
        {"pools": ["h100"]},
        {"idle": {"afterSeconds": 600}},
        {"resources": {"gpus": 0}},
        {"engine": {"type": "VLLM"}, "model": {"uri": "file:///x"}},
    ],
    ids=["replicas", "priority", "rollout", "serving", "warm-up", "pools", "idle", "no GPUs", "defaults written out"],
)
def test_what_changes_no_engine_changes_no_hash(fields: dict[str, Any]) -> None:
    base: dict[str, Any] = (
        {"engine": {"type": "Simulated"}} if "engine" not in fields else {"model": {"uri": "file:///x"}}
    )
    assert hash_of(**base) == hash_of(**(base | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"model": {"uri": "hf://a/c"}},
        {"model": {"uri": "hf://a/b", "servedNames": ["x"]}},
        {"engine": {"type": "Simulated", "maxModelLen": 8}},
        {"engine": {"type": "Simulated", "env": [{"name": "A"}]}},
        {"engine": {"type": "Simulated", "parallelism": {"tensor": 2}}},
        {"resources": {"gpus": 1}},
        {"resources": {"memory": "2Gi"}},
        {"podTemplate": {"nodeSelector": {"a": "b"}}},
        {"podTemplate": {"image": "registry.example/own:1"}},
    ],
    ids=str,
)
def test_what_a_runner_depends_on_changes_the_hash(fields: dict[str, Any]) -> None:
    base: dict[str, Any] = {"engine": {"type": "Simulated"}}
    assert hash_of(**base) != hash_of(**(base | fields))


def test_the_image_counts_as_it_is_used() -> None:
    base: dict[str, Any] = {"engine": {"type": "Simulated"}}
    assert hash_of(**base) != hash_of("registry.example/warmfleet-runtime:2", **base)
    own = base | {"podTemplate": {"image": "registry.example/own:1"}}
    assert hash_of(**own) == hash_of("registry.example/warmfleet-runtime:2", **own)


def test_the_hash_stays_the_same_over_versions_of_the_operator() -> None:
    """Pinned: another value here restarts every runner of every user at the next upgrade."""
    assert hash_of(engine={"type": "Simulated"}, resources={"memory": "2Gi"}) == "7f102c4ba9"


owners = st.from_regex(r"[a-z]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True)
numbers = st.integers(0, 9999)


@given(st.tuples(owners, numbers, numbers), st.tuples(owners, numbers, numbers))
def test_names_never_collide(one: tuple[str, int, int], other: tuple[str, int, int]) -> None:
    assert (runner_name(*one) == runner_name(*other)) == (one == other)


def test_the_longest_name_is_a_host_name() -> None:
    assert len(runner_name("x" * MAX_NAME_LENGTH, 999, 99_999_999)) <= 63


def test_the_engine_of_an_assignment_says_all_that_its_start_depends_on() -> None:
    body = make.spec(
        engine={
            "type": "Simulated",
            "maxModelLen": 512,
            "env": [{"name": "A", "value": "b"}],
            "simulated": {"memory": "1Gi", "fault": {"kind": "CrashAfterSeconds", "afterSeconds": 3}},
        }
    )
    engine = engine_spec("llama", ModelDeploymentSpec.model_validate(body), lambda uri: uri)
    assert engine.served_names == ("llama",)
    assert engine.max_model_len == 512
    assert engine.env == (EnvVar(name="A", value="b"),)
    assert engine.simulated == SimulatedEngine(
        memory=make.GIB, fault=SimulatedFault(kind="CrashAfterSeconds", after_seconds=3)
    )


def vllm_spec(**fields: Any) -> ModelDeploymentSpec:
    return ModelDeploymentSpec.model_validate({"model": {"uri": "file:///srv/models/m"}} | fields)


def engine_of(spec: ModelDeploymentSpec) -> EngineSpec:
    return engine_spec("m", spec, lambda uri: uri.replace("file:///srv/models", "/weights"))


def test_an_engine_is_told_where_in_the_runner_its_model_draft_and_adapters_are() -> None:
    spec = vllm_spec(
        model={"uri": "file:///srv/models/m", "adapters": [{"name": "sql", "uri": "file:///srv/models/sql"}]},
        engine={"speculative": {"uri": "file:///srv/models/draft", "tokens": 5}, "quantization": "fp8"},
    )
    engine = engine_of(spec)
    assert (engine.folder, engine.quantization) == ("/weights/m", "fp8")
    assert engine.speculative == Speculative(uri="file:///srv/models/draft", folder="/weights/draft", tokens=5)
    assert engine.adapters == (LoraAdapter(name="sql", uri="file:///srv/models/sql", folder="/weights/sql"),)
    assert uris_of(spec) == ("file:///srv/models/m", "file:///srv/models/draft", "file:///srv/models/sql")


def test_what_is_read_twice_is_named_once_and_a_simulated_engine_reads_nothing() -> None:
    itself = vllm_spec(engine={"speculative": {"uri": "file:///srv/models/m", "tokens": 5}})
    assert uris_of(itself) == ("file:///srv/models/m",)
    assert uris_of(vllm_spec(engine={"type": "Simulated"})) == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Parallelism()),
        ({"resources": {"gpus": 1}}, Parallelism()),
        ({"resources": {"gpus": 4}}, Parallelism(tensor=4)),
        ({"resources": {"gpus": 4}, "engine": {"args": ["-pp", "4"]}}, Parallelism()),
        ({"resources": {"gpus": 4}, "engine": {"type": "Simulated"}}, Parallelism()),
        ({"engine": {"parallelism": {"tensor": 2, "data": 3}}}, Parallelism(tensor=2, data=3)),
        ({"resources": {"gpus": 0}, "engine": {"parallelism": {"tensor": 2}}}, Parallelism(tensor=2)),
    ],
    ids=str,
)
def test_an_engine_is_spread_over_all_its_gpus(fields: dict[str, Any], expected: Parallelism) -> None:
    assert engine_of(vllm_spec(**fields)).parallelism == expected


def test_gpus_are_those_of_parallelism_where_none_are_named() -> None:
    parallel = {"engine": {"parallelism": {"tensor": 2, "pipeline": 2}}}
    assert vllm_spec(**parallel).gpus == 4
    assert vllm_spec(**parallel, resources={"gpus": 0}).gpus == 0
    assert vllm_spec(resources={"gpus": 3}).gpus == 3
    assert vllm_spec().gpus == 0


def test_serving_and_warm_up_say_all_that_the_object_says() -> None:
    spec = vllm_spec(
        priority="High",
        serving={
            "queue": {"maxRequests": 9, "timeoutSeconds": 8},
            "batching": {"policy": "Dynamic", "maxSize": 7, "maxWaitMilliseconds": 0},
            "mergeWindowMilliseconds": 6,
            "limits": {
                "sequencesPerTenant": 5,
                "tokensPerTenant": 4,
                "sequencesPerSession": 3,
                "tokensPerSession": 2,
            },
        },
        coldStart={"warmup": {"mode": "Progressive", "requests": 2, "prompts": ["a", "b"]}},
    )
    assert serving_of(spec) == Serving(
        priority=Priority.HIGH,
        max_requests=9,
        timeout_seconds=8,
        batching=Batching(policy=BatchingPolicy.DYNAMIC, max_size=7, max_wait_milliseconds=0),
        merge_window_milliseconds=6,
        limits=AdmissionLimits(
            sequences_per_tenant=5, tokens_per_tenant=4, sequences_per_session=3, tokens_per_session=2
        ),
    )
    assert warmup_of(spec) == Warmup(mode=WarmupMode.PROGRESSIVE, requests=2, prompts=("a", "b"))


def test_an_object_without_a_word_on_serving_gets_the_defaults_of_the_wire() -> None:
    assert serving_of(vllm_spec()) == Serving()
    assert warmup_of(vllm_spec()) == Warmup()
