"""The hash that tells a changed spec from an unchanged one, names, and the engine of an assignment."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make
from warmfleet_api.assignment import EnvVar, SimulatedEngine, SimulatedFault
from warmfleet_api.model_deployment import MAX_NAME_LENGTH, ModelDeploymentSpec
from warmfleet_operator.build.template import engine_spec, runner_name, template_hash

IMAGE = "registry.example/warmfleet-runtime:1"


def hash_of(image: str = IMAGE, **fields: Any) -> str:
    return template_hash(ModelDeploymentSpec.model_validate({"model": {"uri": "hf://a/b"}} | fields), image)


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": 7},
        {"priority": "Critical"},
        {"rollout": {"progressDeadlineSeconds": 5}},
        {"engine": {"type": "VLLM"}, "model": {"uri": "file:///x"}},
    ],
    ids=["replicas", "priority", "rollout", "defaults written out"],
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
    engine = engine_spec("llama", ModelDeploymentSpec.model_validate(body))
    assert engine.served_names == ("llama",)
    assert engine.max_model_len == 512
    assert engine.env == (EnvVar(name="A", value="b"),)
    assert engine.simulated == SimulatedEngine(
        memory=make.GIB, fault=SimulatedFault(kind="CrashAfterSeconds", after_seconds=3)
    )
