"""Assignments: a runner's engines, each as its model wants it. Every change of one takes the next revision."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from warmfleet_api import assignment as wire
from warmfleet_api import names
from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.weights import folder_of
from warmfleet_operator.build.template import engine_spec, runner_name, serving_of, warmup_of
from warmfleet_operator.decide.canary import variant
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey, Runner
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.runners import hash_of, owner_of, place_of
from warmfleet_operator.decide.start_budget import awake_bytes, start_budget_seconds

_WIRE_STEP = 512
_wire_bytes: Remembered[int] = Remembered()
MAX_WIRE_BYTES = wire.MAX_BYTES - 512
"""Of all engines of an annotation; the rest is for revision and keys."""


def assignment_of(model: Model, revision: int, limits: Limits | None = None) -> Assignment:
    """Return the assignment of a model's own runner: one engine, the same id over all restarts."""
    engine = _engine(
        model,
        f"{model.key.name}-0",
        gpus=range(model.spec.gpus),
        spec=engine_spec(model.key.name, model.spec, _folders(model)),
    )
    return whole(revision, (engine,), (limits.trusted_keys or ()) if limits is not None else ())


def pooled_engine(model: Model, slot: int, attempt: int, gpus: Sequence[int]) -> EngineAssignment:
    """Return an engine of the model for the runner of a pool; `gpus` are the runner's that it gets."""
    return _engine(
        model,
        runner_name(model.key.name, slot, attempt),
        gpus=gpus,
        spec=engine_spec(model.key.name, model.spec, _folders(model)),
    )


def restored(runner: Runner, models: Mapping[ModelKey, Model]) -> tuple[EngineAssignment, ...] | None:
    """Return the engines of a runner whose assignment is damaged; None where they can't be known (yet).

    An own runner's is made from the model's spec. What the runner of a pool hosts is read from its status, and made
    from the specs that are still the same; GPUs are dealt out anew.
    """
    metadata = runner.pod.metadata
    owner = owner_of(runner.pod)
    if isinstance(owner, ModelKey):
        model = _variant(models.get(owner), hash_of(runner.pod))
        same = (
            model is not None
            and metadata.controller_uid == model.metadata.uid
            and hash_of(runner.pod) == model.hash
            and model.knows_weights
        )
        return assignment_of(model, 1).engines if model is not None and same else None
    if runner.status is None:
        return None
    engines: list[EngineAssignment] = []
    gpu = 0
    for told in runner.status.engines:
        model = _variant(models.get(ModelKey(owner.namespace, told.model)), told.hash)
        if model is not None and (model.metadata.uid, model.hash) == (told.model_uid, told.hash):
            if not model.knows_weights:
                return None
            engines.append(pooled_engine(model, *place_of(told.id), range(gpu, gpu + model.spec.gpus)))
            gpu += model.spec.gpus
    return tuple(engines)


def refreshed(engine: EngineAssignment, model: Model) -> EngineAssignment:
    """Return the engine with all that reaches it while it runs: no change here starts it anew."""
    return msgspec.structs.replace(
        engine,
        serving=serving_of(model.spec),
        warmup=warmup_of(model.spec),
        order=model.spec.priority.rank,
    )


def wire_bytes(engine: EngineAssignment) -> int:
    """Return what an engine takes of an annotation, rounded up so that models that are alike have equal needs."""
    known = _wire_bytes.get(engine.id, engine)
    if known is None:
        known = _wire_bytes.keep(engine.id, -(-len(msgspec.json.encode(engine)) // _WIRE_STEP) * _WIRE_STEP, engine)
    return known


def whole(revision: int, engines: Iterable[EngineAssignment], trusted_keys: tuple[str, ...]) -> Assignment:
    """Return an assignment of this version."""
    return Assignment(version=wire.VERSION, revision=revision, engines=tuple(engines), trusted_keys=trusted_keys)


def _variant(model: Model | None, hash_: str) -> Model | None:
    return variant(model, hash_) if model is not None else None


def _folders(model: Model) -> Callable[[str], str]:
    """Return where in a runner each uri is found; a Simulated engine finds nothing, and looks for nothing."""
    found = {entry.uri: folder_of(entry.key) for entry in model.weights}
    return lambda uri: found.get(uri, names.WEIGHTS_DIRECTORY)


def _engine(model: Model, id_: str, *, gpus: Iterable[int], spec: wire.EngineSpec) -> EngineAssignment:
    return EngineAssignment(
        id=id_,
        model=model.key.name,
        model_uid=model.metadata.uid,
        hash=model.hash,
        gpus=tuple(gpus),
        awake_bytes=awake_bytes(model),
        order=model.spec.priority.rank,
        start_budget_seconds=start_budget_seconds(model),
        engine=spec,
        serving=serving_of(model.spec),
        warmup=warmup_of(model.spec),
    )
