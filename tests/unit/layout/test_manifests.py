"""The manifests are objects that Kubernetes knows; tests/cluster applies them."""

from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from warmfleet_api import names
from warmfleet_api.model_deployment import ModelDeployment
from warmfleet_api.tenant import Tenant
from warmfleet_api.warm_pool import WarmPool
from warmfleet_api.weight_cache import WeightCache
from warmfleet_external_metrics.settings import Settings as MetricsSettings
from warmfleet_operator.settings import Settings
from warmfleet_router.settings import Settings as RouterSettings

MANIFESTS = Path(__file__).parents[3] / "manifests"
KUBERNETES = "1.35"
FILES = sorted(path for path in (MANIFESTS / "base").glob("*.yaml") if path.name != "kustomization.yaml")
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))
KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))
ROUTER_COMPONENTS = sorted((MANIFESTS / "components").glob("router-*/kustomization.yaml"))
EXTERNAL_METRICS = MANIFESTS / "components" / "external-metrics"


def objects(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file."""
    return list(yaml.safe_load_all(path.read_text()))


BASE = list(chain.from_iterable(objects(path) for path in FILES))


def base(kind: str, name: str = "warmfleet-operator") -> dict[str, Any]:
    """Return an object of the base."""
    return next(each for each in BASE if each["kind"] == kind and each["metadata"]["name"] == name)


@pytest.mark.parametrize("each", BASE, ids=lambda each: f"{each['kind']}/{each['metadata']['name']}")
def test_kubernetes_knows_every_field(each: dict[str, Any]) -> None:
    if each["kind"] == names.WEIGHT_CACHE_KIND:
        WeightCache.model_validate(each)
    else:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_keep_the_rules(path: Path) -> None:
    kinds: dict[str, type[ModelDeployment | WarmPool | WeightCache | Tenant]] = {
        names.MODEL_DEPLOYMENT_KIND: ModelDeployment,
        names.WARM_POOL_KIND: WarmPool,
        names.WEIGHT_CACHE_KIND: WeightCache,
        names.TENANT_KIND: Tenant,
    }
    found = [(each["kind"], kinds[each["kind"]].model_validate(each).metadata.name) for each in objects(path)]
    assert len(set(found)) == len(found)


def test_the_sample_fleet_has_twenty_models_of_every_class() -> None:
    fleet = [ModelDeployment.model_validate(each) for each in objects(MANIFESTS / "samples" / "simulated-fleet.yaml")]
    assert len(fleet) == 20
    assert len({model.spec.priority for model in fleet}) == 4


def test_the_base_names_every_file_that_lies_in_it() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "base" / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == sorted(["../../crds", *(path.name for path in FILES)])


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_every_setting_is_one_that_the_operator_reads(path: Path) -> None:
    known = {f"WARMFLEET_{field.upper()}" for field in Settings.model_fields}
    for generator in yaml.safe_load(path.read_text()).get("configMapGenerator", []):
        lines = list(generator.get("literals", []))
        for file in generator.get("envs", []):
            lines += (path.parent / file).read_text().split()
        assert {line.partition("=")[0] for line in lines} <= known


@pytest.mark.parametrize("path", ROUTER_COMPONENTS, ids=lambda path: path.parent.name)
def test_a_component_sets_what_the_router_reads_and_lets_it_reach_that(path: Path) -> None:
    told = yaml.safe_load(path.read_text())
    (added,) = (each["value"] for patch in told["patches"] for each in yaml.safe_load(patch["patch"]))
    known = {f"WARMFLEET_{field.upper()}" for field in RouterSettings.model_fields} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert added["name"] in known
    (policy,) = chain.from_iterable(objects(path.parent / file) for file in told["resources"])
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    assert policy["spec"]["podSelector"] == base("NetworkPolicy", "warmfleet-router")["spec"]["podSelector"]
    ports = [each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]]
    assert ports == [urlsplit(added["value"]).port]


def test_the_server_of_external_metrics_is_found_where_it_registers_itself() -> None:
    told = yaml.safe_load((EXTERNAL_METRICS / "kustomization.yaml").read_text())
    assert sorted(told["resources"]) == sorted(path.name for path in EXTERNAL_METRICS.glob("[!k]*.yaml"))
    found = list(chain.from_iterable(objects(EXTERNAL_METRICS / file) for file in told["resources"]))
    for each in found:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        assert each["metadata"]["name"] == names.EXTERNAL_METRICS_SERVICE
    kinds = {each["kind"]: each for each in found}
    # Applying one would take it from whoever has it.
    assert "APIService" not in kinds
    pod = kinds["Deployment"]["spec"]["template"]
    assert pod["spec"]["containers"][0]["ports"] == [
        {"name": "http", "containerPort": names.OPERATOR_PORT},
        {"name": "api", "containerPort": names.EXTERNAL_METRICS_PORT},
    ]
    labels = pod["metadata"]["labels"].items()
    for selector in (
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    reached = kinds["NetworkPolicy"]["spec"]["egress"][0]
    assert reached["ports"][0]["port"] == names.OPERATOR_API_PORT
    assert reached["to"][0]["podSelector"]["matchLabels"].items() <= base("Deployment")["metadata"]["labels"].items()
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    token = volumes["operator"]["projected"]["sources"][0]["serviceAccountToken"]
    mounted = next(each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == "operator")
    assert token["audience"] == names.TOKEN_AUDIENCE
    assert MetricsSettings.model_fields["operator_token_file"].default == Path(mounted["mountPath"]) / token["path"]


def test_the_server_of_external_metrics_may_register_itself_and_nothing_else() -> None:
    (role,) = (each for each in objects(EXTERNAL_METRICS / "role.yaml") if each["kind"] == "ClusterRole")
    written = [rule for rule in role["rules"] if set(rule["verbs"]) - {"get", "list"}]
    assert [(rule["resources"], rule.get("resourceNames")) for rule in written] == [
        (["apiservices"], [names.EXTERNAL_METRICS_API]),
        (["subjectaccessreviews"], None),
    ]


def test_ports_and_selectors_are_those_of_the_pod() -> None:
    pod = base("Deployment")["spec"]["template"]
    assert pod["spec"]["containers"][0]["ports"] == [
        {"name": "http", "containerPort": names.OPERATOR_PORT},
        {"name": "api", "containerPort": names.OPERATOR_API_PORT},
    ]
    labels = pod["metadata"]["labels"].items()
    assert base("Service")["spec"]["selector"].items() <= labels
    assert base("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    policy = base("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    let_in = [port["port"] for port in policy["ingress"][0]["ports"]]
    assert let_in == [names.OPERATOR_PORT, names.OPERATOR_API_PORT]
    reached = [rule["ports"][0]["port"] for rule in policy["egress"][:3]]
    assert reached == [names.STATUS_PORT, names.AGENT_PORT, names.OPERATOR_API_PORT]
    assert policy["egress"][2]["to"][0]["podSelector"]["matchLabels"].items() <= labels


def test_who_may_wake_and_report_is_said_by_roles_that_name_nothing_else() -> None:
    for name in ("warmfleet-router-demand", "warmfleet-wake"):
        rules = base("ClusterRole", name)["rules"]
        assert {resource for rule in rules for resource in rule["resources"]} <= {
            "modeldeployments/demand",
            "modeldeployments/wake",
        }
    user = base("Role", "warmfleet-cli-user")["rules"]
    assert [rule["resourceNames"] for rule in user] == [["warmfleet-cli"], ["warmfleet-operator:api"]]


def test_the_operator_may_write_no_spec_of_a_users() -> None:
    rules = base("ClusterRole")["rules"]
    models = [rule for rule in rules if "modeldeployments" in rule["resources"]]
    assert [set(rule["verbs"]) for rule in models] == [{"get", "list", "watch"}]
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"]]


def test_the_operator_tells_the_nodes_and_lets_the_agents_answer() -> None:
    stores = [rule for rule in base("ClusterRole")["rules"] if "nodecaches" in rule["resources"]]
    assert [rule["resources"] for rule in stores] == [["nodecaches"]]
    agents = base("Role", "warmfleet-operator-agents")
    assert agents["metadata"]["namespace"] == names.AGENT_NAMESPACE
    assert [rule["resources"] for rule in agents["rules"]] == [["daemonsets"]]


def test_the_lease_that_may_be_written_is_the_one_that_is_held() -> None:
    rules = base("Role", "warmfleet-operator-lease")["rules"]
    assert [rule["resourceNames"] for rule in rules if "update" in rule["verbs"]] == [[names.LEASE_NAME]]


def test_of_all_secrets_the_operator_reads_the_routers_key_alone() -> None:
    owners = [
        each for each in BASE if each["kind"] in {"ClusterRole", "Role"} and "-operator" in each["metadata"]["name"]
    ]
    rules = [rule for each in owners for rule in each["rules"] if "secrets" in rule["resources"]]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
        (["create"], None),
        (["get"], [names.ROUTER_KEY_SECRET]),
    ]
    assert base("Role", "warmfleet-operator-router-key")["metadata"]["namespace"] == names.SYSTEM_NAMESPACE
    pod = base("Deployment", "warmfleet-router")["spec"]["template"]["spec"]
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert [secret["secretName"] for secret in secrets] == [names.ROUTER_KEY_SECRET]
    paths = [each["value"] for each in pod["containers"][0]["env"] if each["name"] == "WARMFLEET_KEY_FILE"]
    assert [Path(path).name for path in paths] == [names.ROUTER_KEY_ENTRY]


def test_nothing_in_the_pod_is_writable_but_its_scratch() -> None:
    pod = base("Deployment")["spec"]["template"]["spec"]
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert [list(volume) for volume in pod["volumes"]] == [["name", "emptyDir"]]


def test_what_speaks_of_the_agents_means_those_that_are_built() -> None:
    assert base("Namespace", names.AGENT_NAMESPACE)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == (
        "privileged"
    )
    account = base("ServiceAccount", names.AGENT_SERVICE_ACCOUNT)["metadata"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    condition = base("ValidatingAdmissionPolicy", "warmfleet-agents")["spec"]["matchConditions"][0]
    assert user in condition["expression"]
    policy = base("NetworkPolicy", "warmfleet-agent")["spec"]
    assert policy["podSelector"]["matchLabels"] == {names.LABEL_COMPONENT: names.COMPONENT_AGENT}
    assert policy["ingress"][0]["ports"][0]["port"] == names.AGENT_PORT
    driver = base("CSIDriver", names.CSI_DRIVER)["spec"]
    assert (driver["podInfoOnMount"], driver["volumeLifecycleModes"]) == (True, ["Ephemeral"])


def test_an_agent_reads_no_secret_until_somebody_binds_it() -> None:
    rules = base("ClusterRole", names.AGENT_SERVICE_ACCOUNT)["rules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {"nodecaches", "nodecaches/status"}
    bindings = [each for each in BASE if each["kind"] in {"ClusterRoleBinding", "RoleBinding"}]
    assert "warmfleet-weights-secrets" not in {each["roleRef"]["name"] for each in bindings}
