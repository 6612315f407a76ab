"""What clients want, and how it is forgotten."""

from dataclasses import dataclass, field

import pytest

from warmfleet_api.operator_api import DEMAND_SECONDS, DemandReport, ModelDemand
from warmfleet_operator.decide.fleet import Demand, ModelKey
from warmfleet_operator.demand import ARRIVAL_SECONDS, LAPSED_SECONDS, MAX_ROUTERS, WAKE_SECONDS, Demands

A, B = ModelKey("n", "a"), ModelKey("n", "b")


@dataclass
class Told:
    """Demands with a clock beside them."""

    now: float = 100.0
    demands: Demands = field(default_factory=Demands)

    def __post_init__(self) -> None:
        self.demands.clock = lambda: self.now

    def report(self, router: str, *models: ModelDemand) -> set[ModelKey]:
        return self.demands.report(DemandReport(router=router, models=models))


def a(held: int = 0, queued: int = 0, deadline_seconds: float | None = None) -> ModelDemand:
    return ModelDemand(namespace="n", model="a", held=held, queued=queued, deadline_seconds=deadline_seconds)


def test_levels_of_routers_add_up_and_a_report_twice_counts_once() -> None:
    told = Told()
    told.report("r1", a(held=2, queued=1, deadline_seconds=9))
    told.report("r2", a(held=3, deadline_seconds=4))
    told.report("r2", a(held=3, deadline_seconds=4))
    demand = told.demands.of(A)
    assert (demand.held, demand.queued, demand.is_wanted) == (5, 1, True)
    assert demand.deadline is not None
    assert told.demands.all() == {A: demand}


def test_what_a_router_names_no_more_is_gone_with_its_next_report() -> None:
    told = Told()
    told.report("r1", a(held=2))
    told.report("r1", ModelDemand(namespace="n", model="b", queued=1))
    assert told.demands.of(A) == Demand()
    assert told.demands.of(B) == Demand(queued=1)
    assert not told.demands.of(B).is_wanted


def test_a_router_that_is_gone_is_forgotten_by_itself() -> None:
    told = Told()
    told.report("r1", a(held=2))
    told.now += DEMAND_SECONDS
    assert told.demands.of(A) == Demand()
    assert told.demands.all() == {}


def test_only_who_was_not_wanted_before_is_news() -> None:
    told = Told()
    assert told.report("r1", a(queued=4)) == set()
    assert told.report("r1", a(held=1)) == {A}
    assert told.report("r1", a(held=2)) == set()
    assert told.report("r2", a(held=1)) == set()
    told.now += DEMAND_SECONDS
    assert told.report("r2", a(held=1)) == {A}


def test_a_wake_counts_for_a_while_and_anew_when_it_is_repeated() -> None:
    told = Told()
    told.demands.wake(A)
    told.now += WAKE_SECONDS - 1
    assert told.demands.of(A).woken_seconds == WAKE_SECONDS - 1
    told.demands.wake(A)
    told.now += 2
    assert told.demands.of(A).woken_seconds == 2
    told.now += WAKE_SECONDS
    assert not told.demands.of(A).is_wanted


def test_a_wake_ends_soon_after_the_model_serves_however_often_that_is_said() -> None:
    told = Told()
    told.demands.wake(A)
    told.demands.served(A)
    told.now += ARRIVAL_SECONDS - 1
    told.demands.served(A)
    assert told.demands.of(A).is_wanted
    told.now += 1
    assert not told.demands.of(A).is_wanted


def test_routers_without_end_are_refused_and_those_known_go_on() -> None:
    told = Told()
    for number in range(MAX_ROUTERS):
        told.report(f"r{number}", a(held=1))
    with pytest.raises(OverflowError, match="256 routers"):
        told.report("one more", a(held=1))
    told.report("r0", a(held=5))
    assert told.demands.of(A).held == MAX_ROUTERS + 4


def test_a_wake_that_is_kept_counts_though_the_model_serves_and_ends_soon_after() -> None:
    told = Told()
    assert told.demands.keep_awake(A, 15.0)
    told.demands.served(A)
    told.now += 14
    assert told.demands.of(A).is_wanted
    assert not told.demands.keep_awake(A, 15.0)
    told.now += 14
    assert told.demands.of(A).woken_seconds == 28
    told.now += 2
    assert not told.demands.of(A).is_wanted


def test_a_new_leader_knows_what_is_held_only_after_every_router_had_its_turn() -> None:
    told = Told()
    told.demands.leads()
    assert told.demands.unheard(A) == "not all routers have told yet what they hold"
    told.now += DEMAND_SECONDS
    assert told.demands.unheard(A) == ""


def test_a_router_that_falls_silent_while_it_holds_requests_leaves_them_unknown_for_a_while() -> None:
    told = Told()
    told.report("r1", a(held=3))
    told.report("r2", a(queued=3))
    told.now += DEMAND_SECONDS
    assert told.demands.unheard(A) == "router r1 held requests for it and has not been heard for 5 s"
    assert told.demands.unheard(B) == ""
    told.now += LAPSED_SECONDS
    assert told.demands.unheard(A) == ""


def test_a_router_that_is_heard_again_leaves_nothing_unknown() -> None:
    told = Told()
    told.report("r1", a(held=3))
    told.now += DEMAND_SECONDS
    assert told.demands.unheard(A)
    told.report("r1")
    assert told.demands.unheard(A) == ""
