"""Which model a request means."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api.vocabulary import RoutingPolicy
from warmfleet_kube.objects import Metadata
from warmfleet_router.catalog import Catalog, Model, ModelKey, ServedName, parse, rename
from warmfleet_router.records import ModelDeployment


def _model(namespace: str, name: str, *served: str, created: str = "2026-01-01T00:00:00Z", **fields: Any) -> Model:
    names = tuple(map(ServedName, served or (name,)))
    return Model(ModelKey(namespace, name), created, names, **fields)


def _catalog(*models: Model) -> Catalog:
    catalog = Catalog()
    for model in models:
        catalog.put(model)
    return catalog


def _means(catalog: Catalog, name: str) -> str | None:
    found = catalog.find(name)
    return None if found is None else str(found[0].key)


def test_a_bare_name_means_the_oldest_model_of_it_whoever_comes_first() -> None:
    old = _model("b", "m", created="2026-01-01T00:00:00Z")
    new = _model("a", "m", created="2026-01-02T00:00:00Z")
    for catalog in (_catalog(old, new), _catalog(new, old)):
        assert _means(catalog, "m") == "b/m"
        assert _means(catalog, "a/m") == "a/m"


def test_a_name_with_its_namespace_can_not_be_taken_over() -> None:
    catalog = _catalog(_model("evil", "x", "team/m", created="2020-01-01T00:00:00Z"), _model("team", "m"))
    assert _means(catalog, "team/m") == "team/m"
    assert [name for name, _, _ in catalog.names()] == ["evil/team/m", "m"]


def test_to_whoever_may_not_ask_for_a_model_it_is_not_there() -> None:
    catalog = _catalog(_model("b", "m"), _model("a", "m", created="2026-01-02T00:00:00Z"))

    def may_ask(key: ModelKey) -> bool:
        return key.namespace == "a"

    found = catalog.find("m", may_ask)
    assert found is not None and found[0].key == ModelKey("a", "m"), "the oldest it may ask for"
    assert catalog.find("b/m", may_ask) is None
    assert [name for name, _, _ in catalog.names(may_ask)] == ["m"]
    assert [name for name, _, _ in catalog.names()] == ["a/m", "m"]


def test_a_model_that_is_being_deleted_gives_its_name_to_another_and_keeps_it_else() -> None:
    old, new = _model("b", "m"), _model("a", "m", created="2026-01-02T00:00:00Z")
    catalog = _catalog(old, new)
    assert _means(catalog, "m") == "b/m"
    catalog.put(replace(old, is_terminating=True))
    assert _means(catalog, "m") == "a/m"
    assert _means(catalog, "b/m") == "b/m"
    catalog.drop(new.key)
    assert _means(catalog, "m") == "b/m"


def test_names_with_slashes_are_found() -> None:
    catalog = _catalog(_model("ns", "m", "meta/llama"))
    assert _means(catalog, "meta/llama") == _means(catalog, "ns/meta/llama") == "ns/m"


def test_a_name_falls_to_the_next_model_when_the_oldest_goes() -> None:
    catalog = _catalog(_model("b", "m"), _model("a", "m", created="2026-01-02T00:00:00Z"))
    catalog.drop(ModelKey("b", "m"))
    assert _means(catalog, "m") == "a/m"
    catalog.drop(ModelKey("a", "m"))
    assert _means(catalog, "m") is None


def test_a_new_version_of_a_model_is_found_under_all_its_names() -> None:
    catalog = _catalog(_model("a", "m", "x", "y"), _model("b", "m", "x", created="2026-01-02T00:00:00Z"))
    catalog.put(_model("a", "m", "x", "y", replicas=0))
    for name in ("x", "y", "a/x", "a/y"):
        found = catalog.find(name)
        assert found is not None and found[0].is_stopped
    assert _means(catalog, "b/x") == "b/m"


def test_an_object_is_read_with_the_defaults_of_its_schema() -> None:
    record = ModelDeployment(
        metadata=Metadata(name="m", namespace="ns", creation_timestamp="2026-01-01T00:00:00Z"),
        spec={
            "model": {"uri": "hf://a/b", "adapters": [{"name": "sql", "uri": "hf://a/c"}]},
            "serving": {"routing": {"policy": "PrefixAffinity"}},
        },
        status={
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Asleep", "message": ""},
                {"type": "Stalled", "status": "True", "reason": "NeverFits", "message": "no node is large enough"},
            ],
            "pendingStart": {"position": 2, "of": 3, "readyTime": "2026-01-01T00:00:05Z", "summary": "2 of 3"},
        },
    )
    model = parse(record)
    assert model.served == (ServedName("m"), ServedName("sql", "m"))
    assert (model.hold_requests, model.hold_seconds, model.queue_requests) == (1024, 300, 256)
    assert model.policy is RoutingPolicy.PREFIX_AFFINITY
    assert (model.state, model.stalled) == ("Asleep", "no node is large enough")
    assert model.pending is not None and model.pending.of == 3


def test_an_object_of_a_later_version_says_what_can_not_be_read() -> None:
    record = ModelDeployment(metadata=Metadata(name="m", namespace="ns"), spec={"model": 1})
    with pytest.raises(ValueError, match="ns/m: "):
        parse(record)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_renaming_changes_the_name_alone(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode({**fields, "model": "ns/m"})
    assert msgspec.json.decode(rename(body, "m")) == {**fields, "model": "m"}


def test_renaming_keeps_numbers_as_they_were_written() -> None:
    assert rename(b'{"model": "ns/m", "temperature": 0.10, "n": 1e2}', "m") == (
        b'{"model":"m","temperature":0.10,"n":1e2}'
    )
