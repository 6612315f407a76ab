"""hf:// - the Hugging Face Hub, or a mirror of it that HF_ENDPOINT names.

huggingface_hub asks the API: revisions, files, and which of the many refusals it was. The bytes come by ranges over
`web`, whose connections are guarded; files of more than a few megabytes carry their sha256 (LFS).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, ModelInfo, set_client_factory
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from yarl import URL

from warmfleet_agent.sources import formats, gate
from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_agent.sources.endpoints import UNREACHABLE_RETRY_SECONDS, Endpoints
from warmfleet_agent.sources.gate import Gate
from warmfleet_agent.sources.web import Web
from warmfleet_api.vocabulary import WeightsProblem

_NAME = re.compile(r"hf://([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})/?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NONSENSE = "it does not answer as the Hub does; is HF_ENDPOINT a mirror of the Hub?"
_API_SECONDS = 30.0
_TOKEN_KEYS = ("token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class HubSource:
    """One repository of the Hub."""

    def __init__(
        self, uri: str, revision: str | None, credential: Mapping[str, bytes], web: Web, transport: "_Guarded"
    ) -> None:
        """Raise SourceError: the uri or the credential is none."""
        matched = _NAME.fullmatch(uri)
        if matched is None:
            raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{uri} is no repository. Write hf://organisation/name")
        self._uri = uri
        self._repository = matched[1]
        self._wanted = revision or None
        self._token = _token(credential)
        self._web = web
        self._transport = transport
        self._endpoint = web.endpoints.hub
        self._commit = ""
        self._sizes: dict[str, int] = {}

    async def list(self) -> Listing:
        """See `Source.list`. The revision is the commit."""
        _transport.set(self._transport)
        try:
            async with asyncio.timeout(_API_SECONDS * 2):
                info = await asyncio.to_thread(self._ask)
        except TimeoutError:
            raise self._unreachable("it does not answer") from None
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise self._unreachable(_NONSENSE)
        found = [
            RemoteFile(
                str(sibling.rfilename),
                sibling.size if isinstance(sibling.size, int) else -1,
                sibling.lfs.sha256 if sibling.lfs is not None else None,
            )
            for sibling in info.siblings or ()
        ]
        files = formats.choose(self._uri, found)
        if not all(file.sha256 is None or _SHA256.fullmatch(str(file.sha256)) for file in files):
            raise self._unreachable(_NONSENSE)
        self._commit = info.sha
        self._sizes = {file.path: file.bytes for file in files}
        return Listing(self._uri, self._commit, files)

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        if not self._commit:
            await self.list()
        url = f"{self._endpoint}/{self._repository}/resolve/{self._commit}/{quote(path)}"
        secret = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        async for chunk in self._web.read_range(url, offset, length, self._sizes[path], secret=secret):
            yield chunk

    def _ask(self) -> ModelInfo:
        """Ask the API. Blocks."""
        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        shown = f"{self._endpoint}/{self._repository}"
        try:
            return api.model_info(self._repository, revision=self._wanted, files_metadata=True, timeout=_API_SECONDS)
        except GatedRepoError:
            raise SourceError(
                WeightsProblem.ACCESS_DENIED,
                f"{self._uri} is gated. Accept its licence at {shown}, then `kubectl create secret generic hf-token"
                " --from-literal=token=hf_...` with a token of that account, and name it in secretRef",
            ) from None
        except DisabledRepoError:
            raise SourceError(
                WeightsProblem.ACCESS_DENIED, f"{self._uri} was disabled by the Hub; see {shown}"
            ) from None
        except RevisionNotFoundError:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} has no revision {self._wanted}. Choose one of {shown}/commits/main",
            ) from None
        except (RepositoryNotFoundError, HFValidationError):
            token = (
                "its token may not read it"
                if self._token
                else "it is private: then `kubectl create secret generic hf-token --from-literal=token=hf_...` and name"
                " it in secretRef"
            )
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND, f"{self._uri} is not there, or {token}. Check {shown}"
            ) from None
        except HfHubHTTPError as error:
            raise self._refused(error.response) from None
        except (KeyError, TypeError, AttributeError, RecursionError):
            raise self._unreachable(_NONSENSE) from None
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise self._transport.refused or self._unreachable(str(error)[:200] or type(error).__name__) from None

    def _refused(self, response: httpx2.Response) -> SourceError:
        status = response.status_code
        if status in {401, 403}:
            return SourceError(
                WeightsProblem.ACCESS_DENIED,
                f"{self._uri}: {self._endpoint} answers {status}. Make a token at {self._endpoint}/settings/tokens,"
                " then `kubectl create secret generic hf-token --from-literal=token=hf_...` and name it in secretRef",
            )
        if status == 404:
            return SourceError(
                WeightsProblem.MODEL_NOT_FOUND, f"{self._uri} is not there. Check {self._endpoint}/{self._repository}"
            )
        wait = response.headers.get("Retry-After", "")
        return self._unreachable(f"it answers {status}", float(wait) if wait.isdecimal() else UNREACHABLE_RETRY_SECONDS)

    def _unreachable(self, why: str, retry: float = UNREACHABLE_RETRY_SECONDS) -> SourceError:
        return SourceError(
            WeightsProblem.SOURCE_UNREACHABLE,
            f"{self._uri} can't be asked for at {self._endpoint}: {why}. It is tried again; check it with"
            f" `curl -I {self._endpoint}`",
            retry_after_seconds=retry,
        )


class _Guarded(httpx2.BaseTransport):
    """Sends https through the gate, and plain http only where an administrator named it."""

    def __init__(self, endpoints: Endpoints, through: Gate) -> None:
        self._endpoints = endpoints
        self._gate = through
        self._https = httpx2.HTTPTransport(proxy=through.url)
        self._http = httpx2.HTTPTransport()

    @property
    def refused(self) -> SourceError | None:
        """Why a connection was refused, if one was."""
        return self._gate.refused

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self._endpoints.check(URL(str(request.url)))
        return (self._http if request.url.scheme == "http" else self._https).handle_request(request)

    def close(self) -> None:
        self._https.close()
        self._http.close()


_transport: ContextVar[_Guarded] = ContextVar("transport")
"""Of the source on whose behalf huggingface_hub is called: its client is one for the whole process."""


class _OfTheSource(httpx2.BaseTransport):
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return _transport.get().handle_request(request)


def _client() -> httpx2.Client:
    return httpx2.Client(transport=_OfTheSource(), follow_redirects=True, timeout=_API_SECONDS, trust_env=False)


set_client_factory(_client)


@asynccontextmanager
async def opened(uri: str, revision: str | None, credential: Mapping[str, bytes], web: Web) -> AsyncIterator[HubSource]:
    """Open a repository."""
    async with gate.opened(web.endpoints) as through:
        transport = _Guarded(web.endpoints, through)
        try:
            yield HubSource(uri, revision, credential, web, transport)
        finally:
            transport.close()


def _token(credential: Mapping[str, bytes]) -> str:
    if not credential:
        return ""
    for key in _TOKEN_KEYS:
        if key in credential:
            token = credential[key].decode("ascii", "replace").strip()
            if re.fullmatch(r"[!-~]{1,512}", token):
                return token
    raise SourceError(
        WeightsProblem.ACCESS_DENIED,
        "the Secret has no key `token`. Make it with `kubectl create secret generic hf-token"
        " --from-literal=token=hf_...`",
    )
