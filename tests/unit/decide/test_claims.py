"""Claims: whom a cluster autoscaler is asked for a node for, how many at once, and when no longer."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support import make
from support.world import World
from warmfleet_api.vocabulary import Priority, Reason
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner
from warmfleet_operator.decide.claims import CLAIM_SECONDS, unanswered
from warmfleet_operator.decide.fleet import Fleet, Limits, Model, ModelKey, OwnerKey, Pool, Runner
from warmfleet_operator.decide.runners import is_claim, owner_of
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.times import format_time, parse_time
from warmfleet_operator.records import Pod

LIMITS = replace(make.LIMITS, claims=2)


def asked(decisions: Decisions) -> list[str]:
    """Names of owners for which a node is asked for anew."""
    return [each.owner.key.name for each in decisions.actions if isinstance(each, CreateRunner) and not each.node]


def withdrawn(decisions: Decisions) -> dict[str, str]:
    return {
        owner_of(each.pod).name: each.reason
        for each in decisions.actions
        if isinstance(each, DeleteRunner) and is_claim(each.pod)
    }


def decide(*parts: object, limits: Limits = LIMITS, **more: object) -> Decisions:
    return schedule(replace(make.fleet(*parts, limits=limits), **more), make.NOW)  # type: ignore[arg-type]


def claim(of: Model | Pool, *, age_seconds: float = 40) -> Runner:
    """The runner of a model or pool for which a node is asked for."""
    decisions = schedule(make.fleet(of, limits=LIMITS), make.NOW)
    found = [each for each in decisions.actions if isinstance(each, CreateRunner)]
    assert [each.node for each in found] == [""]
    pod = make.pod_of(found[0], uid=f"uid-claim-{found[0].owner.key.name}", created=make.ago(age_seconds))
    return make.unschedulable(Runner(pod=pod, assignment=found[0].assignment))


def test_nothing_is_claimed_without_a_cluster_autoscaler() -> None:
    assert decide(make.model(gpus=1), limits=make.LIMITS).actions == ()


def test_a_node_is_asked_for_where_no_present_one_fits_and_the_wait_says_so() -> None:
    llama = make.model(gpus=4, priority="High", podTemplate={"nodeSelector": {"gpu": "h100"}})
    decisions = decide(llama, make.node("a", gpus=4))
    (create,) = decisions.actions
    assert isinstance(create, CreateRunner)
    pod = runner_pod(create, LIMITS)["spec"]
    assert "affinity" not in pod
    assert (pod["priorityClassName"], pod["nodeSelector"]) == ("warmfleet-high", {"gpu": "h100"})
    wait = decisions.waiting[llama.key]
    assert (wait.reason, wait.position) == (Reason.NO_MATCHING_NODE, 1)
    assert wait.blocker == (
        f"needs 4 nvidia.com/gpu, 1.0 GiB memory, 1 cpu; a node for it is asked of the cluster autoscaler, "
        f"since {make.ago(0)}"
    )


def test_a_claim_that_stands_is_left_alone_by_the_rule_for_runners_that_are_not_scheduled() -> None:
    llama = make.model(gpus=1)
    decisions = decide(llama, claim(llama, age_seconds=40))
    assert decisions.actions == ()
    assert decisions.waiting[llama.key].blocker.endswith(f"asked of the cluster autoscaler, since {make.ago(40)}")
    assert decisions.forecasts[llama.key].ready_seconds is None
    assert decisions.recheck_seconds == pytest.approx(CLAIM_SECONDS - 40)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param([make.node("a", gpus=4)], id="room is free"),
        pytest.param(
            [make.node("a", gpus=4), make.terminating(make.serving(make.runner(make.model("gone", gpus=4), "a")))],
            id="room comes free",
        ),
        pytest.param(
            [
                make.node("a", gpus=4),
                busy := make.model("busy", gpus=4, priority="Low"),
                replace(make.serving(make.runner(busy, "a")), awake_seconds={"busy-0": 1000.0}),
            ],
            id="others give way",
        ),
    ],
)
def test_no_node_is_asked_for_while_a_present_one_fits_or_will(there: list[object]) -> None:
    assert asked(decide(make.model(gpus=4), *there)) == []


def test_nodes_are_asked_for_in_the_order_of_turns_and_never_for_more_than_the_limit() -> None:
    models = [make.model(f"m-{each}", gpus=1, priority=each) for each in ("Low", "Critical", "Normal", "High")]
    assert asked(decide(*models)) == ["m-Critical", "m-High"]


def test_the_worst_claim_is_withdrawn_for_a_start_of_a_higher_class_which_has_it_when_that_is_gone() -> None:
    low, normal = make.model("low", gpus=1, priority="Low"), make.model("normal", gpus=1)
    high = make.model("high", gpus=1, priority="High")
    claims = [claim(low), claim(normal)]
    decisions = decide(low, normal, high, *claims)
    assert asked(decisions) == []
    assert withdrawn(decisions) == {"low": "a node is asked for default/high first, which is of the higher class High"}
    assert asked(decide(low, normal, high, make.terminating(claims[0]), claims[1])) == []
    assert asked(decide(low, normal, high, claims[1])) == ["high"]


def test_no_claim_is_withdrawn_for_a_start_of_its_own_class() -> None:
    models = [make.model(f"m-{each}", gpus=1, age_seconds=each) for each in (10, 20, 999)]
    assert withdrawn(decide(*models, claim(models[0]), claim(models[1]))) == {}


def test_a_claim_without_a_node_is_withdrawn_after_its_time_and_others_are_asked_for() -> None:
    limits = replace(LIMITS, claims=1)
    llama, other = make.model(gpus=1, priority="High"), make.model("other", gpus=1)
    decisions = decide(llama, other, claim(llama, age_seconds=CLAIM_SECONDS), limits=limits)
    assert withdrawn(decisions) == {"llama": "no node came for it in 600 s"}
    assert list(unanswered(decisions, make.NOW)) == [llama.key]
    assert asked(decide(llama, other, limits=limits)) == ["llama"]
    assert asked(decide(llama, other, limits=limits, unanswered=frozenset({llama.key}))) == ["other"]


def test_a_claim_gives_room_that_comes_free_on_a_present_node_to_whose_turn_it_is() -> None:
    llama, high = make.model(gpus=2), make.model("high", gpus=2, priority="High")
    ending = make.terminating(make.serving(make.runner(make.model("gone", gpus=2), "a")))
    decisions = decide(llama, high, make.node("a", gpus=2), ending, claim(llama))
    assert withdrawn(decisions) == {"llama": "there is room on a, or will be"}
    assert decisions.waiting[high.key].place == "a"


def test_the_room_of_a_node_that_came_is_kept_for_the_claim_in_its_turn() -> None:
    llama, low = make.model(gpus=2), make.model("low", gpus=2, priority="Low")
    decisions = decide(llama, low, make.node("new", gpus=2), claim(llama))
    assert decisions.waiting[llama.key].place == "new"
    assert [(each.owner.key, each.node) for each in decisions.actions if isinstance(each, CreateRunner)] == [
        (low.key, "")
    ]


def test_a_better_start_has_the_room_of_a_node_that_came_and_the_claim_goes() -> None:
    llama, high = make.model(gpus=2), make.model("high", gpus=2, priority="High")
    decisions = decide(llama, high, make.node("new", gpus=2), claim(llama))
    assert [each.node for each in decisions.actions if isinstance(each, CreateRunner)] == ["new"]
    assert list(withdrawn(decisions)) == []
    # Its room is another's now: nothing is left that it could be bound to.
    assert decisions.waiting[llama.key].blocker.endswith(f"since {make.ago(40)}")


def test_a_claim_is_withdrawn_when_others_can_make_room_by_now() -> None:
    llama, busy = make.model(gpus=4), make.model("busy", gpus=4, priority="Low")
    resident = replace(make.serving(make.runner(busy, "a")), awake_seconds={"busy-0": 1000.0})
    decisions = decide(llama, busy, make.node("a", gpus=4), resident, claim(llama))
    assert withdrawn(decisions) == {"llama": "others make room for it on a"}
    assert [each.victim for each in decisions.preemptions] == [busy.key]


def test_a_claim_that_got_a_node_is_a_runner_like_any_other() -> None:
    llama = make.model(gpus=2)
    bound = on_node(claim(llama, age_seconds=5000), "new")
    decisions = decide(llama, make.model("other", gpus=1, priority="High"), make.node("new", gpus=2), bound)
    assert withdrawn(decisions) == {}
    assert llama.key not in decisions.waiting
    assert decisions.waiting[ModelKey("default", "other")].blocker.startswith("needs 1 nvidia.com/gpu")


def test_a_pool_claims_for_its_runners_in_the_class_of_who_waits_for_them() -> None:
    pool = make.pool("gpu", gpus=2, memory="4Gi")
    model = make.model("llama", gpus=1, priority="High", pools=["gpu"])
    found = [each for each in decide(pool, model).actions if isinstance(each, CreateRunner)]
    assert [(each.node, each.priority) for each in found] == [("", Priority.HIGH)]
    idle = [each for each in decide(pool).actions if isinstance(each, CreateRunner)]
    assert [(each.node, each.priority) for each in idle] == [("", Priority.LOW)]
    assert decide(pool, model, claim(pool)).actions == ()


def test_room_that_was_held_for_a_large_start_is_given_in_the_round_after_it_asks_for_a_node() -> None:
    it = Growing()
    it.add(make.node("n1", gpus=4), make.model("busy", gpus=1, priority="Critical"))
    it.settle()
    it.add(make.model("large", gpus=4, priority="High"), make.model("small", gpus=1))
    first = it.round()
    assert asked(first) == ["large"]
    assert first.waiting[ModelKey("default", "small")].reason is Reason.WAITING_FOR_TURN
    second = it.round()
    assert [(each.owner.key.name, each.node) for each in second.actions if isinstance(each, CreateRunner)] == [
        ("small", "n1")
    ]


def test_claims_go_when_the_autoscaler_is_said_to_be_there_no_more() -> None:
    llama = make.model(gpus=1)
    decisions = decide(llama, claim(llama), limits=make.LIMITS)
    assert "WARMFLEET_AUTOSCALER" in withdrawn(decisions)["llama"]


def on_node(it: Runner, node: str) -> Runner:
    """The same claim, bound to a node."""
    bound = make.with_condition(it, "PodScheduled", "True", seconds_ago=1)
    body = msgspec.to_builtins(bound.pod)
    body["spec"]["nodeName"] = node
    return replace(bound, pod=msgspec.convert(body, Pod))


@dataclass
class Growing(World):
    """A world in which time passes and a cluster autoscaler may make nodes."""

    now: datetime = make.NOW
    limits: Limits = LIMITS
    silent_until: dict[OwnerKey, datetime] = field(default_factory=dict)

    def fleet(self) -> Fleet:
        return replace(
            super().fleet(), unanswered=frozenset(key for key, until in self.silent_until.items() if self.now < until)
        )

    def round(self) -> Decisions:
        decisions = schedule(self.fleet(), self.now)
        for key in unanswered(decisions, self.now):
            self.silent_until[key] = self.now + timedelta(seconds=CLAIM_SECONDS)
        before = set(self.runners)
        self.carry_out(decisions)
        for name in set(self.runners) - before:
            created = format_time(self.now)
            self.change(name, lambda it, created=created: _created(it, created))  # type: ignore[misc]
        return decisions


def _created(it: Runner, created: str) -> Runner:
    body = msgspec.to_builtins(it.pod)
    body["metadata"]["creationTimestamp"] = created
    return replace(it, pod=msgspec.convert(body, Pod))


class AnyClaims(RuleBasedStateMachine):
    """Models of any class and size come and go, and so do nodes; claims keep their rules after every round."""

    @initialize()
    def begin(self) -> None:
        self.world, self.number = Growing(), 0

    @rule(name=st.sampled_from("abcde"), gpus=st.integers(1, 4), priority=st.sampled_from(list(Priority)))
    def a_model_is_applied(self, name: str, gpus: int, priority: Priority) -> None:
        self.world.models.setdefault(name, make.model(name, gpus=gpus, priority=priority))
        self._round()

    @rule(name=st.sampled_from("abcde"))
    def a_model_is_deleted(self, name: str) -> None:
        self.world.models.pop(name, None)
        self._round()

    @rule(gpus=st.integers(1, 4))
    def a_node_comes(self, gpus: int) -> None:
        self.number += 1
        self.world.add(make.node(f"n{self.number}", gpus=gpus))
        self._round()

    @rule(data=st.data())
    def kubernetes_binds_a_claim(self, data: st.DataObject) -> None:
        claims = [name for name, each in self.world.runners.items() if is_claim(each.pod)]
        nodes = [name for name in self.world.nodes if name.startswith("n")]
        if claims and nodes:
            before = self.world.runners[name := data.draw(st.sampled_from(sorted(claims)))]
            self.world.runners[name] = on_node(before, data.draw(st.sampled_from(sorted(nodes))))
            if self.world.over_committed():
                self.world.runners[name] = before
            self._round()

    @rule(seconds=st.sampled_from([1, 60, 599, 600, 2000]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)
        self._round()

    @rule()
    def what_ends_is_gone(self) -> None:
        for name, each in list(self.world.runners.items()):
            if each.pod.metadata.deletion_timestamp is not None:
                self.world.reap(name)
        self._round()

    def _round(self) -> None:
        decisions = self.world.round()
        names = Counter(asked(decisions))
        for name in names:
            wait = decisions.waiting[ModelKey("default", name)]
            assert "asked of the cluster autoscaler" in wait.blocker
        for reason in withdrawn(decisions).values():
            assert reason
        standing = [each for each in self._claims() if each.pod.metadata.deletion_timestamp is None]
        for each in standing:
            age = (self.world.now - parse_time(each.pod.metadata.creation_timestamp)).total_seconds()  # type: ignore[operator]
            assert age < CLAIM_SECONDS, each.pod.metadata.name
        # Nobody of a higher class waits for a claim while one of a lower class keeps its own. Who waits for room of a
        # present node that is held for another gets that in the next round, when the other has its claim.
        ranks = [self.world.models[owner_of(each.pod).name].spec.priority.rank for each in standing]
        waiting = [
            self.world.models[key.name].spec.priority.rank
            for key, wait in decisions.waiting.items()
            if "asked of" not in wait.blocker and not wait.place and key not in self.world.fleet().unanswered
            if wait.reason is not Reason.WAITING_FOR_TURN
        ]
        going = len(self._claims()) - len(standing)
        assert not waiting or not ranks or going or min(waiting) >= max(ranks) or len(ranks) < LIMITS.claims

    def _claims(self) -> list[Runner]:
        return [each for each in self.world.runners.values() if is_claim(each.pod)]

    @invariant()
    def there_are_never_more_claims_than_the_limit(self) -> None:
        assert len(self._claims()) <= LIMITS.claims

    @invariant()
    def no_node_is_given_twice(self) -> None:
        assert self.world.over_committed() == {}


TestAnyClaims = AnyClaims.TestCase
TestAnyClaims.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
