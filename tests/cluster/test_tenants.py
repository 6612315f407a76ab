"""Tenants on a real API server: what people type, what the status says, and whom the router lets through."""

import base64
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.cluster import Cluster
from support.front_door import client, host_router
from support.kubeapi import MDL, ApiError, Object
from support.models import simulated
from support.namespace import Namespace, condition, new_name
from support.operator import ProxiedOperator
from support.waiting import wait_for
from warmfleet_api import assignment, names, router_key

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

FIRST, SECOND, OTHER = (f"sk-{name:-<20}" for name in ("first", "second", "other"))
ROUND_SECONDS = 45
"""Routers read keys every 30 s, and at once when a Tenant changes."""


def tenant(name: str, secret: str = "keys", **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TENANT_KIND,
        "metadata": {"name": name},
        "spec": {"secretRef": {"name": secret}, **spec},
    }


class Team:
    """A namespace with one model, and the Tenants in it."""

    def __init__(self, namespace: Namespace, url: str) -> None:
        self.namespace = namespace
        self.url = url
        self.path = f"{MDL}/namespaces/{namespace.name}/{names.TENANT_PLURAL}"
        self.model = f"{namespace.name}/shared"

    def apply(self, *tenants: Object) -> None:
        for each in tenants:
            path = f"{self.path}/{each['metadata']['name']}?fieldManager=test&fieldValidation=Strict&force=true"
            self.namespace.api.request("PATCH", path, each, "application/apply-patch+yaml")

    def remove(self, name: str) -> None:
        self.namespace.api.delete(f"{self.path}/{name}")

    def keys(self, secret: str, *keys: str) -> None:
        data = {f"key-{number}": base64.b64encode(key.encode()).decode() for number, key in enumerate(keys)}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "data": data}
        path = f"{self.namespace.core_path}/secrets/{secret}"
        if self.namespace.api.get(path) is None:
            self.namespace.api.create(f"{self.namespace.core_path}/secrets", body)
        else:
            self.namespace.api.request("PUT", path, body)

    def verdict(self, name: str, reason: str) -> str:
        """Wait until the status of a Tenant has a reason; return the message."""

        def found() -> str | None:
            ready = condition(self.namespace.api.get(f"{self.path}/{name}") or {"metadata": {}}, "Ready")
            return str(ready["message"]) if ready is not None and ready["reason"] == reason else None

        return wait_for(f"Tenant {name} is {reason}", found, ROUND_SECONDS)

    def type(self, message: str, **words: str) -> None:
        """Type the kubectl command of a message, with these words replaced."""
        command = re.findall(r"kubectl (-n .*)$", message)[0]
        for old, new in words.items():
            command = command.replace(old, new)
        self.namespace.cluster.kubectl(*shlex.split(command))

    def ask(self, key: str = "none", model: str = "") -> int:
        """Ask the model something; return the status of the answer."""
        with client(self.url, key) as asker:
            try:
                asker.completions.create(model=model or self.model, prompt="hello", max_tokens=1)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

    def wait_for(self, status: int, key: str = "none") -> None:
        wait_for(f"the answer is {status}", lambda: self.ask(key) == status, ROUND_SECONDS)


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The router's."""
    with host_router(cluster, tmp_path_factory.mktemp("router")) as url:
        yield url


@pytest.fixture(scope="module")
def team(cluster: Cluster, shared_operator: ProxiedOperator, url: str) -> Iterator[Team]:
    """A namespace whose Secrets routers may read."""
    namespace = Namespace(cluster, new_name("team"), shared_operator.log_tail)
    namespace.create()
    role = "--clusterrole=warmfleet-router-secrets"
    account = "--serviceaccount=warmfleet-system:warmfleet-router"
    namespace.kubectl("create", "rolebinding", "warmfleet-router-secrets", role, account)
    if not shared_operator.running:
        shared_operator.start()
    shared_operator.wait_ready()
    namespace.apply(simulated("shared"), simulated("private"))
    namespace.wait_ready("shared", "private")
    yield Team(namespace, url)
    namespace.delete()


def test_what_the_status_says_is_what_one_types_until_the_key_counts(namespace: Namespace, url: str) -> None:
    team = Team(namespace, url)
    namespace.apply(simulated("shared"))
    namespace.wait_ready("shared")
    team.wait_for(200)
    team.apply(tenant("search"))
    denied = team.verdict("search", "AccessDenied")
    team.wait_for(401)
    team.type(denied)
    missing = team.verdict("search", "SecretMissing")
    team.type(missing, KEY=FIRST)
    assert team.verdict("search", "KeysRead") == "1 API keys are accepted"
    assert team.ask(FIRST) == 200
    assert "search" in namespace.kubectl("get", "tenants").splitlines()[1]
    team.remove("search")
    team.wait_for(200)


def test_a_key_opens_what_its_tenant_may_ask_for_and_no_more(team: Team, namespace: Namespace) -> None:
    team.keys("keys", FIRST)
    team.apply(tenant("search", models=["shared"], limits={"requestsPerMinute": 4}))
    team.verdict("search", "KeysRead")
    assert team.ask() == 401
    assert team.ask(OTHER) == 401
    assert team.ask(FIRST, f"{team.namespace.name}/private") == 404
    assert team.ask(FIRST, f"{namespace.name}/shared") == 404
    with client(team.url, FIRST) as asker:
        # Namespaces without a Tenant are open to all: models of other tests may still be there.
        seen = {each.id.rpartition("/")[2] for each in asker.models.list()}
        assert "shared" in seen and "private" not in seen
        with pytest.raises(openai.RateLimitError) as refusal:
            for _ in range(5):
                asker.completions.create(model=team.model, prompt="hello", max_tokens=1)
        assert refusal.value.code == "requests_limit"
        assert 0 < int(refusal.value.response.headers["Retry-After"]) <= 15
    team.remove("search")
    team.wait_for(200)


def test_a_key_is_changed_by_its_secret_alone(team: Team) -> None:
    team.keys("changed", FIRST)
    team.apply(tenant("changing", "changed"))
    team.verdict("changing", "KeysRead")
    team.keys("changed", FIRST, SECOND)
    team.wait_for(200, SECOND)
    assert team.ask(FIRST) == 200
    team.keys("changed", SECOND)
    # A change of the Tenant has routers read at once.
    team.apply(tenant("changing", "changed", priority="Low"))
    team.wait_for(401, FIRST)
    assert team.ask(SECOND) == 200
    team.remove("changing")
    team.wait_for(200)


def test_of_two_tenants_with_one_key_the_first_by_name_counts_and_the_other_says_so(team: Team) -> None:
    team.keys("one", FIRST)
    team.keys("two", FIRST, SECOND)
    team.apply(tenant("a-team", "one", models=["shared"]), tenant("b-team", "two"))
    assert team.verdict("a-team", "KeysRead") == "1 API keys are accepted"
    wait_for("the other says so", lambda: "key-0" in team.verdict("b-team", "KeysRead"), ROUND_SECONDS)
    assert team.ask(FIRST, f"{team.namespace.name}/private") == 404
    assert team.ask(SECOND, f"{team.namespace.name}/private") == 200
    team.remove("a-team")
    wait_for("it is the other's", lambda: team.ask(FIRST, f"{team.namespace.name}/private") == 200, ROUND_SECONDS)
    team.remove("b-team")
    team.wait_for(200)


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        (tenant("wrong", limits={"requests": 5}), "spec.limits.requests", "unknown field"),
        (tenant("wrong", limits={"concurrency": 0}), "spec.limits.concurrency", "greater than or equal to 1"),
        (tenant("wrong", priority="Urgent"), "spec.priority", "Critical"),
        (tenant("wrong", models=["a", "a"]), "spec.models", "Duplicate"),
        ({**tenant("wrong"), "spec": {}}, "spec.secretRef", "Required"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_objects_are_refused_with_the_field_and_why(team: Team, wrong: Object, field: str, said: str) -> None:
    with pytest.raises(ApiError) as refusal:
        team.namespace.api.create(f"{team.path}?fieldValidation=Strict", wrong)
    assert field in str(refusal.value)
    assert said.lower() in str(refusal.value).lower()


def test_who_may_not_use_a_class_may_not_give_it_to_a_tenant(team: Team) -> None:
    team.namespace.kubectl("create", "rolebinding", "erin-edit", "--user=erin", "--clusterrole=edit")
    body = tenant("urgent", priority="Critical")
    with pytest.raises(AssertionError, match="warmfleet-priority-critical"):
        team.namespace.kubectl("--as", "erin", "create", "-f", "-", stdin=json.dumps(body))


def test_a_deleted_key_of_the_routers_is_made_anew_and_runners_trust_the_former_one_too(team: Team) -> None:
    namespace = team.namespace
    path = f"api/v1/namespaces/{names.SYSTEM_NAMESPACE}/secrets/{names.ROUTER_KEY_SECRET}"

    def secret() -> Object | None:
        return namespace.api.get(path)

    def trusted() -> tuple[str, ...]:
        runner = namespace.runners("shared")[0]["metadata"]
        return assignment.decode(runner["annotations"][names.ANNOTATION_ASSIGNMENT]).trusted_keys

    def public(body: Object) -> str:
        pem = base64.b64decode(body["data"][names.ROUTER_KEY_ENTRY])
        return router_key.public_key(router_key.read(pem))

    former = public(namespace.wait("the operator made a key", secret))
    namespace.wait("runners trust it", lambda: trusted()[:1] == (former,))
    namespace.api.delete(path)
    present = public(namespace.wait("it made another one", secret))
    assert present != former
    namespace.wait("runners trust both", lambda: trusted() == (present, former))
