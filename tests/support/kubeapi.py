"""A client of the API server for tests: a kubeconfig's credentials and plain JSON objects."""

import base64
import contextlib
import json
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import yaml

Object = dict[str, Any]
TIMEOUT_SECONDS = 120
MDL = "apis/warmfleet.dev/v1alpha1"
MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server refused a request. `status` is the HTTP status, the message its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where an API server is and how to be admitted."""

    server: str
    tls: ssl.SSLContext

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Credentials":
        """Read the current context: client certificates only, inline or as files."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        with (
            _as_file(cluster, "certificate-authority", path) as authority,
            _as_file(user, "client-certificate", path) as certificate,
            _as_file(user, "client-key", path) as key,
        ):
            tls = ssl.create_default_context(cafile=str(authority))
            tls.load_cert_chain(certificate, key)
        return cls(cluster["server"], tls)


class KubeApi:
    """Requests with an administrator's rights. Paths are those of the API without a leading slash."""

    def __init__(self, credentials: Credentials) -> None:
        self._server = credentials.server
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=credentials.tls))

    def request(self, method: str, path: str, body: Object | None = None, content: str = "application/json") -> Object:
        """Send one request and return the object of the answer.

        Raises:
            ApiError: the API server refused it.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self._server}/{path}", data, {"Content-Type": content}, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                found: Object = json.load(answer)
        except HTTPError as error:
            raise ApiError(error.code, _message(error.read())) from error
        return found

    def get(self, path: str) -> Object | None:
        """Return an object, or None where there is none."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, **query: str) -> list[Object]:
        """Return all objects of a collection; `labelSelector` and the like as keywords."""
        items: list[Object] = self.request("GET", f"{path}?{urlencode(query)}")["items"]
        return items

    def list_from(self, path: str, **query: str) -> tuple[Sequence[Object], str]:
        """Return all objects of a collection, and the version from which a watch goes on."""
        found = self.request("GET", f"{path}?{urlencode(query)}")
        return found["items"], found["metadata"]["resourceVersion"]

    def watch(self, path: str, version: str, seconds: int, **query: str) -> Iterator[Object]:
        """Yield what changes in a collection from a version on, until the server ends the watch after so long.

        Raises:
            ApiError: the server does not know that version any more.
        """
        asked = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(seconds), **query}
        try:
            with self._opener.open(f"{self._server}/{path}?{urlencode(asked)}", timeout=TIMEOUT_SECONDS) as answer:
                for line in answer:
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"]["code"], event["object"]["message"])
                    yield event
        except HTTPError as error:
            raise ApiError(error.code, _message(error.read())) from error

    def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return self.request("POST", path, body)

    def merge(self, path: str, body: Object) -> Object:
        """Change an object by a merge patch."""
        return self.request("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str, **options: Any) -> None:
        """Delete an object or a collection; not an error where there is none."""
        try:
            self.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status != 404:
                raise


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


@contextlib.contextmanager
def _as_file(entry: Object, key: str, kubeconfig: Path) -> Iterator[Path]:
    if key in entry:
        yield kubeconfig.parent / entry[key]
        return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(base64.b64decode(entry[f"{key}-data"]))
        file.flush()
        yield Path(file.name)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
