"""Who asks: keys, closed namespaces, and what a tenant's models are to others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api.tenant import TenantSpec
from warmfleet_api.vocabulary import Priority
from warmfleet_router.catalog import ModelKey
from warmfleet_router.refusals import RefusedError
from warmfleet_router.tenants import ANYONE, TenantKey, Tenants, keys_of

TEAM = TenantKey("team", "search")
OTHER = TenantKey("other", "chat")
KEY = b"sk-0123456789abcdef"
OTHER_KEY = b"sk-fedcba9876543210"
MODEL = ModelKey("team", "llama")


def spec(**fields: object) -> TenantSpec:
    return TenantSpec.model_validate({"secretRef": {"name": "keys"}, **fields})


def shown(key: bytes, scheme: bytes = b"Bearer ") -> list[tuple[bytes, bytes]]:
    return [(b"accept", b"*/*"), (b"authorization", scheme + key)]


@pytest.fixture
def tenants() -> Tenants:
    tenants = Tenants()
    tenants.put(TEAM, spec(priority="High"), [KEY])
    tenants.put(OTHER, spec(), [OTHER_KEY])
    return tenants


def test_a_key_tells_its_tenant_and_class(tenants: Tenants) -> None:
    caller = tenants.identify(shown(KEY))
    assert (caller.tenant, caller.priority, caller.key) == ("team/search", Priority.HIGH, TEAM)
    assert tenants.identify(shown(KEY, b"bearer ")) == caller


@pytest.mark.parametrize(
    "headers",
    [[], [(b"authorization", b"Basic abc")], shown(b"none"), shown(b""), [(b"authorization", b"")], shown(KEY[:-1])],
)
def test_whoever_shows_no_known_key_is_nobody(tenants: Tenants, headers: list[tuple[bytes, bytes]]) -> None:
    assert tenants.identify(headers) is ANYONE


def test_a_closed_namespace_has_no_models_for_others(tenants: Tenants) -> None:
    assert tenants.may_ask(tenants.identify(shown(KEY)), MODEL)
    assert not tenants.may_ask(tenants.identify(shown(OTHER_KEY)), MODEL)
    assert not tenants.may_ask(ANYONE, MODEL)


def test_an_open_namespace_answers_everybody(tenants: Tenants) -> None:
    free = ModelKey("free", "llama")
    assert tenants.may_ask(ANYONE, free)
    assert tenants.may_ask(tenants.identify(shown(KEY)), free)


def test_a_tenant_may_be_bound_to_some_models(tenants: Tenants) -> None:
    tenants.put(TEAM, spec(models=["llama"]), [KEY])
    caller = tenants.identify(shown(KEY))
    assert tenants.may_ask(caller, MODEL)
    assert not tenants.may_ask(caller, ModelKey("team", "qwen"))


def test_a_key_that_is_rotated_away_is_worth_nothing_any_more(tenants: Tenants) -> None:
    tenants.put(TEAM, spec(), [b"sk-a-new-key-0000"])
    assert tenants.identify(shown(KEY)) is ANYONE
    assert tenants.identify(shown(b"sk-a-new-key-0000")).key == TEAM


def test_a_namespace_opens_when_its_last_tenant_is_gone(tenants: Tenants) -> None:
    tenants.drop(TEAM)
    assert tenants.may_ask(ANYONE, MODEL)
    assert tenants.identify(shown(KEY)) is ANYONE
    tenants.drop(TEAM)


def test_a_tenant_without_keys_closes_its_namespace_all_the_same(tenants: Tenants) -> None:
    tenants.put(TEAM, spec(), [])
    assert not tenants.may_ask(ANYONE, MODEL)


def test_short_values_are_no_keys() -> None:
    good, short = keys_of({"a": KEY + b"\n", "b": b"guess", "c": b""})
    assert good == [KEY]
    assert short == ["b", "c"]
    assert Tenants().put(TEAM, spec(), [b"guess", KEY]) == 1


def test_an_unknown_key_is_refused_where_a_known_one_would_open() -> None:
    tenants = Tenants()
    tenants.put(TEAM, spec(), [KEY])
    with pytest.raises(RefusedError) as refused:
        tenants.refuse_unknown(ANYONE, closed_to_it=True)
    assert refused.value.status == 401
    tenants.refuse_unknown(ANYONE, closed_to_it=False)
    tenants.refuse_unknown(tenants.identify(shown(KEY)), closed_to_it=True)


@given(st.permutations([(TEAM, KEY), (OTHER, KEY), (OTHER, OTHER_KEY)]))
def test_a_key_of_two_tenants_means_the_same_one_whatever_came_first(order: list[tuple[TenantKey, bytes]]) -> None:
    tenants = Tenants()
    keys: dict[TenantKey, list[bytes]] = {}
    for tenant, key in order:
        keys.setdefault(tenant, []).append(key)
        tenants.put(tenant, spec(), keys[tenant])
    assert tenants.identify(shown(KEY)).key == OTHER
