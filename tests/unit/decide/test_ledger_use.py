"""What the metrics show of the ledger."""

from dataclasses import replace

import msgspec

from support import make
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_operator.decide.ledger_use import engine_bytes, ledger_use

GIB = 1024**3


def test_all_nodes_and_everybodys_pods_count() -> None:
    model = make.model(gpus=2, memory="4Gi")
    runner = make.serving(make.runner(model, "n1"))
    nodes = make.node("n1", gpus=8, memory="64Gi"), make.node("n2", gpus=8, memory="64Gi")
    use = ledger_use(make.fleet(*nodes, model, runner, make.stranger("other", "n2", gpus=1, memory="1Gi")))
    assert (use["gpus", "capacity"], use["gpus", "used"]) == (16, 3)
    assert (use["memory", "capacity"], use["memory", "used"]) == (128 * GIB, 5 * GIB)


def test_memory_of_engines_is_that_of_sleepers_once_their_runner_says_that_they_sleep() -> None:
    model = make.model(memory="4Gi")
    runner = make.serving(make.runner(model, "n1"))
    assert runner.assignment is not None and runner.status is not None
    engine = msgspec.structs.replace(
        runner.assignment.engines[0],
        state=DesiredState.ASLEEP,
        wake=WakePolicy.ON_ASSIGNMENT,
        asleep_bytes=GIB,
    )
    ordered = replace(runner, assignment=msgspec.structs.replace(runner.assignment, engines=(engine,)))
    assert engine_bytes(make.fleet(model, ordered)) == {"awake": 4 * GIB}
    told = msgspec.structs.replace(runner.status.engines[0], state=EngineState.ASLEEP)
    asleep = replace(ordered, status=msgspec.structs.replace(runner.status, engines=(told,)))
    assert engine_bytes(make.fleet(model, asleep)) == {"asleep": GIB}
