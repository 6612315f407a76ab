"""What the scheduler foretells is what happens, in worlds that are as the estimates say."""

import pytest

from warmfleet_emulator import world as worlds
from warmfleet_emulator.outcome import Foretold, percentile
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.simulating import cases_of
from warmfleet_emulator.world import World
from warmfleet_operator.decide.estimates import Estimates


def foretold(name: str) -> list[Foretold]:
    found = []
    for case in cases_of(name):
        found += World(case.scenario, POLICIES["ours"], "ours", case.requests).run().foretold
    return found


def errors(told: list[Foretold], *, has_place: bool) -> list[float]:
    """How far off forecasts were as a share of what it took, of starts that had their place or of those that waited."""
    return [abs(each.seconds - each.took_seconds) / each.took_seconds for each in told if each.has_place is has_place]


@pytest.mark.parametrize(
    ("scenario", "has_place"), [("reference", True), ("reference", False), ("two-on-one-gpu", True)]
)
def test_a_start_is_done_when_it_was_foretold(scenario: str, has_place: bool) -> None:
    """Of two models in turns the one that waits can't be foretold: it waits until nobody asks for the other."""
    off = errors(foretold(scenario), has_place=has_place)
    assert len(off) > 5
    assert percentile(off, 0.5) <= 0.05
    assert percentile(off, 0.9) <= 0.15


def test_without_knowledge_of_the_models_forecasts_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the comparison above shows a forecast that is wrong."""
    monkeypatch.setattr(worlds, "estimates_of", lambda *_: Estimates())
    assert percentile(errors(foretold("two-on-one-gpu"), has_place=True), 0.5) > 0.15
