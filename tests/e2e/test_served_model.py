"""A real model on real vLLM: from an object to a streamed answer, a cancelled one, and back to nothing."""

from pathlib import Path

import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from support.endpoint import client, metric
from support.endstate import wait_tidy
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
    Stage.WEIGHTS_IN_MEMORY,
    Stage.WEIGHTS_LOADED,
    Stage.CACHE_ALLOCATED,
    Stage.WARMED_UP,
    Stage.ROUTABLE,
]
TOKENS = 400
GENERATED = "vllm:generation_tokens_total"
REQUESTS = "warmfleet_requests_total"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Once upon a time"}]


def test_a_real_model_is_served_cancelled_and_deleted(namespace: Namespace, models: Path) -> None:
    """One start of vLLM takes most of a minute on two cores, so its whole life is one test."""
    namespace.apply(vllm("tiny", f"{models}/tiny-llama"))
    namespace.wait_ready("tiny", within=START_SECONDS)

    start = namespace.model("tiny")["status"]["lastStart"]
    assert start["result"] == "Succeeded"
    measured = [stage["name"] for stage in start["stages"]]
    assert [stage for stage in STAGES if stage in measured] == STAGES, measured
    after_the_decision = [stage["milliseconds"] for stage in start["stages"] if stage["name"] != Stage.QUEUED]
    assert sum(after_the_decision) == start["durationMilliseconds"]

    runner = namespace.runners("tiny")[0]
    with client(namespace, "tiny") as openai:
        assert [model.id for model in openai.models.list()] == ["tiny"]
        before = metric(runner, GENERATED)
        pieces = [chunk.choices[0] for chunk in ask(openai) if chunk.choices]
        assert len(pieces) > 2
        assert pieces[-1].finish_reason == "length"
        namespace.wait("vLLM counted the whole answer", lambda: metric(runner, GENERATED) == before + TOKENS, 30)

        cancelled = ask(openai)
        next(iter(cancelled))
        cancelled.close()
        namespace.wait("the runner saw its client leave", lambda: metric(runner, REQUESTS, code="cancelled") == 1, 30)
        namespace.wait("vLLM has no request", lambda: metric(runner, "vllm:num_requests_running") == 0, 30)
        assert metric(runner, GENERATED) < before + 2 * TOKENS

    namespace.kubectl("delete", "mdl/tiny", "--timeout=120s")
    namespace.wait("the runner is gone", lambda: not namespace.runners(), 120)
    namespace.wait("the Service is gone", lambda: namespace.api.get(f"{namespace.core_path}/services/tiny") is None)
    wait_tidy(namespace)


def ask(client: OpenAI) -> Stream[ChatCompletionChunk]:
    """Begin an answer of exactly `TOKENS` tokens."""
    return client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=TOKENS, stream=True, extra_body={"ignore_eos": True}
    )
