"""A whole simulation: one scenario under several policies, each in a world of its own."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from warmfleet_emulator.demand import Request
from warmfleet_emulator.judging import Judge, Judgement
from warmfleet_emulator.outcome import Outcome
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.reading import find, read
from warmfleet_emulator.scenario import Scenario
from warmfleet_emulator.traces import find_trace, read_trace, requests_of
from warmfleet_emulator.world import World


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario with the requests that come."""

    scenario: Scenario
    requests: list[Request] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a policy made of a case."""

    outcome: Outcome
    judgement: Judgement


def cases_of(name: str, trace: str | None = None) -> list[Case]:
    """Read the fleets of a file or of a scenario that ships, with their traces; `trace` overrules what they name.

    Raises:
        ScenarioError: it can't be read; the message has line, field and what to write.
        OSError: it can't be read at all.
    """
    path = find(name)
    cases = []
    for scenario in read(path):
        named = trace or (scenario.trace.file if scenario.trace is not None else "")
        requests = requests_of(scenario, read_trace(find_trace(named, path))) if named else None
        cases.append(Case(scenario, requests))
    return cases


def simulate(case: Case, policies: Iterable[str]) -> Iterator[Result]:
    """Let a case happen once under each policy."""
    for name in policies:
        world = World(case.scenario, POLICIES[name], name, case.requests)
        outcome = world.run()
        yield Result(outcome, Judge(case.scenario, world.models).judge(outcome))
