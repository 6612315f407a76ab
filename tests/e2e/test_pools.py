"""Two real models in one running runner: started warm, changed under load, and moved away before their runner goes."""

from pathlib import Path

import pytest
from openai import OpenAI

from support.endpoint import client, traffic
from support.endstate import wait_tidy
from support.kubeapi import Object
from support.models import vllm
from support.namespace import Namespace, settled
from support.pools import warm_pool
from warmfleet_api import names
from warmfleet_api.vocabulary import Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

POOL_SECONDS = 300
"""Until a free runner has imported vLLM on two busy cores."""
START_SECONDS = 120
MEMORY = "2Gi"


def test_two_real_models_share_a_running_runner(namespace: Namespace, models: Path) -> None:
    """A runner takes most of a minute to come up on two cores, so what happens in it is one test."""
    namespace.apply(warm_pool("default", cpu="100m", memory="8Gi"))
    namespace.wait_pool("default", within=POOL_SECONDS)
    runner = namespace.runners("default")[0]["metadata"]

    namespace.apply(tiny("first", models))
    namespace.wait_ready("first", within=START_SECONDS)
    with traffic(namespace, "first") as undisturbed:
        namespace.apply(tiny("second", models))
        namespace.wait_ready("second", within=START_SECONDS)
        for name in ("first", "second"):
            start = namespace.model(name)["status"]["lastStart"]
            assert start["startType"] == "Warm"
            assert "by exec" not in start["summary"]
            stages = [stage["name"] for stage in start["stages"]]
            assert stages[:4] == [Stage.QUEUED, Stage.RUNNER_READY, Stage.WEIGHTS_IN_MEMORY, Stage.ENGINE_FORKED]
            assert stages[-1] == Stage.ROUTABLE
            with client(namespace, name) as openai:
                assert answer(openai, name)
        assert [each["metadata"]["uid"] for each in namespace.runners("default")] == [runner["uid"]]

        # A changed spec: the new engine takes over from the old one in the same runner.
        with traffic(namespace, "second") as second:
            namespace.change("second", engine={"maxModelLen": 256})
            namespace.wait("the new spec serves", lambda: engines(namespace, "second") == ["second-0-2"], START_SECONDS)
        assert second.answered
        assert not second.failures

        # A deleted model: its engine goes, the runner and the other model stay.
        namespace.remove("second")
        namespace.wait("its engine is gone", lambda: served(namespace) == {"first"}, START_SECONDS)
    assert undisturbed.answered
    assert not undisturbed.failures
    assert [each["metadata"]["uid"] for each in namespace.runners("default")] == [runner["uid"]]

    # A changed pool: the model moves to a new runner before the old one goes.
    with traffic(namespace, "first") as moved:
        namespace.api.merge(f"{namespace.pools_path}/default", {"spec": {"cpu": "50m"}})

        def replaced() -> bool:
            uids = [each["metadata"]["uid"] for each in namespace.runners("default")]
            return len(uids) == 1 and runner["uid"] not in uids and settled(namespace.model("first"))

        namespace.wait("the model is in the pool's new runner", replaced, POOL_SECONDS)
    assert not moved.failures
    wait_tidy(namespace)


def tiny(name: str, models: Path) -> Object:
    model = vllm(name, f"{models}/tiny-llama")
    model["spec"]["resources"]["memory"] = MEMORY
    return model


def answer(openai: OpenAI, model: str) -> str:
    done = openai.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=8
    )
    return done.choices[0].message.content or ""


def engines(namespace: Namespace, model: str) -> list[str]:
    """Return the ids of the model's engines, once it is settled."""
    found = namespace.model(model)
    return [engine["id"] for engine in found["status"].get("engines", [])] if settled(found) else []


def served(namespace: Namespace) -> set[str]:
    """Return the models that the pool's runners have labels of."""
    return {
        label.removeprefix(names.SERVE_LABEL_PREFIX)
        for runner in namespace.runners("default")
        for label in runner["metadata"]["labels"]
        if label.startswith(names.SERVE_LABEL_PREFIX)
    }
