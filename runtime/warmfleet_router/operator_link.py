"""What the router tells the operator, and what it hears: wakes at once, demand as levels every second.

A model is woken once, when the first request for it is held. The reports that follow name it as long as any is, which
says the same again, and whose answers tell how far it is. The operator may be away: requests wait meanwhile.
"""

import asyncio
import logging
from pathlib import Path
from typing import Never, TypeVar

import aiohttp
import msgspec

from warmfleet_api import names
from warmfleet_api.assignment import Wire
from warmfleet_api.operator_api import DemandAnswer, DemandReport, WakeAnswer, WakeRequest
from warmfleet_router.catalog import ModelKey
from warmfleet_router.dispatch import Dispatcher
from warmfleet_router.metrics import Metrics

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
REQUEST_SECONDS = 3.0
T = TypeVar("T", bound=Wire)


class OperatorError(Exception):
    """The operator did not take what it was told; the message says why."""


class OperatorLink:
    """Talks to the operator's API.

    Args:
        url: of it, e.g. http://warmfleet-operator.warmfleet-system:8082; empty: there is none, and nobody is told.
        token_file: of a Kubernetes token that shows who we are; kubelet renews it, so it is read each time.
        router: tells routers apart.
        metrics: count wakes and failures.
    """

    def __init__(self, url: str, token_file: Path | None, router: str, metrics: Metrics) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._router = router
        self._metrics = metrics
        self._wanted: dict[ModelKey, None] = {}
        self._news = asyncio.Event()
        self._trouble = ""

    def want(self, key: ModelKey) -> None:
        """A model is to be woken."""
        self._wanted[key] = None
        self._news.set()

    @property
    def trouble(self) -> str:
        """Why the operator was not reached last; empty: it was."""
        return self._trouble

    async def run(self, dispatcher: Dispatcher) -> Never:
        """Wake and report until cancelled."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake_all(session, dispatcher), name="wakes")
            tasks.create_task(self._report_all(session, dispatcher), name="demand")
        raise AssertionError("unreachable: no task ends by itself")

    async def _wake_all(self, session: aiohttp.ClientSession, dispatcher: Dispatcher) -> Never:
        while True:
            await self._news.wait()
            self._news.clear()
            wanted, self._wanted = self._wanted, {}
            await asyncio.gather(*(self._wake(session, dispatcher, key) for key in wanted))

    async def _wake(self, session: aiohttp.ClientSession, dispatcher: Dispatcher, key: ModelKey) -> None:
        asked = WakeRequest(namespace=key.namespace, model=key.name)
        try:
            dispatcher.heard(await self._post(session, names.PATH_WAKE, asked, WakeAnswer))
        except OperatorError as error:
            self._metrics.wakes.labels("failed").inc()
            self._failed(f"wake of {key}", error)
        else:
            self._metrics.wakes.labels("sent").inc()
            logger.info("asked the operator to wake %s", key)

    async def _report_all(self, session: aiohttp.ClientSession, dispatcher: Dispatcher) -> Never:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            report = DemandReport(router=self._router, models=tuple(dispatcher.levels()))
            try:
                answer = await self._post(session, names.PATH_DEMAND, report, DemandAnswer)
            except OperatorError as error:
                self._failed("report of demand", error)
                continue
            if self._trouble:
                logger.info("the operator answers again")
                self._trouble = ""
            for each in answer.models:
                dispatcher.heard(each)

    def _failed(self, what: str, error: OperatorError) -> None:
        if str(error) != self._trouble:
            logger.warning("%s: %s; requests are held meanwhile", what, error)
        self._trouble = str(error)
        self._metrics.operator_failures.inc()

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Wire, kind: type[T]) -> T:
        """Send one request.

        Raises:
            OperatorError: it was not answered well.
        """
        if not self._url:
            raise OperatorError("WARMFLEET_OPERATOR_URL is empty: this router wakes nothing")
        headers = {"Content-Type": "application/json"}
        try:
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            async with session.post(self._url + path, data=msgspec.json.encode(body), headers=headers) as response:
                answer = await response.read()
        except TimeoutError:
            raise OperatorError(f"{self._url} did not answer within {REQUEST_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise OperatorError(f"{self._url}: {error}") from error
        if response.status not in {200, 202}:
            raise OperatorError(f"{self._url}{path}: {response.status} {answer[:300].decode(errors='replace')}")
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise OperatorError(f"{self._url}{path}: unreadable answer: {error}") from error
