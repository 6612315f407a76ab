"""A canary at the router: who gets which share of the requests, and where they go when one side has nobody."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.router import RoutedFleet, ScriptedRunner, breaks, routed_fleet, status
from warmfleet_api import names
from warmfleet_kube.objects import Metadata
from warmfleet_router.catalog import ModelKey, Split, parse
from warmfleet_router.pick import Shares
from warmfleet_router.pick.affinity import key_of
from warmfleet_router.records import ModelDeployment

OLD, NEW = "aaaaaaaaaa", "bbbbbbbbbb"
M = ModelKey("ns", "m")
REQUESTS = 1000


def told(weight: int | None = None) -> dict[str, Any]:
    return {"rollout": {"stableHash": OLD, **({"canaryWeight": weight} if weight else {})}}


async def both(fleet: RoutedFleet, **spec: Any) -> tuple[ScriptedRunner, ScriptedRunner]:
    fleet.model(rollout={"canaryWeight": 10}, status=told(), **spec)
    return await fleet.runner(hash_=OLD), await fleet.runner(hash_=NEW)


async def ask(fleet: RoutedFleet, count: int, *, headers: Mapping[str, str] | None = None) -> list[int]:
    return [(await fleet.reply(headers=headers))[0] for _ in range(count)]


@given(weight=st.integers(1, 99), begun=st.integers(0, 250))
def test_of_any_hundred_requests_in_a_row_as_many_try_the_canary_as_its_weight_says(weight: int, begun: int) -> None:
    shares = Shares()
    for _ in range(begun):
        shares.tries_canary(M, Split(OLD, weight), None)
    assert sum(shares.tries_canary(M, Split(OLD, weight), None) for _ in range(100)) == weight


@given(weight=st.integers(1, 99), session=st.binary(min_size=1, max_size=64))
def test_all_routers_take_a_session_to_the_same_side_whatever_came_before(weight: int, session: bytes) -> None:
    fresh, busy, split = Shares(), Shares(), Split(OLD, weight)
    for _ in range(7):
        busy.tries_canary(M, split, None)
    sides = {each.tries_canary(M, split, key_of(session)) for each in (fresh, busy, busy)}
    assert len(sides) == 1


def test_sessions_are_shared_by_the_weight() -> None:
    shares, split = Shares(), Split(OLD, 10)
    tries = sum(shares.tries_canary(M, split, key_of(b"session %d" % number)) for number in range(20_000))
    assert 0.09 <= tries / 20_000 <= 0.11


@pytest.mark.parametrize(
    ("spec_weight", "rollout", "split"),
    [
        (10, {"stableHash": OLD}, Split(OLD, 10)),
        (20, {"stableHash": OLD, "canaryWeight": 10}, Split(OLD, 20)),
        (None, {"stableHash": OLD, "canaryWeight": 10}, Split(OLD, 10)),
        (None, {"stableHash": OLD}, None),
        (10, {}, None),
    ],
    ids=["from the spec at once", "changed", "taken back, not gone yet", "none", "nothing has served yet"],
)
def test_the_split_is_known_before_a_canary_serves_and_until_it_is_gone(
    spec_weight: int | None, rollout: dict[str, Any], split: Split | None
) -> None:
    spec: dict[str, Any] = {"model": {"uri": "hf://a/b"}}
    if spec_weight is not None:
        spec["rollout"] = {"canaryWeight": spec_weight}
    record = ModelDeployment(metadata=Metadata(name="m", namespace="ns"), spec=spec, status={"rollout": rollout})
    assert parse(record).split == split


async def test_a_tenth_of_a_thousand_requests_goes_to_the_canary() -> None:
    async with routed_fleet() as fleet:
        old, new = await both(fleet)
        assert set(await ask(fleet, REQUESTS)) == {200}
        assert (len(old.served), len(new.served)) == (900, 100)


async def test_two_routers_that_know_nothing_of_each_other_keep_the_share() -> None:
    async with routed_fleet() as one, routed_fleet() as other:
        sides = [await both(one), await both(other)]
        for number in range(400):
            await ask(one if number % 3 else other, 1)
        assert abs(sum(len(new.served) for _, new in sides) / 400 - 0.1) <= 0.02


async def test_without_the_weight_both_are_alike() -> None:
    async with routed_fleet() as fleet:
        fleet.model(status=told(), serving={"routing": {"policy": "LeastRecentlyUsed"}})
        old, new = await fleet.runner(hash_=OLD), await fleet.runner(hash_=NEW)
        await ask(fleet, 100)
        assert (len(old.served), len(new.served)) == (50, 50), "the control: it is the weight that splits"


async def test_a_session_stays_on_its_side() -> None:
    async with routed_fleet() as fleet:
        old, new = await both(fleet, serving={"routing": {"policy": "SessionAffinity"}})
        trying = next(f"s{number}" for number in range(1000) if key_of(b"s%d" % number) % 100 < 10)
        await ask(fleet, 20, headers={names.HEADER_SESSION: trying})
        assert (len(old.served), len(new.served)) == (0, 20)


async def test_a_request_goes_to_the_other_side_where_its_own_has_nobody() -> None:
    async with routed_fleet() as fleet:
        old, new = await both(fleet)
        fleet.label(new, hash_=NEW, m="Draining")
        assert set(await ask(fleet, 20)) == {200}
        fleet.label(new, hash_=NEW, m="Ready")
        fleet.label(old, hash_=OLD, m="Draining")
        assert set(await ask(fleet, 20)) == {200}
        assert (len(old.served), len(new.served)) == (20, 20)


@pytest.mark.parametrize("behaviour", [breaks, status(500)], ids=["breaks connections", "answers with errors"])
async def test_a_canary_that_fails_before_the_first_byte_fails_no_request(behaviour: Any) -> None:
    async with routed_fleet() as fleet:
        old, new = await both(fleet)
        new.behaviour = behaviour
        assert set(await ask(fleet, 100)) == {200}
        assert len(old.served) == 100
