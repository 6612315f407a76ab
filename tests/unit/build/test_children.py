"""A model's Service and a namespace's PodDisruptionBudget."""

import kubernetes_validate

from support import make
from warmfleet_api import names
from warmfleet_operator.build.budget import last_ready_budget
from warmfleet_operator.build.service import endpoint_of, model_service

KUBERNETES = "1.35"


def test_the_service_selects_ready_engines_of_its_model_and_goes_with_it() -> None:
    model = make.model("llama", namespace="team")
    service = model_service(model)
    kubernetes_validate.validate(service, KUBERNETES, strict=True)
    assert service["spec"]["selector"] == {"serve.warmfleet.dev/llama": "Ready"}
    assert service["spec"]["ports"][0]["port"] == names.SERVICE_PORT
    assert service["metadata"]["ownerReferences"][0]["uid"] == model.metadata.uid
    assert endpoint_of(model.key) == "http://llama.team.svc/v1"


def test_the_budget_lets_no_protected_runner_be_evicted_unless_it_is_not_ready() -> None:
    budget = last_ready_budget("team")
    kubernetes_validate.validate(budget, KUBERNETES, strict=True)
    assert budget["spec"] == {
        "maxUnavailable": 0,
        "selector": {"matchLabels": {"warmfleet.dev/protected": "true"}},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
