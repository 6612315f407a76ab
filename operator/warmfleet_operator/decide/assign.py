"""The assignment of a model's own runner: one engine, the same id over all restarts."""

from warmfleet_api import assignment as wire
from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_operator.build.template import engine_spec
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.start_budget import awake_bytes, start_budget_seconds


def assignment_of(model: Model, revision: int) -> Assignment:
    """Return the assignment that hosts the model's engine; each change of it takes the next revision."""
    engine = EngineAssignment(
        id=f"{model.key.name}-0",
        model=model.key.name,
        model_uid=model.metadata.uid,
        hash=model.hash,
        gpus=tuple(range(model.spec.resources.gpus)),
        awake_bytes=awake_bytes(model),
        start_budget_seconds=start_budget_seconds(model),
        engine=engine_spec(model.key.name, model.spec),
    )
    return Assignment(version=wire.VERSION, revision=revision, engines=(engine,))
