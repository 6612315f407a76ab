"""A real model on real vLLM: from an object to a streamed answer, a cancelled one, and back to nothing."""

from pathlib import Path

import pytest
from openai.types.chat import ChatCompletionMessageParam

from support.endpoint import client, status_of
from support.endstate import loose_ends
from support.models import vllm
from support.namespace import Namespace
from warmfleet_api.vocabulary import Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

START_SECONDS = 300
STAGES = [
    Stage.QUEUED,
    Stage.RUNNER_SCHEDULED,
    Stage.IMAGE_PULLED,
    Stage.RUNNER_READY,
    Stage.WEIGHTS_LOADED,
    Stage.CACHE_ALLOCATED,
    Stage.WARMED_UP,
    Stage.ROUTABLE,
]
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Once upon a time"}]


def test_a_real_model_is_served_cancelled_and_deleted(namespace: Namespace, models: Path) -> None:
    """One start of vLLM takes most of a minute on two cores, so its whole life is one test."""
    namespace.apply(vllm("tiny", f"{models}/tiny-llama"))
    namespace.wait_ready("tiny", within=START_SECONDS)

    start = namespace.model("tiny")["status"]["lastStart"]
    assert start["result"] == "Succeeded"
    measured = [stage["name"] for stage in start["stages"]]
    assert [stage for stage in STAGES if stage in measured] == STAGES, measured
    assert sum(stage["milliseconds"] for stage in start["stages"]) <= start["durationMilliseconds"] * 1.1

    with client(namespace, "tiny") as openai:
        assert [model.id for model in openai.models.list()] == ["tiny"]
        answer = openai.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=16, stream=True)
        choices = [chunk.choices[0] for chunk in answer if chunk.choices]
        assert len(choices) > 2
        assert choices[-1].finish_reason in ("length", "stop")

        runner = namespace.runners("tiny")[0]
        endless = openai.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(endless))
        assert status_of(runner).engines[0].running == 1
        endless.close()
        namespace.wait("the engine dropped the request", lambda: status_of(runner).engines[0].running == 0, 10)

    namespace.kubectl("delete", "mdl/tiny", "--timeout=30s")
    namespace.wait("the runner is gone", lambda: not namespace.runners(), 120)
    namespace.wait("the Service is gone", lambda: namespace.api.get(f"{namespace.core_path}/services/tiny") is None)
    assert not loose_ends(namespace)
