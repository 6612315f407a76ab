"""`make check-foreign BACKEND=http://127.0.0.1:8000`: our router in front of a server of OpenAI's API that is not ours.

Any will do that takes connections on an address of this machine: `vllm serve`, llm-d-inference-sim, another one. The
router is told of it as of a pod with the label `warmfleet.dev/runner: Foreign`; OpenAI's SDK then does through the
router what it does without. Each check is printed, and what it found written as JSON.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import uvloop
from openai import AsyncOpenAI
from rich.console import Console

from bench import figures
from bench.routed import our_router
from support.cluster import REPOSITORY

RESULT = REPOSITORY / "build" / "bench" / "foreign.json"
AT_ONCE = 50
TOKENS = 8
SECONDS = 120.0
HELLO: Any = [{"role": "user", "content": "Hello"}]


class Checks:
    """What a client does, through the router; each returns what it found, or raises."""

    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        self._client = client
        self._model = model

    async def lists(self) -> str:
        """The model is listed, and served."""
        (model,) = [each async for each in self._client.models.list()]
        state = (model.model_extra or {})["warmfleet"]["state"]
        assert (model.id, state) == (self._model, "Serving"), model
        return str(state)

    async def chats(self) -> str:
        """A complete answer."""
        answer = await self._client.chat.completions.create(model=self._model, messages=HELLO, max_tokens=TOKENS)
        assert answer.choices[0].message.content, answer
        return f"{answer.usage.completion_tokens if answer.usage else '?'} tokens"

    async def streams(self) -> str:
        """A stream, to its end."""
        stream = await self._client.chat.completions.create(
            model=self._model, messages=HELLO, max_tokens=TOKENS, stream=True
        )
        chunks = [chunk async for chunk in stream]
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        assert reasons, chunks
        return f"{len(chunks)} events, {reasons[0]}"

    async def completes(self) -> str:
        """A completion."""
        answer = await self._client.completions.create(model=self._model, prompt="Hello", max_tokens=TOKENS)
        assert answer.choices[0].text is not None
        return f"{len(answer.choices[0].text)} characters"

    async def answers_many(self) -> str:
        """Many at once, streams and complete answers."""
        await asyncio.gather(*(self.chats() if number % 2 else self.streams() for number in range(AT_ONCE)))
        return f"{AT_ONCE} at once"

    async def passes_errors_on(self) -> str:
        """An error of the backend's own is the SDK's exception of it."""
        try:
            await self._client.chat.completions.create(model=self._model, messages=HELLO, max_tokens=-1)
        except openai.APIStatusError as error:
            assert 400 <= error.status_code < 500, error
            return f"{error.status_code} {type(error).__name__}"
        raise AssertionError("max_tokens=-1 was served")

    async def knows_no_other_model(self) -> str:
        """A model that nobody serves."""
        try:
            await self._client.chat.completions.create(model="nobody", messages=HELLO)
        except openai.NotFoundError as error:
            assert self._model in str(error), error
            return "404, with the served names"
        raise AssertionError("a model that nobody serves was served")

    async def leaves(self) -> str:
        """A stream that its client closes; the next request is answered."""
        stream = await self._client.chat.completions.create(
            model=self._model, messages=HELLO, max_tokens=1000, stream=True
        )
        async for _ in stream:
            break
        await stream.close()
        return await self.chats()

    def all(self) -> list[Callable[[], Awaitable[str]]]:
        """Return them in order."""
        first = [self.lists, self.chats, self.streams, self.completes]
        return [*first, self.answers_many, self.passes_errors_on, self.knows_no_other_model, self.leaves]


async def model_of(url: str) -> str:
    """Return the first model that a backend serves."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=SECONDS) as client:
        models = await client.models.list()
        return models.data[0].id


async def run(url: str) -> int:
    """Check all, write what was found; return the exit code."""
    console = Console(width=120)
    where = urlsplit(url)
    if where.hostname is None or where.port is None:
        console.print(f"{url} names no host and port; write it as http://127.0.0.1:8000")
        return 2
    try:
        model = await model_of(url)
    except openai.APIConnectionError as error:
        console.print(f"{url} takes no connection ({error}); start the backend first")
        return 2
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        async with our_router(Path(directory), where.port) as router:
            spec = {"model": {"uri": "hf://foreign/model", "servedNames": [model]}, "replicas": 0}
            router.tell(model="foreign", spec=spec)
            router.tell(runner="foreign", host=where.hostname, foreign="Ready")
            base = f"http://127.0.0.1:{router.port}/v1"
            async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, timeout=SECONDS) as client:
                for check in Checks(client, model).all():
                    name = check.__name__.replace("_", " ")
                    try:
                        found[name] = await check()
                    except (AssertionError, openai.APIError) as error:
                        found[name] = f"FAILED: {type(error).__name__}: {error}"
                    console.print(f"{name}: {found[name]}")
    figures.write(RESULT, {"backend": url, "model": model, "checks": found})
    return 1 if any(each.startswith("FAILED") for each in found.values()) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", help="its URL, e.g. http://127.0.0.1:8000")
    sys.exit(uvloop.run(run(parser.parse_args().backend)))
