"""The keeper of wishes: what it measures, whom it tells, and what it knows of autoscalers."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from support import make
from support.scaling import scalings_of
from support.scripted import client_of, scripted
from warmfleet_api.operator_api import DemandReport, ModelDemand
from warmfleet_operator.build.autoscaler import autoscaler
from warmfleet_operator.cluster import Cluster, mirrored
from warmfleet_operator.decide.fleet import Model, ModelKey, Runner
from warmfleet_operator.decide.scaling import SAMPLE_SECONDS
from warmfleet_operator.decide.situation import ModelView, Situation, situation_of
from warmfleet_operator.demand import Demands
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import HorizontalPodAutoscaler
from warmfleet_operator.scaling import Scalings

KEY = ModelKey("default", "llama")


@dataclass
class Kept:
    """A keeper with one model, and a clock."""

    cluster: Cluster
    demands: Demands = field(default_factory=Demands)
    now: datetime = make.NOW
    block: dict[str, Any] = field(default_factory=dict)
    replicas: int = 1
    held: int = 0
    lost: bool = False
    told: list[ModelKey] = field(default_factory=list)
    scalings: Scalings = field(init=False)

    def __post_init__(self) -> None:
        self.scalings = scalings_of(self.cluster, self.demands, self.situations, self.told.append, lambda: self.now)

    @property
    def model(self) -> Model:
        return make.model(replicas=self.replicas, autoscaling=self.block)

    def runner(self) -> Runner:
        runner = make.serving(make.runner(self.model, "n1"))
        return make.silent(runner) if self.lost else runner

    def situations(self) -> list[Situation]:
        if self.block.get("gone"):
            return []
        demand = self.demands.of(KEY)
        return [situation_of(ModelView(self.model, (self.runner(),), {"n1": make.node("n1")}, demand=demand))]

    async def live(self, seconds: float) -> None:
        """Let time pass, measuring, while a router holds requests."""
        for _ in range(int(seconds / SAMPLE_SECONDS)):
            self.demands.report(
                DemandReport(router="r", models=(ModelDemand(namespace="default", model="llama", held=self.held),))
            )
            await self.scalings.measure()
            self.now += timedelta(seconds=SAMPLE_SECONDS)

    def value(self) -> float | None:
        (told,) = self.scalings.answer().models
        return told.value

    def autoscaler(self, name: str = "llama", active: str = "True", owned: bool = True) -> None:
        """Have an autoscaler of the model in the mirror."""
        made = autoscaler(self.model)
        assert made is not None
        made["metadata"] |= {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"}
        if not owned:
            made["metadata"]["ownerReferences"] = []
        condition = {
            "type": "ScalingActive",
            "status": active,
            "reason": "FailedGetExternalMetric",
            "message": "unable to get external metric",
            "lastTransitionTime": make.ago(60),
        }
        made["status"] = {"conditions": [condition]}
        self.cluster.autoscalers.saw(msgspec.convert(made, HorizontalPodAutoscaler))


@pytest.fixture
async def kept() -> Any:
    async with scripted() as script, client_of(script) as client:
        yield Kept(mirrored(client, Metrics(), 30))


async def test_it_tells_of_each_change_of_a_wish_and_of_nothing_else(kept: Kept) -> None:
    await kept.live(60)
    assert kept.told == [KEY], "the first wish"
    kept.held = 57
    await kept.live(60)
    wishes = len(kept.told)
    assert 1 < wishes <= 4, "as the average rises"
    await kept.live(60)
    assert len(kept.told) == wishes
    assert kept.value() == 60


async def test_an_engine_that_is_not_heard_ends_the_metric_and_it_comes_back(kept: Kept) -> None:
    await kept.live(30)
    assert kept.value() == 20
    kept.lost = True
    await kept.live(5)
    assert kept.value() is None
    kept.lost = False
    await kept.live(5)
    assert kept.value() == 20


async def test_a_model_without_the_block_is_forgotten(kept: Kept) -> None:
    await kept.live(5)
    kept.block = {"gone": True}
    await kept.scalings.measure()
    assert kept.scalings.answer().models == ()


async def test_a_schedule_keeps_its_model_wanted_while_it_lasts(kept: Kept) -> None:
    kept.block = {"schedule": [{"cron": "0 12 * * *", "durationSeconds": 60, "replicas": 2}]}
    await kept.live(5)
    assert kept.demands.of(KEY).is_wanted
    assert kept.value() == 40
    kept.now += timedelta(seconds=60)
    await kept.live(5)
    assert kept.value() == 20


async def test_only_an_autoscaler_of_somebody_else_stands_in_the_way(kept: Kept) -> None:
    kept.autoscaler()
    assert kept.scalings.foreign(kept.model) == ""
    kept.autoscaler("keda-hpa-llama", owned=False)
    assert kept.scalings.foreign(kept.model) == "keda-hpa-llama"


async def test_one_that_gets_no_metric_is_blind_with_who_should_serve_it(kept: Kept) -> None:
    kept.autoscaler()
    view = kept.scalings.view(kept.model)
    assert view is not None
    assert (view.blind_since, view.trouble, view.wish) == (None, "", None)
    kept.cluster.autoscalers.forget(kept.cluster.autoscalers.values()[0])
    kept.cluster.autoscalers.position = 0
    kept.autoscaler(active="False")
    view = kept.scalings.view(kept.model)
    assert view is not None
    assert (view.blind_since, view.trouble) == (
        make.ago(60),
        "unable to get external metric; nobody serves external metrics",
    )
