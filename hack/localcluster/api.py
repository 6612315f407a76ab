"""A small synchronous client of the Kubernetes API, enough for what the local cluster itself sets up."""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from localcluster.errors import ClusterError

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_USER_AGENT = "warmfleet-localcluster"


class UnreachableError(ClusterError):
    """The API server does not answer."""


class ApiError(ClusterError):
    """The API server refused a request."""

    def __init__(self, status: int, method: str, path: str, body: str) -> None:
        super().__init__(f"{method} {path}: {status} {body[:500]}")
        self.status = status


class Api:
    """One kept connection to the API server of a cluster, as its administrator."""

    def __init__(self, server: str, authority: Path, certificate: Path, key: Path, timeout_seconds: float = 30) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(certificate, key)
        address = urlsplit(server)
        assert address.hostname is not None
        self._connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=timeout_seconds, context=context
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = "application/json"
    ) -> Any:
        """Send one request and return the decoded answer (text where it isn't JSON).

        Raises:
            ApiError: the answer's status is 400 or above.
            UnreachableError: there was no answer.
        """
        data = None if body is None else json.dumps(body)
        headers = {"User-Agent": _USER_AGENT, "Content-Type": content_type}
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request opens a new one
            raise UnreachableError(
                f"the API server does not answer ({error!r}); repair it with `hack/cluster up`"
            ) from None
        if response.status >= 400:
            raise ApiError(response.status, method, path, text)
        return json.loads(text) if text.startswith("{") else text

    def get(self, path: str) -> Any:
        """The object or list at `path`, None where there is none."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def apply(self, path: str, body: Mapping[str, Any]) -> None:
        """Server-side apply of the object at `path`."""
        self.request("PATCH", f"{path}?fieldManager={_USER_AGENT}&force=true", body, APPLY_PATCH)

    def merge(self, path: str, body: Mapping[str, Any]) -> None:
        """JSON merge patch of the object at `path`."""
        self.request("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str) -> None:
        """Delete the object at `path`; gone already is fine."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise

    def delete_pods_of(self, nodes: Set[str]) -> None:
        """Delete all pods bound to these nodes at once: nobody is left there to stop them."""
        for pod in self.request("GET", "/api/v1/pods")["items"] if nodes else []:
            if pod["spec"].get("nodeName") in nodes:
                meta = pod["metadata"]
                self.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}?gracePeriodSeconds=0")


def wait_until(what: str, seconds: float, check: Callable[[], bool], hint: Callable[[], str] = str) -> None:
    """Poll `check` until it is true; a refused or failed request counts as not yet.

    Raises:
        ClusterError: it was not true within `seconds`; carries `hint()`.
    """
    deadline = time.monotonic() + seconds
    pause = 0.05
    last = ""
    while True:
        try:
            if check():
                return
        except (OSError, http.client.HTTPException, UnreachableError, ApiError) as error:
            last = f" ({error})"
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:.0f} s{last}\n{hint()}".rstrip())
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
