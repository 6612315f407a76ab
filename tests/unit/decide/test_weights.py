"""What a model reads: which entries, with which credential, and the revision that is frozen once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make, make_weights
from warmfleet_api import names
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import Priority, Tier
from warmfleet_api.weight_cache import SecretReference
from warmfleet_api.weights import entry_key
from warmfleet_operator.build.template import template_hash
from warmfleet_operator.decide.assign import assignment_of
from warmfleet_operator.decide.weights import NeededEntry, keys_of, needed_entries

REVISION = make_weights.REVISION
SECRET = SecretReference(name="token", namespace="team")


def needed(status: dict[str, Any] | None = None, namespace: str = "team", **fields: Any) -> tuple[NeededEntry, ...]:
    spec = ModelDeploymentSpec.model_validate({"model": {"uri": make_weights.URI}} | fields)
    return needed_entries(namespace, spec, ModelDeploymentStatus.model_validate(status or {}))


def test_a_model_reads_itself_its_draft_and_its_adapters_and_what_is_named_twice_once() -> None:
    adapters = [{"name": "a", "uri": "s3://models/a"}, {"name": "b", "uri": "s3://models/a"}]
    draft = {"speculative": {"uri": "hf://org/draft", "tokens": 3}}
    found = needed(model={"uri": make_weights.URI, "adapters": adapters}, engine=draft)
    assert [entry.uri for entry in found] == [make_weights.URI, "hf://org/draft", "s3://models/a"]
    assert needed(engine={"type": "Simulated"}) == ()


def test_what_no_source_was_asked_yet_is_asked_for_at_the_revision_the_spec_names() -> None:
    (unpinned,), (pinned,) = needed(), needed(model={"uri": make_weights.URI, "revision": "v1"})
    assert not unpinned.is_known and not pinned.is_known
    assert unpinned.wanted(Tier.MEMORY) == WantedEntry(key=unpinned.key, uri=make_weights.URI, tier=Tier.REMOTE)
    assert (pinned.wanted(Tier.MEMORY).tier, pinned.wanted(Tier.MEMORY).revision) == (Tier.REMOTE, "v1")
    assert len({unpinned.key, pinned.key, entry_key(make_weights.URI, REVISION)}) == 3


def test_what_the_source_answered_is_what_all_nodes_are_told() -> None:
    line = make_weights.known(bytes=7) | {"digest": "sha256:" + "0" * 64}
    (entry,) = needed({"weights": [line]})
    assert (entry.revision, entry.bytes, entry.key) == (REVISION, 7, line["key"])
    told = entry.wanted(Tier.MEMORY, Priority.HIGH, pinned=True, uses_per_day=4)
    assert told == WantedEntry(
        key=entry.key,
        uri=entry.uri,
        revision=REVISION,
        tier=Tier.MEMORY,
        priority=Priority.HIGH,
        pinned=True,
        uses_per_day=4,
        digest=line["digest"],
    )


@pytest.mark.parametrize(
    ("model", "is_asked_anew"),
    [
        ({"uri": make_weights.URI}, False),
        ({"uri": make_weights.URI, "servedNames": ["x"]}, False),
        ({"uri": make_weights.URI, "revision": "v2"}, True),
        ({"uri": "hf://org/other"}, True),
        ({"uri": make_weights.URI, "secretRef": {"name": "token"}}, True),
    ],
    ids=["the same", "another name", "another revision", "another uri", "now with a credential"],
)
def test_a_source_is_asked_again_only_for_something_else(model: dict[str, Any], is_asked_anew: bool) -> None:
    (entry,) = needed({"weights": [make_weights.known()]}, model=model)
    assert entry.is_known is not is_asked_anew


def test_a_credential_keeps_what_it_shows_inside_the_namespace() -> None:
    with_secret = {"uri": make_weights.URI, "secretRef": {"name": "token"}}
    (ours,), (theirs,), (public,) = needed(model=with_secret), needed(namespace="other", model=with_secret), needed()
    assert (ours.secret, ours.scope, ours.wanted(Tier.REMOTE).secret_ref) == (SECRET, "team", SECRET)
    assert len({ours.key, theirs.key, public.key}) == 3
    (renamed,) = needed(model=with_secret | {"secretRef": {"name": "new-token"}})
    assert renamed.key == ours.key, "which Secret holds the credential changes nothing of what is read"


@pytest.mark.parametrize(
    ("uri", "other", "goes_along"),
    [
        ("hf://org/a", "hf://other/b", True),
        ("s3://bucket/a", "s3://other/b", True),
        ("hf://org/a", "https://example.com/b", False),
        ("https://example.com/a", "https://example.com/b", True),
        ("https://example.com/a", "https://example.com.evil/b", False),
        ("oci://registry.example/a:1", "oci://other.example/a:1", False),
        ("hf://org/a", "file:///srv/models/b", False),
    ],
)
def test_a_credential_goes_to_the_source_it_was_made_for_and_no_other(uri: str, other: str, goes_along: bool) -> None:
    model = {"uri": uri, "secretRef": {"name": "token"}}
    main, draft = needed(model=model, engine={"speculative": {"uri": other, "tokens": 1}})
    assert main.secret == SECRET
    assert draft.secret == (SECRET if goes_along else None)
    assert draft.scope == ("team" if goes_along else "")


def test_the_hash_follows_what_the_user_asks_for_and_not_what_a_source_answers() -> None:
    def hash_of(**model: Any) -> str:
        spec = ModelDeploymentSpec.model_validate({"model": {"uri": make_weights.URI} | model})
        return template_hash(spec, "image")

    assert make_weights.model().hash == make_weights.asking().hash
    assert len({hash_of(), hash_of(revision="v1"), hash_of(revision="v2"), hash_of(secretRef={"name": "a"})}) == 4
    assert hash_of(secretRef={"name": "a"}) == hash_of(secretRef={"name": "b"})
    preloaded = {"model": {"uri": make_weights.URI}, "coldStart": {"preloadNodes": 3}}
    assert template_hash(ModelDeploymentSpec.model_validate(preloaded), "image") == hash_of()


def test_an_engines_keys_are_read_from_its_assignment() -> None:
    lines = [make_weights.known(uri) for uri in (make_weights.URI, "hf://org/draft", "hf://org/a")]
    model = make_weights.asking(
        status={"weights": lines},
        model={"uri": make_weights.URI, "adapters": [{"name": "a", "uri": "hf://org/a"}]},
        engine={"speculative": {"uri": "hf://org/draft", "tokens": 3}},
    )
    engine = assignment_of(model, 1).engines[0].engine
    assert list(keys_of(engine)) == [line["key"] for line in lines]
    assert engine.folder == f"{names.WEIGHTS_DIRECTORY}/{lines[0]['key']}"
    assert list(keys_of(assignment_of(make.model(), 1).engines[0].engine)) == []


uris = st.sampled_from(["hf://a/b", "hf://a/c", "s3://a/b", "file:///srv/b"])
texts = st.sampled_from(["", "v1", "v2", REVISION])


@given(st.lists(st.tuples(uris, texts, st.sampled_from(["", "team", "other"])), max_size=8), uris, texts, st.booleans())
def test_a_frozen_answer_is_only_ever_that_to_the_same_question(
    answers: list[tuple[str, str, str]], uri: str, requested: str, has_secret: bool
) -> None:
    lines = {
        line["key"]: line
        for known_uri, asked, scope in answers
        for line in [make_weights.known(known_uri, requested=asked, scope=scope)]
    }
    model = {"uri": uri} | ({"revision": requested} if requested else {})
    if has_secret and not uri.startswith("file"):
        model |= {"secretRef": {"name": "token"}}  # type: ignore[dict-item]
    (entry,) = needed({"weights": list(lines.values())}, model=model)
    expected = make_weights.known(uri, requested=requested, scope=entry.scope)["key"]
    same = [line for key, line in lines.items() if key == expected and line["requested"] == requested]
    assert entry.is_known == bool(same)
    if entry.is_known:
        assert entry.key == expected
