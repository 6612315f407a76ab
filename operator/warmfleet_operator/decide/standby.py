"""Standbys: which of a model's places only stand by, where others may, and what is held for them. Pure.

A place *rests* while it is told to sleep though its model is awake, or is an own runner without an engine. Of the
places that stay the first serve, as many as replicas are wanted, resting ones last: so a lost replica leaves its number
to a standby, which is *promoted* by being told to wake or to start. Nothing else records who is what: the assignments
do.

What is held differs by mode. Hot: a sleeping engine. Warm: room in a runner of a pool, counted anew in each round, or a
runner of the model's own; and the weights in memory there. Cold: the weights on disk there. `standby_places.py` finds
the places.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec

from warmfleet_api.standby import HOSTNAME_LABEL, Standby
from warmfleet_api.vocabulary import EngineState, StartType
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.records import Node

STEADY_SECONDS = 60.0
"""For how long it counts that a runner was lost though it is there again: so long no standby comes to its node."""


class Standing(NamedTuple):
    """The places of a model that stay, by what they are for."""

    replicas: list[Member]
    """Those that serve, or are to."""
    standbys: list[Member]
    others: list[Member]
    """Those that nobody wants."""


def standing(model: Model, staying: Sequence[Member], nodes: Mapping[str, Node]) -> Standing:
    """Sort the places that stay, the best first, by what they are for."""
    wanted, standby = model.spec.replicas, model.spec.standby
    if standby is None:
        return Standing(list(staying[:wanted]), [], list(staying[wanted:]))
    awake_first = sorted(staying, key=is_resting)
    replicas = awake_first[:wanted]
    taken = {domain_of(nodes.get(each.node), standby) for each in replicas}
    standbys: list[Member] = []
    others: list[Member] = []
    for member in awake_first[wanted:]:
        domain = domain_of(nodes.get(member.node), standby)
        suits = is_held(member, model) and domain and domain not in taken
        (standbys if suits and len(standbys) < standby.replicas else others).append(member)
    return Standing(replicas, standbys, others)


def is_reserve(member: Member) -> bool:
    """Whether it is a runner of the model's own without an engine."""
    runner = member.runner
    return not member.pool and runner.assignment is not None and not runner.assignment.engines


def is_resting(member: Member) -> bool:
    """Whether it is told to serve nothing."""
    return member.is_told_to_sleep or is_reserve(member)


def is_held(member: Member, model: Model) -> bool:
    """Whether a place that rests is what the model's standby holds."""
    mode = model.spec.standby.mode if model.spec.standby is not None else None
    if mode is StartType.HOT:
        return member.is_told_to_sleep
    return mode is StartType.WARM and not model.pools and is_reserve(member)


def stands_by(member: Member, model: Model) -> bool:
    """Whether a place is held for a loss and serves nobody: it is given up before anything that serves."""
    return model.spec.standby is not None and model.status.dormant is None and is_resting(member)


def holds_places(model: Model) -> bool:
    """Whether a standby of the model is a place in a runner, and not only room and weights."""
    standby = model.spec.standby
    return standby is not None and (
        standby.mode is StartType.HOT or (standby.mode is StartType.WARM and not model.pools)
    )


def domain_of(node: Node | None, standby: Standby) -> str:
    """Return what is lost together with a node, by its label; empty: it has no such label."""
    if node is None:
        return ""
    found = node.metadata.labels.get(standby.topology_key, "")
    return found or (node.metadata.name if standby.topology_key == HOSTNAME_LABEL else "")


def has_returned(member: Member) -> bool:
    """Whether its runner was lost lately and is there again: it may be lost again at any time."""
    return member.runner.returned_seconds is not None


def as_shown(member: Member, model: Model) -> Member:
    """Return the place as its label tells of it: one that stands by is asleep, also in the moment before it is.

    Else requests would come to an engine that has just started, and keep it from falling asleep.
    """
    engine = member.engine
    if engine is None or engine.state is not EngineState.READY or not stands_by(member, model):
        return member
    return replace(member, engine=msgspec.structs.replace(engine, state=EngineState.ASLEEP))


def why_promoted(members: Iterable[Member]) -> str:
    """Return why replicas are missing, if some were lost; empty: none was."""
    return next(
        (
            f"{member.name} on {member.node} is lost: {member.lost or 'its pod ended'}"
            for member in members
            if (member.lost or member.pod.is_terminal) and not is_resting(member) and member.node
        ),
        "",
    )
