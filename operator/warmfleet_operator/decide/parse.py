"""From an object of the API server to the model the decisions work with."""

from dataclasses import replace

from pydantic import ValidationError

from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.pod_template import PodTemplate
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.warm_pool import DEFAULT_POOL, WarmPoolSpec, WarmPoolStatus
from warmfleet_operator.build.shape import pool_hash
from warmfleet_operator.build.template import image_of, template_hash
from warmfleet_operator.decide.canary import beside, read_stable
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey, Pool, PoolKey
from warmfleet_operator.decide.problems import problem_of
from warmfleet_operator.decide.weights import needed_entries
from warmfleet_operator.records import ModelDeployment, Service, WarmPool

_IMAGE_OF_THE_POOL = ""
"""An engine in a pool does not depend on the image: it moves to another runner when its pool changes that."""


def parse_model(
    record: ModelDeployment, limits: Limits, service: Service | None = None, *, has_default_pool: bool = False
) -> Model | str:
    """Return the model, or why its spec can't be read: it was written for another version of the API.

    `service` is what bears the model's name in its namespace, if anything does. `has_default_pool` says whether the
    namespace has a pool for models that name none and shape no runners of their own. A status that can't be read counts
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
    pools = tuple(spec.pools)
    if not pools and has_default_pool and spec.pod_template == PodTemplate():
        pools = (DEFAULT_POOL,)
    model = Model(
        key=ModelKey(record.metadata.namespace, record.metadata.name),
        metadata=record.metadata,
        spec=spec,
        hash=template_hash(spec, limits.default_image if not pools else _IMAGE_OF_THE_POOL),
        status=status,
        problem=problem_of(record.metadata, spec, service),
        pools=pools,
        weights=needed_entries(record.metadata.namespace, spec, status),
        image=image_of(spec, limits.default_image) if not pools else "",
    )
    rollout = status.rollout
    if spec.rollout.canary_weight is None or rollout is None or rollout.stable_hash == model.hash:
        return model
    stable = read_stable(spec, rollout)
    if stable is None:
        return model
    return beside(
        model,
        replace(
            model,
            spec=stable,
            hash=rollout.stable_hash,
            problem=problem_of(record.metadata, stable, service),
            pools=tuple(rollout.stable_pools),
            weights=needed_entries(record.metadata.namespace, stable, status),
        ),
    )


def parse_pool(record: WarmPool, limits: Limits) -> Pool | str:
    """Return the pool, or why its spec can't be read: it was written for another version of the API."""
    try:
        spec = WarmPoolSpec.model_validate(record.spec)
    except ValidationError as error:
        return "; ".join(
            f"spec.{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:3]
        )
    try:
        status = WarmPoolStatus.model_validate(record.status)
    except ValidationError:
        status = WarmPoolStatus()
    return Pool(
        key=PoolKey(record.metadata.namespace, record.metadata.name),
        metadata=record.metadata,
        spec=spec,
        hash=pool_hash(spec.model_dump(mode="json", by_alias=True, exclude_defaults=True), limits),
        status=status,
    )
