"""The block `spec.podTemplate`: fields of a runner's pod that a platform needs."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from warmfleet_api.fields import LABEL_KEY_PATTERN, LabelValue, ObjectName
from warmfleet_api.lists import UniqueBy
from warmfleet_api.rules import Block, rule


class Toleration(Block):
    """A toleration as in a pod."""

    key: Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, max_length=316)] | None = None
    """Taint key; left out with operator Exists tolerates all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists or Equal."""
    value: LabelValue | None = None
    """Taint value, with Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """NoSchedule, PreferNoSchedule or NoExecute; left out it matches all."""

    @rule(
        "self.operator == 'Exists' || (has(self.key) && size(self.key) > 0)",
        "a toleration without a key needs operator: Exists",
    )
    def equal_needs_a_key(self: Self) -> bool:  # noqa: D102
        return self.operator == "Exists" or bool(self.key)

    @rule(
        "self.operator == 'Equal' || !has(self.value) || size(self.value) == 0",
        "a toleration with operator: Exists takes no value",
    )
    def exists_takes_no_value(self: Self) -> bool:  # noqa: D102
        return self.operator == "Equal" or not self.value


class LocalObjectReference(Block):
    """A Secret of the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class PodTemplate(Block):
    """Fields of the runner's pod that a platform needs; never a whole PodSpec."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^\S+$")] | None = None
    """Runtime image, e.g. to pin an engine version for this model. Default: the operator's."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints the runner tolerates."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass, e.g. nvidia."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8), UniqueBy("name")] = []
    """Secrets to pull the image with."""

    @rule(
        "!has(self.nodeSelector) || self.nodeSelector.all(key, size(key) <= 317"
        f" && key.matches(r'{LABEL_KEY_PATTERN}'))",
        "podTemplate.nodeSelector has a key that no label can have, write e.g. topology.kubernetes.io/zone",
        field_path=".nodeSelector",
    )
    def node_selector_keys_are_labels(self: Self) -> bool:  # noqa: D102
        return all(len(key) <= 317 and re.fullmatch(LABEL_KEY_PATTERN, key) for key in self.node_selector)
