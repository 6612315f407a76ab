"""Which rights are asked for, and for how long the answer counts."""

import pytest

from support.scripted import client_of, says, scripted
from warmfleet_external_metrics.rights import NotAllowed, Rights
from warmfleet_kube.reviews import GRANTED_SECONDS, REFUSED_SECONDS, User

ALICE = User(username="alice", groups=("team",), extra={"scopes": ("a",)})
PATH = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team/warmfleet_demand"
PARTS = {"namespace": "team", "metric": "warmfleet_demand"}


async def test_what_is_asked_for_is_what_the_api_server_asks_of_itself() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("POST", says({"status": {"allowed": True}}, 201))
        rights = Rights(client)
        await rights.check(ALICE, PATH, PARTS)
        await rights.check(ALICE, "/apis", {})
        metric, discovery = (each.body["spec"] for each in script.seen)
    assert metric["resourceAttributes"] == {
        "group": "external.metrics.k8s.io",
        "version": "v1beta1",
        "resource": "warmfleet_demand",
        "namespace": "team",
        "verb": "list",
    }
    assert (metric["user"], metric["groups"], metric["extra"]) == ("alice", ["team"], {"scopes": ["a"]})
    assert discovery["nonResourceAttributes"] == {"path": "/apis", "verb": "get"}


async def test_a_right_that_was_taken_away_ends_soon_and_one_that_was_given_counts_sooner() -> None:
    now = 0.0
    async with scripted() as script, client_of(script) as client:
        allowed, refused = (says({"status": {"allowed": each}}, 201) for each in (True, False))
        script.on("POST", refused, allowed, refused)
        rights = Rights(client, lambda: now)
        for _ in range(2):
            with pytest.raises(NotAllowed, match="alice may not list warmfleet_demand"):
                await rights.check(ALICE, PATH, PARTS)
        now += REFUSED_SECONDS
        for _ in range(2):
            await rights.check(ALICE, PATH, PARTS)
        now += GRANTED_SECONDS
        with pytest.raises(NotAllowed):
            await rights.check(ALICE, PATH, PARTS)
        assert len(script.seen) == 3


async def test_the_same_name_with_other_groups_is_another_user() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("POST", says({"status": {"allowed": True}}, 201))
        rights = Rights(client)
        await rights.check(ALICE, PATH, PARTS)
        await rights.check(User(username="alice"), PATH, PARTS)
        assert len(script.seen) == 2
