"""Who serves external metrics in this cluster, so that a model which is not scaled can say why.

A cluster has one server of them, and it need not be ours: whoever serves `warmfleet_demand` will do. So what is wrong
is said only where nobody serves, or whoever does is out of reach; and an autoscaler that gets no metric though somebody
serves is told who that is.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Never

from warmfleet_api import names
from warmfleet_kube.api_services import API_SERVICES, ApiService
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import KubeError, NotFound

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
_PAGE: Final = "docs/guide/external-metrics.md"


class MetricsApi:
    """Looks again and again. `changed` hears of each change of `trouble`."""

    def __init__(self, client: KubeClient, changed: Callable[[], None]) -> None:
        self._client = client
        self._changed = changed
        self._found: ApiService | None = None
        self._is_known = False
        self._failure = ""
        self.trouble = ""
        """Why no autoscaler gets a metric, and what to do; empty: somebody serves them, or nobody has looked yet."""

    async def run(self) -> Never:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once; a try that fails changes nothing."""
        try:
            found = await self._client.get(API_SERVICES, "", names.EXTERNAL_METRICS_API)
        except NotFound:
            self._found = None
        except KubeError as error:
            if str(error) != self._failure:
                logger.warning("APIService %s: %s", names.EXTERNAL_METRICS_API, error)
            self._failure = str(error)
            return
        else:
            self._found = found
        self._is_known, self._failure = True, ""
        trouble = trouble_of(self._found)
        if trouble != self.trouble:
            logger.warning("%s", trouble) if trouble else logger.info("%s", self.explain())
            self.trouble = trouble
            self._changed()

    def explain(self) -> str:
        """Return who serves external metrics, for the message of an autoscaler that gets none."""
        if not self._is_known:
            return "who serves external metrics is not known yet"
        if self.trouble or self._found is None:
            return self.trouble
        if _is_ours(self._found):
            return f"external metrics are served by {self._found.owner}"
        return (
            f"external metrics are served by {self._found.owner}, which has to know {names.METRIC_DEMAND}: see {_PAGE}"
        )


def trouble_of(found: ApiService | None) -> str:
    """Return why no autoscaler gets a metric; empty: one may."""
    if found is None:
        return f"nobody serves external metrics: add manifests/components/external-metrics to your overlay, see {_PAGE}"
    if not found.trouble:
        return ""
    look = f"; see {_PAGE}"
    if _is_ours(found):
        look = f"; look: kubectl -n {names.SYSTEM_NAMESPACE} logs deployment/{names.EXTERNAL_METRICS_SERVICE}"
    return f"external metrics are served by {found.owner}, which does not answer: {found.trouble}{look}"


def _is_ours(found: ApiService) -> bool:
    return found.spec.service is not None and found.spec.service.name == names.EXTERNAL_METRICS_SERVICE
