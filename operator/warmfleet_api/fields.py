"""Kinds of fields that blocks of several objects have."""

from typing import Annotated

from pydantic import Field, StringConstraints

from warmfleet_api import quantity

MAX_GPUS = 64
"""Of one engine, which runs on one node."""
ON_THE_NODE = "file:///"
"""Starts the uri of a folder of the node."""
URI_PATTERN = r"^((hf|s3|gs|https|oci)://|file:///)[^\s]+$"
"""Where weights can come from."""
LABEL_KEY_PATTERN = r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=quantity.PATTERN, max_length=32)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
CountOrShare = Annotated[
    Annotated[int, Field(ge=0, le=1000)]
    | Annotated[str, StringConstraints(pattern=r"^(100|[1-9]?[0-9])%$", max_length=4)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""A number of replicas, or a share of them as in `25%`."""
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
ObjectName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", min_length=1, max_length=253
    ),
]
GpuResource = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=128
    ),
]
"""An extended resource that counts GPUs."""


def is_none(value: int | str) -> bool:
    """Whether a `CountOrShare` is nothing, however many replicas there are."""
    return value in {0, "0%"}
