"""What a runner's pod is made from, whoever owns it: a model's own runner has room for that model, a pool's for any."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmfleet_api import names
from warmfleet_api.pod_template import Toleration
from warmfleet_operator.build.template import image_of
from warmfleet_operator.decide.fleet import Limits, Model, Owner, Pool

_HASH_LENGTH = 10


@dataclass(frozen=True, slots=True)
class RunnerShape:
    """The part of a runner's pod that differs from owner to owner. Quantities as the user wrote them."""

    kind: str
    image: str
    gpus: int
    gpu_resource: str
    cpu: str
    memory: str
    node_selector: Mapping[str, str]
    tolerations: Sequence[Toleration]
    runtime_class_name: str | None
    image_pull_secrets: Sequence[str]


def shape_of(owner: Owner, limits: Limits) -> RunnerShape:
    """Return the shape of a model's own runners, or of a pool's."""
    return _own_shape(owner, limits) if isinstance(owner, Model) else _pool_shape(owner, limits)


def pool_hash(pool: Mapping[str, object], limits: Limits) -> str:
    """Hash what a pool's runners depend on: the user's fields (as JSON) and the image."""
    fields = {name: value for name, value in pool.items() if name not in {"replicas", "maxEngines"}}
    image = pool.get("image") or limits.default_image
    canonical = json.dumps([fields, image], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_LENGTH]


def _own_shape(model: Model, limits: Limits) -> RunnerShape:
    spec, template = model.spec, model.spec.pod_template
    return RunnerShape(
        kind=names.MODEL_DEPLOYMENT_KIND,
        image=image_of(spec, limits.default_image),
        gpus=spec.gpus,
        gpu_resource=spec.resources.gpu_resource,
        cpu=str(spec.resources.cpu),
        memory=str(spec.resources.memory),
        node_selector=template.node_selector,
        tolerations=template.tolerations,
        runtime_class_name=template.runtime_class_name,
        image_pull_secrets=[secret.name for secret in template.image_pull_secrets],
    )


def _pool_shape(pool: Pool, limits: Limits) -> RunnerShape:
    spec = pool.spec
    return RunnerShape(
        kind=names.WARM_POOL_KIND,
        image=spec.image or limits.default_image,
        gpus=spec.gpus,
        gpu_resource=spec.gpu_resource,
        cpu=str(spec.cpu),
        memory=str(spec.memory),
        node_selector=spec.node_selector,
        tolerations=spec.tolerations,
        runtime_class_name=spec.runtime_class_name,
        image_pull_secrets=[secret.name for secret in spec.image_pull_secrets],
    )
