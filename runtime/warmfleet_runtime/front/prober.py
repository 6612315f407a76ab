"""The front's own requests to an engine: whether it answers, what its model is, and how quickly it generates."""

import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import aiohttp
import msgspec

from warmfleet_api.openapi import CHAT, COMPLETIONS, EMBEDDINGS, PATHS, TOKENIZE
from warmfleet_runtime.front.request import BYTES_PER_TOKEN

PASSAGE = (
    "When the harbour master counted the boats that evening, three were missing. He wrote their names on the board, "
    "lit the lamp above the pier and waited. Toward nine the first sail came round the point, then the second; the "
    "third, he learned next morning, had spent the night in the shelter of the island with a broken mast. "
)
"""Ordinary text: how many tokens it has tells what the model's tokenizer makes of such."""
ANSWER_TOKENS = 4
"""More than one, because the first comes of another computation than all that follow."""
_HEALTH_SECONDS = 5.0
_FACTS_SECONDS = 10.0
_DETAIL_CHARACTERS = 300
WARM_UP_ID = "warm-up"
"""`X-Request-Id` of our requests, for logs and for the Simulated engine's faults."""
_HEADERS = {"content-type": "application/json", "x-request-id": WARM_UP_ID}


class ProbeError(Exception):
    """The engine did not answer one of our requests well; the message says which and how. `status` 0: no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine tells of its model. None: it does not tell."""

    context_tokens: int | None = None
    passage_ids: tuple[int, ...] = ()

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per token of ordinary text."""
        return len(PASSAGE) / len(self.passage_ids) if self.passage_ids else BYTES_PER_TOKEN


class _Tokenized(msgspec.Struct):
    max_model_len: int
    tokens: tuple[int, ...]


_decode_tokenized = msgspec.json.Decoder(_Tokenized).decode


class Prober:
    """Asks one engine process under one of its served names."""

    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        self._session = session
        self._model = model
        self._embeds = False

    async def is_up(self) -> bool:
        """Return whether the engine's server answers."""
        try:
            async with self._session.get("/health", timeout=_at_most(_HEALTH_SECONDS)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def facts(self) -> Facts:
        """Ask for the model's context and tokens."""
        try:
            answer = await self._post(TOKENIZE, {"model": self._model, "prompt": PASSAGE}, _FACTS_SECONDS)
            told = _decode_tokenized(answer)
        except (ProbeError, msgspec.MsgspecError):
            return Facts()
        return Facts(told.max_model_len, told.tokens)

    async def missing_paths(self) -> frozenset[str]:
        """Return those of our paths that the engine does not have, which depends on what its model can do."""
        missing: set[str] = set()
        for path in PATHS:
            try:
                # Without a model or anything else: a path that is there refuses it for that.
                await self._post(path, {}, _FACTS_SECONDS)
            except ProbeError as error:
                if error.status == 404:
                    missing.add(path)
        return frozenset(missing)

    async def generate(self, prompt: str | list[int], seconds: float) -> float:
        """Have a few tokens generated, or an embedding made where the model can't generate.

        Returns: seconds until the first token.

        Raises:
            ProbeError: it failed, or took longer than `seconds`.
        """
        if not self._embeds:
            try:
                return await self._complete(prompt, seconds)
            except ProbeError as error:
                if error.status not in {400, 404}:
                    raise
                refusal = error
        try:
            duration = await self._embed(prompt, seconds)
        except ProbeError as error:
            # A model that can generate refuses to embed: then the first refusal is the one that tells something.
            raise (error if self._embeds else refusal) from None
        self._embeds = True
        return duration

    async def chat(self, system: str, seconds: float) -> None:
        """Have a conversation answered that begins with a system message.

        Raises:
            ProbeError: it failed, for example because the model knows no conversations.
        """
        if self._embeds:
            raise ProbeError("the model does not generate", 400)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello"}]
        await self._post(CHAT, {"model": self._model, "messages": messages, "max_tokens": 1}, seconds)

    async def _complete(self, prompt: str | list[int], seconds: float) -> float:
        body = {"model": self._model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "stream": True}
        started = time.monotonic()
        first_seconds: float | None = None
        try:
            async with self._session.post(
                COMPLETIONS, data=msgspec.json.encode(body), headers=_HEADERS, timeout=_at_most(seconds)
            ) as response:
                if response.status != 200:
                    raise await _refusal(COMPLETIONS, response)
                async for chunk in response.content.iter_any():
                    if first_seconds is None:
                        first_seconds = time.monotonic() - started
                    if b'"error"' in chunk:
                        raise ProbeError(f"{COMPLETIONS}: {_detail(chunk)}", 500)
        except TimeoutError:
            raise ProbeError(f"{COMPLETIONS}: no complete answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProbeError(f"{COMPLETIONS}: {error!r}") from error
        if first_seconds is None:
            raise ProbeError(f"{COMPLETIONS} gave an empty stream")
        return first_seconds

    async def _embed(self, prompt: str | list[int], seconds: float) -> float:
        started = time.monotonic()
        await self._post(EMBEDDINGS, {"model": self._model, "input": prompt}, seconds)
        return time.monotonic() - started

    async def _post(self, path: str, body: Any, seconds: float) -> bytes:
        try:
            async with self._session.post(
                path, data=msgspec.json.encode(body), headers=_HEADERS, timeout=_at_most(seconds)
            ) as response:
                if response.status != 200:
                    raise await _refusal(path, response)
                return await response.read()
        except TimeoutError:
            raise ProbeError(f"{path}: no answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProbeError(f"{path}: {error!r}") from error


def prompt_of(facts: Facts, tokens: int, number: int) -> str | list[int]:
    """Return a prompt of so many tokens that has no prefix of 16 tokens with those of other numbers."""
    if facts.passage_ids:
        start = 7 * number % len(facts.passage_ids)
        return [*islice(cycle(facts.passage_ids), start, start + tokens)]
    words = PASSAGE.split()
    return " ".join([str(number), *islice(cycle(words), number, number + tokens - 1)])


def _at_most(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


async def _refusal(path: str, response: aiohttp.ClientResponse) -> ProbeError:
    return ProbeError(f"{path} gave {response.status}: {_detail(await response.read())}", response.status)


def _detail(body: bytes) -> str:
    return body[:_DETAIL_CHARACTERS].decode(errors="replace")
