"""Models in the runners of pools: started warm, moved, rolled, drained; and what the pool says of itself."""

from typing import Any

import pytest

from support.endstate import wait_tidy
from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace, settled
from support.pools import warm_pool
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]


def runner_of(namespace: Namespace, model: str) -> str:
    """Return the name of the runner that hosts the model's only engine, once no former one is left in its status."""

    def engines() -> list[Object]:
        found: list[Object] = namespace.model(model)["status"]["engines"]
        return found

    (only,) = namespace.wait("one engine", lambda: found if len(found := engines()) == 1 else None)
    return str(only["runner"])


def small_pool(**fields: Any) -> Object:
    return warm_pool(**{"cpu": "10m", "memory": "4Gi", **fields})


def test_two_models_start_in_one_running_runner(namespace: Namespace) -> None:
    namespace.apply(small_pool())
    pool = namespace.wait_pool("pool")
    assert (pool["status"]["free"], pool["status"]["busy"], pool["status"]["models"]) == (1, 0, 0)
    before = namespace.runners("pool")[0]["metadata"]["uid"]
    for model in ("first", "second"):
        namespace.apply(simulated(model, pools=["pool"]))
        namespace.wait_ready(model)
        start = namespace.model(model)["status"]["lastStart"]
        assert start["startType"] == "Warm"
        assert [stage["name"] for stage in start["stages"]][:3] == ["Queued", "RunnerReady", "EngineForked"]
        assert start["stages"][-1]["name"] == "Routable"
    assert [each["metadata"]["uid"] for each in namespace.runners("pool")] == [before]
    namespace.wait("the pool counts them", lambda: namespace.pool("pool")["status"]["models"] == 2)
    assert namespace.pool("pool")["status"]["busy"] == 1
    columns = namespace.kubectl("get", "wp").splitlines()
    assert columns[0].split() == ["NAME", "RUNNERS", "FREE", "BUSY", "MODELS", "AGE"]
    assert columns[1].split()[:5] == ["pool", "1", "0", "1", "2"]


def test_models_go_to_the_default_pool_and_back_to_own_runners_when_it_ends(namespace: Namespace) -> None:
    namespace.apply(simulated("moves"))
    namespace.wait_ready("moves")
    namespace.apply(warm_pool("default", cpu="10m", memory="4Gi"))
    namespace.wait("it is in the pool", lambda: namespace.runners("moves") == [] and settled(namespace.model("moves")))
    assert runner_of(namespace, "moves").startswith("default-0-")
    namespace.api.delete(f"{namespace.pools_path}/default")
    namespace.wait("it has its own runner", lambda: len(namespace.runners("moves")) == 1)
    namespace.wait_ready("moves")
    namespace.wait("the pool's runner is gone", lambda: not namespace.runners("default"))
    wait_tidy(namespace)


def test_a_deleted_model_leaves_the_runner_to_others(namespace: Namespace) -> None:
    namespace.apply(small_pool(), simulated("gone", pools=["pool"]), simulated("kept", pools=["pool"]))
    namespace.wait_ready("gone", "kept")
    namespace.remove("gone")

    def label() -> str | None:
        found: str | None = namespace.runners("pool")[0]["metadata"]["labels"].get(names.serve_label("gone"))
        return found

    namespace.wait("its engine is out of the runner", lambda: label() is None)
    assert settled(namespace.model("kept"))
    namespace.wait("the pool counts one model", lambda: namespace.pool("pool")["status"]["models"] == 1)


def test_a_changed_spec_rolls_out_in_the_pool_while_the_model_stays_ready(namespace: Namespace) -> None:
    namespace.apply(small_pool(), simulated("rolled", pools=["pool"]))
    namespace.wait_ready("rolled")
    namespace.change("rolled", engine={"simulated": {"tokensPerSecond": 321}})
    seen: set[str] = set()

    def replaced() -> bool:
        model = namespace.model("rolled")
        seen.update(
            f"{each['status']} {each['reason']}" for each in model["status"]["conditions"] if each["type"] == "Ready"
        )
        return settled(model) and [each["id"] for each in model["status"]["engines"]] == ["rolled-0-2"]

    namespace.wait("the new spec serves and the old engine is gone", replaced)
    assert seen == {"True Serving"}


def test_a_changed_pool_rolls_while_its_models_stay_ready(namespace: Namespace) -> None:
    namespace.apply(small_pool(replicas=2), *(simulated(f"m-{number}", pools=["pool"]) for number in range(3)))
    namespace.wait_ready("m-0", "m-1", "m-2")
    before = {each["metadata"]["uid"] for each in namespace.runners("pool")}
    namespace.api.merge(f"{namespace.pools_path}/pool", {"spec": {"cpu": "20m"}})
    seen: set[str] = set()

    def replaced() -> bool:
        for model in namespace.models().values():
            seen.update(each["status"] for each in model["status"]["conditions"] if each["type"] == "Ready")
        return len(namespace.runners("pool")) == 2 and not before & {
            each["metadata"]["uid"] for each in namespace.runners("pool")
        }

    namespace.wait("both runners are new", replaced)
    namespace.wait_pool("pool")
    namespace.wait_ready("m-0", "m-1", "m-2")
    assert seen == {"True"}


def test_a_lost_runner_of_a_pool_is_replaced_and_its_models_start_again(namespace: Namespace) -> None:
    namespace.apply(small_pool(replicas=2), simulated("first", pools=["pool"]))
    namespace.wait_pool("pool")
    namespace.wait_ready("first")
    lost = runner_of(namespace, "first")
    namespace.api.delete(f"{namespace.core_path}/pods/{lost}", gracePeriodSeconds=0)

    def moved() -> bool:
        model = namespace.model("first")
        hosts = [engine["runner"] for engine in model["status"].get("engines", [])]
        return settled(model) and bool(hosts) and lost not in hosts

    namespace.wait("another runner serves", moved)
    namespace.wait_pool("pool")


def test_kubectl_scale_changes_how_many_runners_there_are(namespace: Namespace) -> None:
    namespace.apply(small_pool())
    namespace.wait_pool("pool")
    namespace.kubectl("scale", "wp/pool", "--replicas=3")
    namespace.wait("three runners", lambda: namespace.wait_pool("pool")["status"]["readyReplicas"] == 3)
    selector = namespace.pool("pool")["status"]["selector"]
    assert len(namespace.api.list(f"{namespace.core_path}/pods", labelSelector=selector)) == 3
    namespace.kubectl("scale", "wp/pool", "--replicas=1")
    namespace.wait("one runner", lambda: len(namespace.runners("pool")) == 1)


def test_what_needs_no_restart_reaches_the_running_engine(namespace: Namespace) -> None:
    namespace.apply(small_pool(), simulated("kept", pools=["pool"]))
    namespace.wait_ready("kept")
    engine = namespace.model("kept")["status"]["engines"][0]
    namespace.change("kept", serving={"queue": {"maxRequests": 7}})

    def told() -> bool:
        annotations = namespace.runners("pool")[0]["metadata"]["annotations"]
        return '"maxRequests":7' in annotations[names.ANNOTATION_ASSIGNMENT]

    namespace.wait("the assignment says so", told)
    namespace.wait_ready("kept")
    assert namespace.model("kept")["status"]["engines"][0]["id"] == engine["id"]


def test_a_missing_pool_is_named_and_found_when_it_comes(namespace: Namespace) -> None:
    namespace.apply(simulated("early", pools=["late"]))
    found = namespace.wait_condition("early", "Scheduled", "False", "PoolNotFound")
    assert "has no WarmPool late" in found["message"]
    namespace.apply(warm_pool("late", cpu="10m", memory="4Gi"))
    namespace.wait_ready("early")


def test_a_pool_whose_runners_are_refused_says_why(namespace: Namespace) -> None:
    namespace.apply(small_pool(runtimeClassName="missing"))
    namespace.wait(
        "Stalled",
        lambda: [
            each
            for each in namespace.pool("pool").get("status", {}).get("conditions", [])
            if each["type"] == "Stalled" and 'RuntimeClass "missing" not found' in each["message"]
        ],
    )
