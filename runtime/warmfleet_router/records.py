"""Trimmed records of the two kinds of objects the router reads, and where they are."""

from collections.abc import Mapping
from typing import Any

import msgspec

from warmfleet_api import names
from warmfleet_kube.objects import Object, Record, Resource


class PodStatus(Record, frozen=True, kw_only=True):
    """What the router reads of a runner's status."""

    phase: str = "Pending"
    pod_ip: str = msgspec.field(default="", name="podIP")


class Pod(Object, frozen=True, kw_only=True):
    """A runner."""

    status: PodStatus = PodStatus()


class ModelDeployment(Object, frozen=True, kw_only=True):
    """A ModelDeployment with spec and status as plain JSON: both are parsed once per version, in the catalogue."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class Tenant(Object, frozen=True, kw_only=True):
    """A Tenant with spec and status as plain JSON: the spec is parsed once per version, by the keeper."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class Secret(Object, frozen=True, kw_only=True):
    """A Secret; its values are base64."""

    data: Mapping[str, str] | None = None


PODS = Resource("", "v1", "pods", "Pod", Pod)
MODEL_DEPLOYMENTS = Resource(
    names.GROUP, names.VERSION, names.MODEL_DEPLOYMENT_PLURAL, names.MODEL_DEPLOYMENT_KIND, ModelDeployment
)
TENANTS = Resource(names.GROUP, names.VERSION, names.TENANT_PLURAL, names.TENANT_KIND, Tenant)
SECRETS = Resource("", "v1", "secrets", "Secret", Secret)
RUNNERS = names.LABEL_RUNNER
"""Selects the pods that are runners, and those of others that serve models too."""


def trim_pod(pod: Pod) -> Pod:
    """Keep what says which engines a runner has: labels of engines, and the assignment."""
    metadata = pod.metadata
    labels = {name: value for name, value in metadata.labels.items() if name.startswith(names.SERVE_LABEL_PREFIX)}
    assignment = metadata.annotations.get(names.ANNOTATION_ASSIGNMENT)
    annotations = {} if assignment is None else {names.ANNOTATION_ASSIGNMENT: assignment}
    kept = msgspec.structs.replace(metadata, labels=labels, annotations=annotations, owner_references=())
    return msgspec.structs.replace(pod, metadata=kept)
