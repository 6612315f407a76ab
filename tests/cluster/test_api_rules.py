"""The API server with the install's CRD and policies, and no operator's help: what it lets pass and what it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import autoscaling_objects, pools, standby_objects
from support.cluster import OPERATOR_ACCOUNT, Cluster, CommandError
from support.kubeapi import MDL, MERGE_PATCH, ApiError, Object
from support.namespace import Namespace
from support.objects import BAD, EVERYTHING, GOOD, Bad, Good, model
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.status import MAX_ENGINES, ModelDeploymentStatus
from warmfleet_api.warm_pool import WarmPoolSpec

pytestmark = pytest.mark.cluster

MODELS = f"{MDL}/namespaces/default/{names.MODEL_DEPLOYMENT_PLURAL}"
POOLS = f"{MDL}/namespaces/default/{names.WARM_POOL_PLURAL}"
CACHES = f"{MDL}/{names.WEIGHT_CACHE_PLURAL}"
TENANTS = f"{MDL}/namespaces/default/{names.TENANT_PLURAL}"
SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
NOW = "2026-01-02T03:04:05Z"
ALL_GOOD = (*GOOD, *autoscaling_objects.GOOD, *standby_objects.GOOD, *pools.GOOD)
ALL_BAD = (*BAD, *autoscaling_objects.BAD, *standby_objects.BAD, *pools.BAD)


@pytest.fixture(scope="module")
def admitted(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace with three people: erin may edit, adam is its admin, cleo may give class Critical too."""
    namespace = Namespace(cluster, "test-api-rules")
    namespace.create()
    for user, role in (("erin", "edit"), ("adam", "admin"), ("cleo", "edit"), ("cleo", "warmfleet-priority-critical")):
        namespace.kubectl("create", "rolebinding", f"{user}-{role}", f"--user={user}", f"--clusterrole={role}")
    yield namespace
    namespace.delete()


def collection(body: Object) -> str:
    """Return the path of an object's kind, in the namespace `default` if it has one."""
    others = {names.WARM_POOL_KIND: POOLS, names.WEIGHT_CACHE_KIND: CACHES, names.TENANT_KIND: TENANTS}
    return others.get(body["kind"], MODELS)


@pytest.mark.parametrize("good", ALL_GOOD, ids=lambda good: f"{good.object['kind']}: {good.shows}")
def test_accepts_and_fills_in_what_pydantic_fills_in(cluster: Cluster, good: Good) -> None:
    stored = cluster.api.create(f"{collection(good.object)}?dryRun=All&fieldValidation=Strict", good.object)
    spec = WarmPoolSpec if collection(good.object) == POOLS else ModelDeploymentSpec
    assert spec.model_validate(stored["spec"]) == spec.model_validate(good.object["spec"])


@pytest.mark.parametrize("bad", ALL_BAD, ids=lambda bad: f"{bad.object['kind']}: {bad.shows}")
def test_refuses_and_names_the_field(cluster: Cluster, bad: Bad) -> None:
    with pytest.raises(ApiError) as refusal:
        cluster.api.create(f"{collection(bad.object)}?dryRun=All&fieldValidation=Strict", bad.object)
    assert refusal.value.status in {400, 422}
    assert bad.field in str(refusal.value)
    assert bad.message in str(refusal.value)


def test_kubectl_apply_shows_what_to_change(cluster: Cluster) -> None:
    wrong = model(priority="Urgent", resources={"gpuMemory": "40Gi"}, replica=1)
    with pytest.raises(CommandError) as refusal:
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(wrong))
    assert ".spec.replica: field not declared in schema" in refusal.value.output
    del wrong["spec"]["replica"]
    with pytest.raises(CommandError) as refusal:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(wrong))
    assert 'supported values: "Critical", "High", "Normal", "Low"' in refusal.value.output


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_samples_are_accepted(cluster: Cluster, sample: Path) -> None:
    for body in yaml.safe_load_all(sample.read_text()):
        cluster.api.create(f"{collection(body)}?dryRun=All&fieldValidation=Strict", body)


def test_a_new_object_is_not_yet_observed(cluster: Cluster) -> None:
    stored = cluster.api.create(f"{MODELS}?dryRun=All", model())
    assert stored["status"]["observedGeneration"] == -1


def test_a_full_status_is_stored_as_it_was_written(namespace: Namespace) -> None:
    namespace.apply(model("full", replicas=0))
    status = full_status()
    path = f"{namespace.models_path}/full/status?dryRun=All&fieldValidation=Strict"
    stored = namespace.api.request("PATCH", path, {"status": status}, MERGE_PATCH)
    assert ModelDeploymentStatus.model_validate(stored["status"]) == ModelDeploymentStatus.model_validate(status)


def test_scale_sets_replicas(namespace: Namespace) -> None:
    namespace.apply(model("scaled", replicas=0))
    namespace.kubectl("scale", "mdl/scaled", "--replicas=2")
    assert namespace.model("scaled")["spec"]["replicas"] == 2


def test_get_shows_the_columns_and_selects_by_priority(namespace: Namespace) -> None:
    namespace.apply(model("one", priority="High", replicas=0), model("two", replicas=0))
    table = namespace.kubectl("get", "mdl", "--field-selector", "spec.priority=High").splitlines()
    assert table[0].split() == [
        *("NAME", "READY", "STATUS", "DESIRED", "SERVING", "PRIORITY", "PENDING", "LAST-START", "AGE"),
    ]
    assert [line.split()[0].rpartition("/")[2] for line in table[1:]] == ["one"]
    wide = namespace.kubectl("get", "mdl", "-o", "wide").splitlines()[0].split()
    assert wide[-7:] == ["MODEL", "CANARY", "GPUS", "NODE", "READY-AT", "BLOCKER", "ENDPOINT"]


def test_get_lists_all_kinds_by_their_category(namespace: Namespace) -> None:
    namespace.apply(model("one", replicas=0), pools.warm_pool("two", replicas=0))
    assert namespace.kubectl("get", "warmfleet", "--output=name").split() == [
        "modeldeployment.warmfleet.dev/one",
        "warmpool.warmfleet.dev/two",
    ]


def test_explain_shows_the_descriptions(cluster: Cluster) -> None:
    page = " ".join(cluster.kubectl("explain", "mdl.spec.resources").split())
    for text in ("What one replica needs.", "gpus <integer>", "e.g. 40Gi: nodes whose GPUs have less are passed over"):
        assert text in page


@pytest.mark.parametrize(
    ("user", "priority", "may"),
    [
        ("erin", "Low", True),
        ("erin", "Normal", True),
        ("erin", "High", False),
        ("erin", "Critical", False),
        ("adam", "High", True),
        ("adam", "Critical", False),
        ("cleo", "High", False),
        ("cleo", "Critical", True),
    ],
)
def test_high_classes_need_the_right_to_use_them(admitted: Namespace, user: str, priority: str, may: bool) -> None:
    def refusal() -> str:
        body = json.dumps(model(priority=priority))
        try:
            admitted.kubectl("--as", user, "create", "--dry-run=server", "-f", "-", stdin=body)
        except CommandError as error:
            return error.output
        return ""

    if may:  # aggregated roles follow their labels within moments
        wait_for(f"{user} may ask for {priority}", lambda: refusal() == "" or None, 30, refusal)
    else:
        wanted = f"ClusterRole warmfleet-priority-{priority.lower()}"
        wait_for(f"{user} is told of the {wanted}", lambda: wanted in refusal() or None, 30, refusal)


def test_who_may_not_give_a_class_may_still_scale_and_lower_it(admitted: Namespace) -> None:
    admitted.apply(model("kept", priority="Critical", replicas=0))
    admitted.kubectl("--as", "erin", "scale", "mdl/kept", "--replicas=1")
    admitted.kubectl("--as", "erin", "label", "mdl/kept", "team=search")
    with pytest.raises(CommandError, match="warmfleet-priority-high"):
        admitted.kubectl("--as", "erin", "patch", "mdl/kept", "--type=merge", '-p={"spec":{"priority":"High"}}')
    admitted.kubectl("--as", "erin", "patch", "mdl/kept", "--type=merge", '-p={"spec":{"priority":"Low"}}')


@pytest.mark.parametrize(
    ("verb", "group", "resource", "may"),
    [
        ("patch", names.GROUP, "modeldeployments/status", True),
        ("patch", names.GROUP, "warmpools/status", True),
        ("patch", names.GROUP, "warmpools", False),
        ("create", "", "pods", True),
        ("patch", names.GROUP, "modeldeployments", False),
        ("delete", names.GROUP, "modeldeployments", False),
        ("get", "", "secrets", False),
        ("create", "", "pods/exec", False),
        ("patch", "", "nodes", False),
        ("deletecollection", "", "pods", False),
    ],
)
def test_the_operator_has_the_rights_it_needs_and_no_others(
    cluster: Cluster, verb: str, group: str, resource: str, may: bool
) -> None:
    plural, _, subresource = resource.partition("/")
    attributes: dict[str, Any] = {"verb": verb, "group": group, "resource": plural, "namespace": "default"}
    review: Object = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{OPERATOR_ACCOUNT}",
            "resourceAttributes": attributes | {"subresource": subresource},
        },
    }
    answer = cluster.api.create("apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"] is may


def full_status() -> Object:
    """Return a status with every field set and lists at their bounds."""
    condition = {"status": "True", "observedGeneration": 1, "lastTransitionTime": NOW, "reason": "Serving"}
    kinds = ("Ready", "Reconciling", "Stalled", "Scheduled", "WeightsReady", "Serving", "Degraded")
    return {
        "observedGeneration": 1,
        "conditions": [condition | {"type": kind, "message": "m" * 4096} for kind in kinds],
        "replicas": 3,
        "readyReplicas": 2,
        "selector": "warmfleet.dev/scale-of=0",
        "endpoint": "http://full.default.svc/v1",
        "model": {"bytes": 2**40},
        "servedHash": "0" * 16,
        "pendingStart": {
            "position": 1,
            "of": 2,
            "startType": "Cold",
            "stage": "Queued",
            "blocker": "needs 2 nvidia.com/gpu",
            "summary": "1 of 2",
        },
        "lastStart": {
            "startType": "Cold",
            "result": "Failed",
            "error": "e" * 512,
            "durationMilliseconds": 38_000,
            "time": NOW,
            "node": "n1",
            "stages": [{"name": "WeightsLoaded", "milliseconds": 4000}],
            "summary": "Failed after 38 s",
        },
        "engines": [
            {
                "id": f"f-{slot}-1",
                "runner": f"full-{slot}-1",
                "node": "n1",
                "state": "Ready",
                "hash": "0" * 16,
                "gpus": 2,
                "memory": 2**36,
            }
            for slot in range(MAX_ENGINES)
        ],
    }


def test_everything_is_stored_unchanged(cluster: Cluster) -> None:
    stored = cluster.api.create(f"{MODELS}?dryRun=All&fieldValidation=Strict", EVERYTHING)
    assert holds(stored["spec"], EVERYTHING["spec"])


def holds(stored: Any, written: Any) -> bool:
    """Whether everything that was written is in what is stored, beside what was filled in."""
    if isinstance(written, dict):
        return all(key in stored and holds(stored[key], value) for key, value in written.items())
    if isinstance(written, list):
        return len(stored) == len(written) and all(map(holds, stored, written))
    return bool(stored == written)
