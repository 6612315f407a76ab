"""What a runner's pod is made from, whoever owns it: a model's own runner has room for that model, a pool's for any.

Until the weight store exists, `file://` models are mounted from the node (docs/design/0003): an own runner sees the
folders its model names and nothing else, a pool's runner the roots that an administrator named, as nobody knows yet
which models will come.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from warmfleet_api import names
from warmfleet_api.pod_template import Toleration
from warmfleet_operator.build.template import image_of, uris_of
from warmfleet_operator.decide.fleet import Limits, Model, Owner, Pool

_FILE_SCHEME = "file://"
_URI_DIGITS = 16
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
    folders: Mapping[str, str]
    """Path in the runner → folder of the node, read-only."""


def shape_of(owner: Owner, limits: Limits) -> RunnerShape:
    """Return the shape of a model's own runners, or of a pool's."""
    return _own_shape(owner, limits) if isinstance(owner, Model) else _pool_shape(owner, limits)


def pool_hash(pool: Mapping[str, object], limits: Limits) -> str:
    """Hash what a pool's runners depend on: the user's fields (as JSON), the image, and what they see of the node."""
    fields = {name: value for name, value in pool.items() if name not in {"replicas", "maxEngines"}}
    canonical = json.dumps(
        [fields, pool.get("image") or limits.default_image, limits.file_roots], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_LENGTH]


def own_folder(uri: str) -> str:
    """Return where a model's own runner finds what a uri names."""
    digest = hashlib.sha256(uri.encode()).hexdigest()[:_URI_DIGITS]
    return f"{names.WEIGHTS_DIRECTORY}/{digest}"


def pool_folder(uri: str, limits: Limits) -> str:
    """Return where a pool's runner finds what a uri names: below the root it lies in."""
    folder = PurePosixPath(uri.removeprefix(_FILE_SCHEME))
    for number, root in enumerate(limits.file_roots):
        if PurePosixPath(root) in folder.parents:
            return f"{_root_folder(number)}/{folder.relative_to(root)}"
    return own_folder(uri)  # of a uri that names no folder of the node: nothing is read there


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
        folders={
            own_folder(uri): uri.removeprefix(_FILE_SCHEME) for uri in uris_of(spec) if uri.startswith(_FILE_SCHEME)
        },
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
        folders={_root_folder(number): root for number, root in enumerate(limits.file_roots)},
    )


def _root_folder(number: int) -> str:
    return f"{names.WEIGHTS_DIRECTORY}/roots-{number}"
