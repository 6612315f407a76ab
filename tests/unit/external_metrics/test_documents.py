"""What is answered, in the API's own shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_api import names
from warmfleet_api.operator_api import ModelScaling, ScalingAnswer
from warmfleet_external_metrics import documents
from warmfleet_external_metrics.selectors import parse

TIME = "2026-11-22T00:55:00Z"
ANSWER = ScalingAnswer(
    time=TIME,
    models=(
        ModelScaling(namespace="team", model="llama", value=60),
        ModelScaling(namespace="team", model="idle", value=0),
        ModelScaling(namespace="team", model="unknown", value=None),
        ModelScaling(namespace="other", model="llama", value=7.5),
    ),
)


def test_a_model_has_one_value_with_its_labels() -> None:
    assert documents.values(ANSWER, "team", names.METRIC_DEMAND, parse("model=llama")) == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "warmfleet_demand",
                "metricLabels": {"namespace": "team", "model": "llama"},
                "timestamp": TIME,
                "value": "60",
            }
        ],
    }


@pytest.mark.parametrize("model", ["unknown", "never-heard-of"])
def test_of_what_is_not_known_there_is_no_value_and_not_zero(model: str) -> None:
    assert documents.values(ANSWER, "team", names.METRIC_DEMAND, parse(f"model={model}"))["items"] == []


def test_nothing_wanted_is_zero() -> None:
    (item,) = documents.values(ANSWER, "team", names.METRIC_DEMAND, parse("model=idle"))["items"]
    assert item["value"] == "0"


def test_a_namespace_sees_its_own_models_alone() -> None:
    found = documents.values(ANSWER, "other", names.METRIC_DEMAND, parse(""))["items"]
    assert [(each["metricLabels"]["namespace"], each["value"]) for each in found] == [("other", "7500m")]


@given(st.floats(min_value=0, max_value=1e12))
def test_a_value_is_a_quantity_that_is_never_too_small(value: float) -> None:
    written = documents.quantity(value)
    number = float(written[:-1]) / 1000 if written.endswith("m") else float(written)
    assert value <= number * (1 + 1e-12) <= value * (1 + 2e-12) + 0.001 + 1e-9
    assert value != 0 or written == "0"


def test_an_error_is_the_status_that_clients_of_kubernetes_read() -> None:
    assert documents.status(503, "gone", 1) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "gone",
        "reason": "ServiceUnavailable",
        "details": {"retryAfterSeconds": 1},
        "code": 503,
    }
