"""What the operator wants of each model: asked for only while somebody asks here, and at most once a second."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client import Counter

from warmfleet_api import names
from warmfleet_api.operator_api import ScalingAnswer

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
"""For so long an answer counts, a failure too: however many autoscalers ask, the operator hears one question."""
KEPT_SECONDS = 5.0
"""For so long the last answer stands in for an operator that does not answer: another one may be about to lead."""
REQUEST_SECONDS = 3.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class OperatorSilent(Exception):  # noqa: N818 - a state of the operator
    """The operator does not say what it wants; the message says why."""


class Levels:
    """Asks the operator's API.

    Args:
        url: of it.
        token_file: of a Kubernetes token that shows who we are; kubelet renews it, so it is read each time.
        failures: counts what was not answered.
        clock: seconds that only grow.
    """

    def __init__(
        self, url: str, token_file: Path, failures: Counter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url.rstrip("/") + names.PATH_SCALING
        self._token_file = token_file
        self._failures = failures
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked = float("-inf")
        self._heard = float("-inf")
        self._answer: ScalingAnswer | None = None
        self.trouble = ""
        """Why the operator was not heard last; empty: it was, or nobody asked."""

    async def now(self, session: aiohttp.ClientSession) -> ScalingAnswer:
        """Return what the operator says.

        Raises:
            OperatorSilent: it says nothing, and has not for `KEPT_SECONDS`.
        """
        async with self._asking:
            if self._clock() - self._asked >= FRESH_SECONDS:
                await self._ask(session)
        if self._answer is None or self._clock() - self._heard > KEPT_SECONDS:
            raise OperatorSilent(self.trouble or "the operator has not been asked")
        return self._answer

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        try:
            self._answer = await self._fetch(session)
        except OperatorSilent as error:
            self._failures.inc()
            if str(error) != self.trouble:
                logger.warning("%s; autoscalers leave replicas as they are", error)
            self.trouble = str(error)
        else:
            if self.trouble:
                logger.info("the operator answers again")
            self.trouble = ""
            self._heard = self._clock()
        self._asked = self._clock()

    async def _fetch(self, session: aiohttp.ClientSession) -> ScalingAnswer:
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise OperatorSilent(f"no token for the operator: {error}; set WARMFLEET_OPERATOR_TOKEN_FILE") from None
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        try:
            async with session.get(self._url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                body = await _read(response)
        except TimeoutError:
            raise OperatorSilent(f"{self._url}: no answer within {REQUEST_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise OperatorSilent(f"{self._url}: {error}") from error
        if response.status != 200:
            raise OperatorSilent(f"{self._url}: {response.status} {body[:300].decode(errors='replace')}")
        try:
            return msgspec.json.decode(body, type=ScalingAnswer)
        except msgspec.MsgspecError as error:
            raise OperatorSilent(f"{self._url}: unreadable answer: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return a body.

    Raises:
        OperatorSilent: it is too long.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise OperatorSilent(f"{response.url}: an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
