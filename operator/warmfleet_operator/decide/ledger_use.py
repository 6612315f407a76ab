"""How much of the fleet is taken, all nodes together: what the metrics show of the ledger. Pure."""

from collections import Counter
from collections.abc import Mapping

from warmfleet_api import names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_operator.decide.fleet import Fleet
from warmfleet_operator.decide.ledger import requests_once
from warmfleet_operator.decide.requests import MEMORY, amount

GPUS = "gpus"
KINDS = ("capacity", "used")
STATES = ("awake", "asleep")


def gpu_resources(fleet: Fleet) -> list[str]:
    """Return the extended resources that count GPUs for models or pools."""
    specs = (
        *(model.spec.resources.gpu_resource for model in fleet.models.values()),
        *(pool.spec.gpu_resource for pool in fleet.pools.values()),
    )
    return sorted({names.DEFAULT_GPU_RESOURCE, *specs})


def ledger_use(fleet: Fleet) -> Mapping[tuple[str, str], int]:
    """Return GPUs and bytes of memory of all nodes, each as capacity and as what pods of anybody take."""
    resources, use = gpu_resources(fleet), Counter[tuple[str, str]]()
    for node in fleet.nodes.values():
        allocatable = node.status.allocatable
        use[GPUS, "capacity"] += sum(amount(each, allocatable.get(each, 0)) for each in resources)
        use[MEMORY, "capacity"] += amount(MEMORY, allocatable.get(MEMORY, 0))
    for pod in (*(runner.pod for runner in fleet.runners), *fleet.strangers):
        if not pod.is_terminal:
            taken = requests_once(pod)
            use[GPUS, "used"] += sum(taken.get(each, 0) for each in resources)
            use[MEMORY, "used"] += taken.get(MEMORY, 0)
    return use


def engine_bytes(fleet: Fleet) -> Mapping[str, int]:
    """Return the memory that is reserved for engines in all runners: of those awake, and of those asleep."""
    reserved = Counter[str]()
    for runner in fleet.runners:
        told = {each.id: each for each in runner.status.engines} if runner.status is not None else {}
        for engine in runner.assignment.engines if runner.assignment is not None else ():
            seen = told.get(engine.id)
            asleep = seen is not None and seen.state is EngineState.ASLEEP
            reserved["asleep" if asleep else "awake"] += reserved_bytes(engine, seen)
    return reserved


def reserved_bytes(engine: EngineAssignment, told: EngineStatus | None) -> int:
    """Return what the ledger keeps for an engine: all it needs awake, until its runner says that it sleeps by order."""
    ordered = engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
    sleeps = told is not None and told.state is EngineState.ASLEEP
    return engine.asleep_bytes if ordered and sleeps else engine.awake_bytes
