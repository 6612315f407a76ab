"""The emulated world: one fleet, one policy, from the first model applied until nobody wants anything any more.

    after each instant in which something changed: snapshot → policy → its decisions, carried out

What the policy decides is done as `apply` would have the API server do it, at once and without fail; kubelets, runners,
node agents and clients take the time that the scenario says.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import DesiredState, IdlePolicy, StartType, WakePolicy
from warmfleet_emulator import losses, snapshot
from warmfleet_emulator.clock import Clock
from warmfleet_emulator.demand import Clients, Request
from warmfleet_emulator.invariants import broken
from warmfleet_emulator.models import LIMITS, ROUTABLE_SECONDS, EmulatedModel, estimates_of, models_of, pools_of
from warmfleet_emulator.nodes import EmulatedNode
from warmfleet_emulator.outcome import Foretold, Outcome, Span, Start
from warmfleet_emulator.runners import EmulatedRunner, Hosted
from warmfleet_emulator.scenario import LossBlock, Scenario, numbered
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Fleet, Model
from warmfleet_operator.decide.standby_status import as_told
from warmfleet_operator.decide.switches import switched
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.records import Pod
from warmfleet_runtime.machine.state import Engine, Phase

Policy = Callable[[Fleet, datetime], Decisions]
"""What decides: `schedule`, or something to compare it with."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""Time 0 of every simulation."""
ROUND_SECONDS = 0.05
"""From a change until the fleet pass has decided about it."""
_MOST_ROUNDS = 200_000
"""A policy that never comes to rest is ended here."""


class World:
    """One simulation."""

    def __init__(self, scenario: Scenario, policy: Policy, name: str, requests: list[Request] | None = None) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.outcome = Outcome(name)
        self.nodes = {
            node: EmulatedNode(node, block, self.clock, self._weights_came)
            for block in scenario.nodes
            for node in numbered(block.name, block.count)
        }
        self.node_records = {name: node.record() for name, node in self.nodes.items()}
        self.models = {each.name: each for each in models_of(scenario, self.time())}
        self.pools = {pool.key: pool for pool in pools_of(scenario, self.time())}
        self.estimates = estimates_of(self.models.values(), {block.name: block for block in scenario.nodes})
        self.runners: dict[str, EmulatedRunner] = {}
        self.clients = Clients(self.clock, self._request_came, self._model_idle)
        self.applied: set[str] = set()
        self.switches: defaultdict[str, list[float]] = defaultdict(list)
        """Runner → when engines in it had to go, or to sleep, for others, as the operator counts it."""
        self.assigned: dict[tuple[str, str], float] = {}
        """Runner and engine id → when it came into the assignment."""
        self._policy = policy
        self._pool_seconds = {pool.name: pool.runner_seconds for pool in scenario.pools}
        self._wanted: dict[str, float] = {}
        """Model that is wanted and not Ready → since when."""
        self._fetches: dict[str, dict[str, float]] = {}
        self._serving: dict[str, dict[tuple[str, str], float]] = {}
        """Model → its engines that requests reach, each since when."""
        self._phases: dict[tuple[str, str], Phase] = {}
        self._told: dict[tuple[str, bool], tuple[float, float | None]] = {}
        """Model and whether it had its place → when its first forecast was made, and the time it told."""
        self._is_round_planned = False
        self._recheck_at = float("inf")
        self._made = 0
        self._last = Decisions()
        self._place_weights()
        self._plan(requests)

    def run(self) -> Outcome:
        """Let it happen."""
        while self.clock.advance(self.scenario.until_seconds):
            if self._is_over() or self.outcome.rounds > _MOST_ROUNDS:
                break
        outcome = self.outcome
        outcome.ended = self.clock.now
        outcome.request_waits = self.clients.waits
        outcome.unfinished = {model: self._blocker(model) for model in self._wanted}
        for model, serving in self._serving.items():
            for (name, _), since in serving.items():
                self._note_ready(name, model, since)
        for runner in self.runners.values():
            outcome.spans += runner.spans
        return outcome

    def time(self, seconds: float = 0.0) -> str:
        """Return now, or so long after it, as Kubernetes writes it."""
        return format_time(self.now + timedelta(seconds=seconds))

    @property
    def now(self) -> datetime:
        """The time as the operator has it."""
        return EPOCH + timedelta(seconds=self.clock.now)

    # What is planned --------------------------------------------------------------------------------------------------

    def _place_weights(self) -> None:
        for model in self.models.values():
            start = model.block.start
            for name in start.nodes or self.nodes:
                for entry in model.entries:
                    self.nodes[name].place(entry, start.tier)

    def _plan(self, requests: list[Request] | None) -> None:
        coming = list(requests or ())
        traced = {each.model for each in coming}
        for model in self.models.values():
            block = model.block
            if block.requests is not None:
                count = int((block.requests.until_seconds - block.requests.from_seconds) / block.requests.every_seconds)
                coming += [
                    Request(
                        block.requests.from_seconds + number * block.requests.every_seconds,
                        model.name,
                        block.requests.serve_seconds,
                    )
                    for number in range(count + 1)
                ]
            sleeps = block.requests is not None or (requests is not None and model.name in traced)
            if requests is not None and model.name not in traced and block.requests is None and not block.serve_seconds:
                sleeps = True  # the trace never asks for it
            if block.serve_seconds and not sleeps:
                coming.append(Request(model.applied, model.name, block.serve_seconds))
            self.clock.at(model.applied, lambda model=model, sleeps=sleeps: self._apply(model, sleeps))  # type: ignore[misc]
        self._expected = len(coming) + len(self.models) + len(self.scenario.losses)
        for loss in self.scenario.losses:
            self.clock.at(loss.at_seconds, lambda loss=loss: self._lose(loss))  # type: ignore[misc]
        self.clients.send([each for each in coming if each.time <= self.scenario.until_seconds])

    def _apply(self, model: EmulatedModel, sleeps: bool) -> None:
        self._expected -= 1
        metadata = msgspec.structs.replace(model.record.metadata, creation_timestamp=self.time())
        model.record = replace(model.record, metadata=metadata)
        self.applied.add(model.name)
        held = bool(self.clients.held.get(model.name))
        if sleeps and not held:
            model.set_status(dormant=Dormancy(time=self.time(), reason="nobody has asked for it yet"))
        else:
            self._want(model)
        self.changed()

    def _lose(self, loss: LossBlock) -> None:
        self._expected -= 1
        losses.lose(self, loss)

    def _is_over(self) -> bool:
        return not (self._expected or self._wanted or any(self.clients.running.values()))

    # Demand -----------------------------------------------------------------------------------------------------------

    def _request_came(self, name: str) -> None:
        self._expected -= 1
        if self._serving.get(name):
            was_busy = self.clients.is_busy(name)
            self.clients.answer(name)
            if not was_busy:
                self._tell_runners(name)
            return
        model = self.models[name]
        if name in self.applied and model.record.status.dormant is not None:
            model.set_status(dormant=None)
            self._want(model)
        self._tell_runners(name)
        self.changed()

    def _model_idle(self, name: str) -> None:
        self._tell_runners(name)
        for runner, engine in self._engines(name):
            if engine.phase is Phase.DRAINING:
                runner.drained(engine.content.id)
        after = self.models[name].record.spec.idle.after_seconds
        if after is not None:
            self.clock.later(after, lambda: self._sleep_if_idle(name))
        if self._wanted:
            self.changed()

    def _sleep_if_idle(self, name: str) -> None:
        model = self.models[name]
        after = model.record.spec.idle.after_seconds
        if after is not None and self.idle_seconds(name) >= after - 1e-6 and self._may_sleep(model):
            model.set_status(dormant=Dormancy(time=self.time(), reason=f"no request for {after} s"))
            self.changed()

    def _may_sleep(self, model: EmulatedModel) -> bool:
        is_busy = self.clients.is_busy(model.name) or bool(self.clients.held.get(model.name))
        yields = model.record.spec.idle.policy is IdlePolicy.YIELD
        return yields and not is_busy and model.record.status.dormant is None and model.name not in self._wanted

    def idle_seconds(self, name: str) -> float:
        """Return for how long a model has had no request; 0 while it has some."""
        if self.clients.is_busy(name) or not self._serving.get(name):
            return 0.0
        since = max(self.clients.last_end.get(name, 0.0), min(self._serving[name].values()))
        return self.clock.now - since

    def _tell_runners(self, name: str) -> None:
        for runner, engine in list(self._engines(name)):
            runner.hear(
                engine.content.id,
                busy=self.clients.is_busy(name),
                wake_requested=bool(self.clients.held.get(name)),
            )

    def _engines(self, name: str) -> list[tuple[EmulatedRunner, Engine]]:
        return [
            (runner, engine)
            for runner in self.runners.values()
            for engine in runner.state.engines.values()
            if engine.content.model == name
        ]

    def _want(self, model: EmulatedModel) -> None:
        """Begin to wait for a model to be Ready."""
        if model.name in self._wanted or self._serving.get(model.name):
            return
        self._wanted[model.name] = self.clock.now
        self._fetches[model.name] = self._fetch_bytes(model)
        model.set_status(pending_start=snapshot.pending(self.time()))

    def _fetch_bytes(self, model: EmulatedModel) -> dict[str, float]:
        """Return what has to come over which links wherever it starts: nothing where a node has it in memory."""
        remote = disk = 0
        for entry in model.entries:
            if any(entry.key in node.in_memory for node in self.nodes.values()):
                continue
            if any(entry.key in node.on_disk for node in self.nodes.values()):
                disk += entry.bytes
            else:
                remote += entry.bytes
        return {"remote": remote, "disk": disk}

    # Runners ----------------------------------------------------------------------------------------------------------

    def _weights_came(self, node: EmulatedNode, key: str) -> None:
        for runner in list(self.runners.values()):
            if runner.node is node:
                runner.look_for_weights()
        self.changed()

    def _runner_changed(self, runner: EmulatedRunner) -> None:
        for id_, engine in list(runner.state.engines.items()):
            place = (runner.name, id_)
            before, self._phases[place] = self._phases.get(place), engine.phase
            if engine.phase is Phase.READY and before is not Phase.READY:
                began = engine.ready_at
                self.clock.later(ROUTABLE_SECONDS, lambda place=place, began=began: self._reached(place, began))  # type: ignore[misc]
            elif engine.phase is not Phase.READY:
                self._not_reached(place, engine.content.model)
        for place in [each for each in self._phases if each[0] == runner.name and each[1] not in runner.state.engines]:
            del self._phases[place]
            for model in list(self._serving):
                self._not_reached(place, model)
        self.changed()

    def fell_silent(self, runner: EmulatedRunner) -> None:
        """Nobody reaches a runner's engines any more."""
        for place in [each for each in self._phases if each[0] == runner.name]:
            del self._phases[place]
            for model in list(self._serving):
                self._not_reached(place, model)

    def _reached(self, place: tuple[str, str], began: float) -> None:
        """Requests reach an engine that has become Ready."""
        runner = self.runners.get(place[0])
        engine = runner.state.engines.get(place[1]) if runner is not None else None
        if (
            runner is None
            or runner.node.lost
            or engine is None
            or engine.phase is not Phase.READY
            or engine.ready_at != began
        ):
            return
        name = engine.content.model
        self._serving.setdefault(name, {})[place] = self.clock.now
        model = self.models[name]
        if name in self._wanted:
            self.outcome.starts.append(
                Start(
                    model=name,
                    priority=model.record.spec.priority,
                    wanted=self._wanted.pop(name),
                    assigned=self.assigned.get(place, began),
                    ready=self.clock.now,
                    start_type=engine.start_type or StartType.WARM,
                    runner=runner.name,
                    node=runner.node.name,
                    fetched=self._fetches.pop(name, {}),
                )
            )
        for has_place in (False, True):
            told_at, told = self._told.pop((name, has_place), (0.0, None))
            if told is not None:
                self.outcome.foretold.append(Foretold(name, has_place, told, self.clock.now - told_at))
        model.set_status(pending_start=None, served_hash=model.record.hash)
        if engine.start_type is StartType.HOT and self.clients.held.get(name):
            model.set_status(dormant=None)
        self.clients.answer(name)
        runner.hear(place[1], busy=self.clients.is_busy(name), wake_requested=False)
        if model.record.spec.idle.after_seconds is not None:
            self.clock.later(model.record.spec.idle.after_seconds, lambda: self._sleep_if_idle(name))
        self.changed()

    def _not_reached(self, place: tuple[str, str], name: str) -> None:
        serving = self._serving.get(name, {})
        since = serving.pop(place, None)
        if since is None:
            return
        self._note_ready(place[0], name, since)
        engine = self.runners[place[0]].state.engines.get(place[1]) if place[0] in self.runners else None
        if not serving:
            if engine is None or engine.phase is not Phase.DRAINING:
                self.clients.put_back(name)
            elif not self.clients.is_busy(name):
                self.clock.later(0.0, lambda: self.runners[place[0]].drained(place[1]))
            model = self.models[name]
            if model.record.status.dormant is None:
                self._want(model)

    def _note_ready(self, runner: str, model: str, since: float) -> None:
        node = self.runners[runner].node.name if runner in self.runners else ""
        self.outcome.spans.append(Span(runner, node, model, "Ready", since, self.clock.now))

    def _runner_gone(self, runner: EmulatedRunner) -> None:
        self.fell_silent(runner)
        self.outcome.spans += runner.spans
        del self.runners[runner.name]
        self.changed()

    # Rounds -----------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something changed: decide soon."""
        if not self._is_round_planned:
            self._is_round_planned = True
            self.clock.later(ROUND_SECONDS, self._round)

    def _round(self) -> None:
        self._is_round_planned = False
        self.outcome.rounds += 1
        fleet = snapshot.fleet_of(self)
        decisions = self._policy(fleet, self.now)
        self._last = decisions
        for runner in switched(fleet, decisions):
            self.switches[runner].append(self.clock.now)
        for key, reason in decisions.yields.items():
            model = self.models[key.name]
            if self._may_sleep(model) and self._serving.get(key.name):
                model.set_status(dormant=Dormancy(time=self.time(), reason=reason[:500]))
                self.changed()
        for key, found in decisions.standbys.items():
            model = self.models[key.name]
            wanted = model.record.spec.standby
            if wanted is not None and (told := as_told(wanted, found)) != model.record.status.standby:
                model.set_status(standby=told)
        for action in decisions.actions:
            self._carry_out(action)
        for key, forecast in decisions.forecasts.items():
            if forecast.ready_seconds is not None and key.name in self._wanted:
                self._told.setdefault(
                    (key.name, key not in decisions.waiting), (self.clock.now, forecast.ready_seconds)
                )
        self.outcome.preemptions += len(decisions.preemptions)
        self.outcome.problems += broken(self)[: max(0, 10 - len(self.outcome.problems))]
        if decisions.recheck_seconds is not None:
            at = self.clock.now + max(decisions.recheck_seconds, 0.01)
            if not self.clock.now < self._recheck_at <= at:
                self._recheck_at = at
                self.clock.at(at, self.changed)

    def _carry_out(self, action: CreateRunner | DeleteRunner | PatchRunner) -> None:
        match action:
            case CreateRunner():
                self._create(action)
            case DeleteRunner(pod=pod):
                runner = self.runners.get(pod.metadata.name)
                if runner is not None and not runner.is_leaving:
                    for engine in runner.assignment.engines:
                        self._note_switch(engine.model)
                    runner.delete(self.time())
            case PatchRunner(pod=pod):
                runner = self.runners.get(pod.metadata.name)
                if runner is not None:
                    self._patch(runner, action)

    def _create(self, action: CreateRunner) -> None:
        body = runner_pod(action, LIMITS)
        self._made += 1
        body["metadata"] |= {"uid": f"uid-{self._made}", "creationTimestamp": self.time()}
        pod = msgspec.convert(body, Pod)
        runner = EmulatedRunner(
            pod, self.nodes[action.node], self.clock, self._hosted, self._runner_changed, self._runner_gone,
            action.assignment,
        )  # fmt: skip
        self.runners[runner.name] = runner
        for engine in action.assignment.engines:
            self.assigned[runner.name, engine.id] = self.clock.now
        owner = action.owner
        is_of_model = isinstance(owner, Model)
        # Runners of a pool are up when the simulation begins.
        seconds = 0.0
        if is_of_model:
            seconds = self.models[owner.key.name].block.start.runner_seconds
        elif any(node.lost for node in self.nodes.values()):
            seconds = self._pool_seconds[owner.key.name]
        runner.come_up(seconds)
        self.changed()

    def _patch(self, runner: EmulatedRunner, action: PatchRunner) -> None:
        if action.labels:
            runner.label(action.labels, self.clock.now)
        if action.assignment is not None:
            self._note_switches(runner, action.assignment)
            runner.assign(action.assignment)
        self.changed()

    def _note_switches(self, runner: EmulatedRunner, new: Assignment) -> None:
        """Count engines that are awake, and have to go or to sleep by this change."""
        after = {each.id: each for each in new.engines}
        before = {each.id: each for each in runner.assignment.engines}
        for id_, engine in after.items():
            was = before.get(id_)
            if was is None or (was.state is DesiredState.ASLEEP and engine.state is DesiredState.READY):
                self.assigned[runner.name, id_] = self.clock.now
        for each in runner.awake():
            was, now = before.get(each.content.id), after.get(each.content.id)
            is_told_already = was is None or _is_ordered_asleep(was)
            if each.phase is Phase.READY and not is_told_already and (now is None or _is_ordered_asleep(now)):
                self._note_switch(each.content.model)

    def _note_switch(self, model: str) -> None:
        if model in self.applied and self._wanted:
            self.outcome.switches.append(self.clock.now)

    def _hosted(self, model: str) -> Hosted:
        return self.models[model].hosted

    def _blocker(self, model: str) -> str:
        waiting = next((wait for key, wait in self._last.waiting.items() if key.name == model), None)
        return waiting.blocker if waiting is not None else "its start was under way"


def _is_ordered_asleep(engine: EngineAssignment) -> bool:
    return engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
