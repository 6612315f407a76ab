"""What a model's engines and routers say of its load at one moment, as the policies of autoscaling see it. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from warmfleet_api import names, quantity
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.scaling import Sample
from warmfleet_operator.decide.situation import Situation

_SERVED = {EngineState.READY.value, names.SERVE_LOST}


def sample_of(situation: Situation, unheard: str, now: datetime) -> Sample:
    """Return what is known of the model's load.

    Args:
        situation: The model as it is.
        unheard: Why not all routers were heard, in words; empty: they were.
        now: The time.
    """
    serving = situation.serving
    engines = [each.engine for each in serving if each.engine is not None]
    heard = [each.engine for each in situation.members if each.engine is not None and not each.lost]
    waiting = sum(each.waiting for each in heard)
    return Sample(
        time=now,
        replicas=situation.wanted,
        ready=len(situation.standing),
        demand=situation.demand.held + waiting + sum(each.running for each in heard),
        missing=unheard or _unheard_of(situation.members),
        capacity=_mean(each.window for each in engines if each.window),
        cpu_percent=_cpu_percent([each.cpu_millicores for each in engines], situation.model.spec.resources.cpu),
        gpu_percent=_mean_of_all([each.gpu_percent for each in engines]),
        latency_milliseconds=_mean_of_all([each.first_token_milliseconds or 0 for each in engines]),
        queue_requests=(situation.demand.held + waiting) // max(1, len(serving)),
    )


def _unheard_of(members: Iterable[Member]) -> str:
    """Say which engine may have requests that nobody tells of."""
    for member in members:
        if member.is_terminating or member.serve_label not in _SERVED:
            continue
        if member.lost or member.engine is None:
            return f"nothing is heard of {member.pod.metadata.name}" + (f": {member.lost}" if member.lost else "")
    return ""


def _cpu_percent(millicores: Sequence[int | None], requested: int | str) -> int | None:
    used = _mean_of_all(millicores)
    return None if used is None else 100 * used // max(1, quantity.to_millicores(requested))


def _mean_of_all(values: Sequence[int | None]) -> int | None:
    """Return the mean, None where one is not known, or there is none."""
    known = [each for each in values if each is not None]
    return _mean(known) if len(known) == len(values) else None


def _mean(values: Iterable[int]) -> int | None:
    all_ = list(values)
    return sum(all_) // len(all_) if all_ else None
