"""A runner with a device that its plugin calls unhealthy is left, by what serves only once others take over."""

from dataclasses import replace

import msgspec
import pytest

from support import make
from support.world import World
from warmfleet_operator.decide.actions import CreateRunner, DeleteRunner
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.records import Pod

NODES = [make.node(name, gpus=2) for name in ("a", "b")]


def test_an_own_runner_with_an_unhealthy_gpu_is_replaced_and_serves_on_meanwhile() -> None:
    model = make.model("llama", gpus=1)
    unwell = make.unwell(make.serving(make.runner(model, "a")))
    found = schedule(make.fleet(model, *NODES, unwell), make.NOW)
    (create,) = [each for each in found.actions if isinstance(each, CreateRunner)]
    assert create.reason == "nvidia.com/gpu GPU-1 of llama-0-1 is unhealthy"
    assert not [each for each in found.actions if isinstance(each, DeleteRunner)]


def test_it_goes_when_the_other_one_serves() -> None:
    model = make.model("llama", gpus=1)
    unwell = make.unwell(make.serving(make.runner(model, "a")))
    other = make.serving(make.runner(model, "b", attempt=2))
    found = schedule(make.fleet(model, *NODES, unwell, other), make.NOW)
    assert [each.pod.metadata.name for each in found.actions if isinstance(each, DeleteRunner)] == ["llama-0-1"]


def test_a_pool_empties_such_a_runner_and_gets_another_one() -> None:
    it = World()
    it.add(*NODES, make.pool(gpus=2), make.model("llama", gpus=1, pools=["pool"]))
    it.settle()
    (name,) = it.runners
    it.change(name, make.unwell)
    it.settle()
    (left,) = it.runners
    assert left != name
    assert len(it.serving("llama")) == 1


@pytest.mark.parametrize("health", ["Healthy", "Unknown", ""])
def test_what_is_not_said_to_be_unhealthy_stays(health: str) -> None:
    model = make.model("llama", gpus=1)
    unwell = make.unwell(make.serving(make.runner(model, "a"), protected=True))
    body = msgspec.to_builtins(unwell.pod)
    body["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0]["resources"][0]["health"] = health
    well = replace(unwell, pod=msgspec.convert(body, Pod))
    assert schedule(make.fleet(model, *NODES, well), make.NOW).actions == ()
