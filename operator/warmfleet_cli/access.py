"""The way to the cluster: `kubectl proxy` on a socket only we can reach, and the operator's API behind it.

kubectl knows every way to log in, contexts and kubeconfigs included, so this command knows none. What the operator
answers comes through the API server's own proxy to Services; a short-lived token of the ServiceAccount
`warmfleet-cli` says there who asks.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry

from warmfleet_api import names
from warmfleet_api.operator_api import ErrorAnswer
from warmfleet_cli.errors import CommandError
from warmfleet_kube.client import VERSION, KubeClient, Selector
from warmfleet_kube.credentials import Credentials
from warmfleet_kube.errors import KubeError, NotFound
from warmfleet_kube.metrics import KubeMetrics
from warmfleet_kube.objects import Object, Resource

START_SECONDS = 10.0
REQUEST_SECONDS = 15.0
TOKEN_SECONDS = 600
_TOKEN_MARGIN_SECONDS = 60.0
_SERVER = "http://localhost"
"""The socket says where a request goes; kubectl takes none for another host."""

T = TypeVar("T")


class ModelObject(Object, frozen=True, kw_only=True):
    """A ModelDeployment as the API server has it."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class _TokenStatus(msgspec.Struct):
    token: str


class _Token(msgspec.Struct):
    status: _TokenStatus


MODELS = Resource(names.GROUP, names.VERSION, names.MODEL_DEPLOYMENT_PLURAL, names.MODEL_DEPLOYMENT_KIND, ModelObject)


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster, as kubectl is told."""

    kubectl: str = "kubectl"
    context: str = ""
    kubeconfig: str = ""
    system_namespace: str = names.SYSTEM_NAMESPACE
    """Where the operator is installed."""

    @property
    def command(self) -> list[str]:
        """The kubectl that speaks to it."""
        flags = {"--context": self.context, "--kubeconfig": self.kubeconfig}
        return [self.kubectl, *(f"{name}={value}" for name, value in flags.items() if value)]


class Access:
    """Requests to the API server and to the operator. Methods raise `CommandError`."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target
        self._token = ""
        self._token_until = 0.0
        metrics = KubeMetrics(CollectorRegistry())
        self._client = KubeClient(
            Credentials(server=_SERVER), session, metrics, request_seconds=REQUEST_SECONDS, agent="warmfleet-cli"
        )

    async def models(self, namespace: str) -> list[ModelObject]:
        """Return the ModelDeployments of a namespace, of all where it is empty, by namespace and name."""
        try:
            listing = await self._client.list(MODELS, Selector(namespace=namespace))
        except NotFound as error:
            raise CommandError(
                "this cluster has no ModelDeployments; install Warmfleet: kubectl apply --server-side -k manifests/base"
                f" ({error})"
            ) from error
        except KubeError as error:
            raise CommandError(str(error)) from error
        return sorted(listing.items, key=lambda each: (each.metadata.namespace, each.metadata.name))

    async def model(self, namespace: str, name: str) -> ModelObject:
        """Return one ModelDeployment."""
        try:
            return await self._client.get(MODELS, namespace, name)
        except NotFound as error:
            raise CommandError(
                f"there is no ModelDeployment {namespace}/{name}; see what there is: kubectl get mdl -A"
            ) from error
        except KubeError as error:
            raise CommandError(str(error)) from error

    async def ask(self, path: str, kind: type[T], namespace: str = "") -> T:
        """Return what the operator answers to a GET, of one namespace or of all."""
        query = f"?namespace={namespace}" if namespace else ""
        return await self._operator("GET", path + query, None, kind)

    async def tell(self, path: str, body: msgspec.Struct, kind: type[T]) -> T:
        """Return what the operator answers to a POST."""
        return await self._operator("POST", path, body, kind)

    async def _operator(self, method: str, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        service = (
            f"/api/v1/namespaces/{self._target.system_namespace}/services/{names.OPERATOR_SERVICE}:api/proxy{path}"
        )
        headers = {names.HEADER_AUTHORIZATION: f"Bearer {await self._operator_token()}"}
        data = msgspec.json.encode(body) if body is not None else None
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method,
                _SERVER + service,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CommandError(f"the operator can't be reached: {str(error) or 'no answer in time'}") from error
        if response.status >= 400 and response.status not in {404, 409}:  # these may carry an answer all the same
            raise CommandError(self._refusal(response.status, answer))
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise CommandError(self._refusal(response.status, answer)) from error

    def _refusal(self, status: int, answer: bytes) -> str:
        """Say what the operator, or the API server in front of it, has against a request."""
        try:
            return msgspec.json.decode(answer, type=ErrorAnswer).error
        except msgspec.MsgspecError:
            pass
        try:
            message = str(msgspec.json.decode(answer)["message"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            message = answer[:300].decode(errors="replace")
        hints = {
            403: f"you need the role warmfleet-cli-user in namespace {self._target.system_namespace}",
            404: "is this version of Warmfleet installed? kubectl apply --server-side -k manifests/base",
            503: f"is the operator running? kubectl -n {self._target.system_namespace} get pods",
        }
        hint = hints.get(status, "")
        return f"{status} {message}" + (f"; {hint}" if hint else "")

    async def _operator_token(self) -> str:
        if time.monotonic() < self._token_until:
            return self._token
        path = f"/api/v1/namespaces/{self._target.system_namespace}/serviceaccounts/{names.CLI_ACCOUNT}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [names.TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS},
        }
        try:
            async with self._session.post(
                _SERVER + path, json=request, timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CommandError(f"the API server can't be reached: {str(error) or 'no answer in time'}") from error
        if response.status >= 400:
            raise CommandError(self._refusal(response.status, answer))
        self._token = msgspec.json.decode(answer, type=_Token).status.token
        self._token_until = time.monotonic() + TOKEN_SECONDS - _TOKEN_MARGIN_SECONDS
        return self._token


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Access]:
    """Open the way to the cluster; it is closed, and kubectl ended, on every way out.

    Raises:
        CommandError: kubectl is not there or does not start.
    """
    with tempfile.TemporaryDirectory(prefix="warmfleet-") as directory:  # readable by us alone
        socket = Path(directory) / "api"
        process = await _start_proxy(target, socket)
        try:
            await _until_open(process, socket)
            headers = {"User-Agent": f"warmfleet-cli/{VERSION}", "Accept": "application/json"}
            async with aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(socket)), headers=headers
            ) as session:
                yield Access(session, target)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _start_proxy(target: Target, socket: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *target.command,
            "proxy",
            f"--unix-socket={socket}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise CommandError(
            f"{target.kubectl} can't be started: {error.strerror}; install kubectl, or name it: --kubectl PATH"
        ) from error


async def _until_open(process: asyncio.subprocess.Process, socket: Path) -> None:
    """Wait until kubectl listens."""
    until = time.monotonic() + START_SECONDS
    while not socket.exists():  # noqa: ASYNC240 - a look at a folder in memory
        if process.returncode is not None:
            words = (await process.stderr.read()).decode(errors="replace") if process.stderr is not None else ""
            raise CommandError(f"kubectl proxy ended: {' '.join(words.split()) or f'status {process.returncode}'}")
        if time.monotonic() > until:
            raise CommandError(f"kubectl proxy did not listen within {START_SECONDS:.0f} s")
        await asyncio.sleep(0.01)
