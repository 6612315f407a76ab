"""Which endpoint a request goes to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api.vocabulary import RoutingPolicy
from warmfleet_router.breaker import FAILURES
from warmfleet_router.catalog import ModelKey
from warmfleet_router.endpoints import Address, Endpoint, Load, Runner, seed_of
from warmfleet_router.pick import POLICIES, Asked, pick, usable
from warmfleet_router.pick.affinity import BOUND, key_of

M = ModelKey("ns", "m")
NOW = Asked(now=100.0)


def endpoint(name: str, state: str = "Ready", *, wakes: bool = False, in_flight: int = 0) -> Endpoint:
    runner = Runner(name, "ns", name, Address("10.0.0.1", 8000))
    return Endpoint(M, runner, state, wakes=wakes, in_flight=in_flight, seed=seed_of(name))


def chosen(policy: RoutingPolicy, endpoints: list[Endpoint], asked: Asked = NOW) -> str | None:
    found = pick(POLICIES[policy], endpoints, asked)
    return found.runner.uid if found else None


def opened(name: str) -> Endpoint:
    each = endpoint(name)
    for _ in range(FAILURES):
        each.breaker.failed(NOW.now)
    return each


def test_every_policy_of_the_api_is_there() -> None:
    assert set(POLICIES) == set(RoutingPolicy)


@pytest.mark.parametrize("policy", list(RoutingPolicy))
def test_nothing_is_chosen_where_nothing_can_take_it(policy: RoutingPolicy) -> None:
    lost = endpoint("lost")
    lost.runner.is_lost = True
    assert chosen(policy, [endpoint("a", "Starting"), endpoint("b", "Asleep"), lost]) is None
    assert chosen(policy, []) is None


def test_better_kinds_come_first() -> None:
    ready, failed, sleeper, broken = endpoint("r"), endpoint("f"), endpoint("s", "Asleep", wakes=True), opened("b")
    asked = Asked(now=100.0, avoid=frozenset({"f"}))
    assert usable([ready, failed, sleeper, broken], asked) == [ready]
    assert usable([failed, sleeper, broken], asked) == [failed]
    assert usable([sleeper, broken], asked) == [sleeper]
    assert usable([broken], asked) == [broken], "the last one is never taken out"


def test_least_loaded_takes_the_fewest_requests() -> None:
    assert chosen(RoutingPolicy.LEAST_LOADED, [endpoint("a", in_flight=2), endpoint("b", in_flight=1)]) == "b"


def test_least_loaded_knows_of_other_routers() -> None:
    told = endpoint("a")
    told.told(Load(running=5, waiting=0, window=8, queue=8), NOW.now)
    assert chosen(RoutingPolicy.LEAST_LOADED, [told, endpoint("b", in_flight=1)]) == "b"


def test_least_recently_used_goes_round() -> None:
    endpoints = [endpoint(name) for name in "abc"]
    order = ""
    for step in range(6):
        found = pick(POLICIES[RoutingPolicy.LEAST_RECENTLY_USED], endpoints, Asked(now=100.0 + step))
        assert found is not None
        found.begin(100.0 + step)
        order += found.runner.uid
    assert order == "abcabc"


def test_the_score_prefers_the_quick_the_idle_and_the_sound() -> None:
    def slow(name: str) -> Endpoint:
        each = endpoint(name)
        each.answered(3.0)
        return each

    failing = endpoint("failing")
    failing.breaker.failed(0.0)
    for worse in (slow("slow"), endpoint("busy", in_flight=3), failing):
        assert chosen(RoutingPolicy.SCORE, [worse, endpoint("good")]) == "good"


def test_sessions_stay_and_routers_agree() -> None:
    names = [f"pod-{index}" for index in range(8)]
    for session in range(200):
        asked = Asked(now=100.0, session_key=key_of(str(session).encode()))
        here = chosen(RoutingPolicy.SESSION_AFFINITY, [endpoint(name, in_flight=session % 7) for name in names], asked)
        there = chosen(RoutingPolicy.SESSION_AFFINITY, [endpoint(name) for name in reversed(names)], asked)
        assert here == there


def test_only_the_sessions_of_an_endpoint_that_goes_move_and_they_spread() -> None:
    names = [f"pod-{index}" for index in range(8)]
    asked = [Asked(now=100.0, session_key=key_of(str(session).encode())) for session in range(2000)]
    before = [chosen(RoutingPolicy.SESSION_AFFINITY, [endpoint(name) for name in names], each) for each in asked]
    after = [chosen(RoutingPolicy.SESSION_AFFINITY, [endpoint(name) for name in names[1:]], each) for each in asked]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != names[0])
    counts = Counter(before)
    assert min(counts.values()) > 180 and max(counts.values()) < 330


@given(st.lists(st.integers(0, 20), min_size=2, max_size=8), st.binary(max_size=8))
def test_a_prefix_never_goes_to_an_endpoint_far_busier_than_the_mean(loads: list[int], prefix: bytes) -> None:
    endpoints = [endpoint(f"pod-{index}", in_flight=load) for index, load in enumerate(loads)]
    asked = Asked(now=100.0, prefix_key=key_of(prefix))
    found = pick(POLICIES[RoutingPolicy.PREFIX_AFFINITY], endpoints, asked)
    assert found is not None
    assert found.in_flight <= BOUND * (sum(loads) + 1) / len(loads)


def test_an_equal_prefix_goes_to_the_same_endpoint_while_that_has_room() -> None:
    endpoints = [endpoint(f"pod-{index}", in_flight=3) for index in range(4)]
    asked = Asked(now=100.0, prefix_key=key_of(b"You are a helpful assistant."))
    first = chosen(RoutingPolicy.PREFIX_AFFINITY, endpoints, asked)
    assert chosen(RoutingPolicy.PREFIX_AFFINITY, endpoints, asked) == first
    next(each for each in endpoints if each.runner.uid == first).in_flight = 9
    assert chosen(RoutingPolicy.PREFIX_AFFINITY, endpoints, asked) != first


def test_without_a_session_or_prefix_the_least_loaded_is_taken() -> None:
    for policy in (RoutingPolicy.SESSION_AFFINITY, RoutingPolicy.PREFIX_AFFINITY):
        assert chosen(policy, [endpoint("a", in_flight=2), endpoint("b", in_flight=1)]) == "b"
