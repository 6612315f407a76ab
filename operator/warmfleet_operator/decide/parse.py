"""From an object of the API server to the model the decisions work with."""

from pydantic import ValidationError

from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_operator.build.template import template_hash
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey
from warmfleet_operator.decide.problems import problem_of
from warmfleet_operator.records import ModelDeployment, Service


def parse_model(record: ModelDeployment, limits: Limits, service: Service | None = None) -> Model | str:
    """Return the model, or why its spec can't be read: it was written for another version of the API.

    `service` is what bears the model's name in its namespace, if anything does. A status that can't be read counts
    as none: it is written anew.
    """
    try:
        spec = ModelDeploymentSpec.model_validate(record.spec)
    except ValidationError as error:
        return "; ".join(
            f"spec.{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:3]
        )
    try:
        status = ModelDeploymentStatus.model_validate(record.status)
    except ValidationError:
        status = ModelDeploymentStatus()
    return Model(
        key=ModelKey(record.metadata.namespace, record.metadata.name),
        metadata=record.metadata,
        spec=spec,
        hash=template_hash(spec, limits.default_image),
        status=status,
        problem=problem_of(record.metadata, spec, limits, service),
    )
