"""oci:// - an artifact of a container registry: one file per layer.

As ORAS and ModelPack (`modctl build --raw`) write them: a layer holds a file as it is, and its annotation names the
file. The distribution protocol is three requests; oras (Python) knows no ranges, blocks, and connects by itself.
"""

import base64
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from yarl import URL

from warmfleet_agent.sources import formats
from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_agent.sources.web import ChangedError, Web, check_status
from warmfleet_api.vocabulary import WeightsProblem

_URI = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]{1,2}[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}|[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = f"{_MANIFEST}, {_INDEX}, application/vnd.docker.distribution.manifest.v2+json"
_NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_PACKED = re.compile(r"tar|gzip|zstd")
_MAX_DOCUMENT_BYTES = 4 * 1024**2
_CHALLENGE = re.compile(r'([a-z_]+)="([^"]*)"')
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


class _Layer(msgspec.Struct, rename="camel"):
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []
    manifests: list[_Layer] = []


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


_decode_manifest = msgspec.json.Decoder(_Manifest).decode
_decode_token = msgspec.json.Decoder(_Token).decode


@dataclass(frozen=True, slots=True)
class _Account:
    username: str
    password: str

    @property
    def header(self) -> dict[str, str]:
        """As Basic credentials."""
        joined = f"{self.username}:{self.password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(joined).decode()}


class RegistrySource:
    """One artifact."""

    def __init__(self, uri: str, revision: str | None, credential: Mapping[str, bytes], web: Web) -> None:
        """Raise SourceError: the uri or the credential is none."""
        matched = _URI.fullmatch(uri)
        if matched is None:
            raise SourceError(
                WeightsProblem.FORBIDDEN_SOURCE, f"{uri} is no artifact. Write oci://registry/repository:tag"
            )
        reference = revision or matched["digest"] or matched["tag"] or "latest"
        if not _REFERENCE.fullmatch(reference):
            raise SourceError(
                WeightsProblem.FORBIDDEN_SOURCE, f"{uri}: {reference[:80]!r} is neither a tag nor a digest (sha256:...)"
            )
        self._uri = uri
        self._reference = reference
        self._repository = matched["repository"]
        self._host = _DOCKER_HUB.get(matched["host"], matched["host"])
        self._account = _account(uri, matched["host"], credential)
        self._web = web
        self._secret: dict[str, str] = {}
        self._layers: dict[str, _Layer] = {}
        self._base = ""

    async def list(self) -> Listing:
        """See `Source.list`. The revision is the manifest's digest."""
        digest, manifest = await self._manifest(self._reference)
        if manifest.manifests and not manifest.layers:
            if len(manifest.manifests) > 1:
                raise SourceError(
                    WeightsProblem.FORBIDDEN_SOURCE,
                    f"{self._uri} is an index of {len(manifest.manifests)} artifacts. Name one by its digest:"
                    f" `oras manifest fetch {self._shown}`",
                )
            _, manifest = await self._manifest(manifest.manifests[0].digest)
        layers: dict[str, _Layer] = {}
        packed = ""
        found = []
        for layer in manifest.layers:
            name = next((name for key in _NAMES if (name := (layer.annotations or {}).get(key))), None)
            if name is None or _PACKED.search(layer.media_type):
                packed = packed or layer.media_type
                continue
            if not _DIGEST.fullmatch(layer.digest):
                raise SourceError(
                    WeightsProblem.FORBIDDEN_SOURCE,
                    f"{self._uri}: a layer's digest is no sha256. Push it with `oras push`",
                )
            layers[name] = layer
            found.append(RemoteFile(name, layer.size, layer.digest.removeprefix("sha256:")))
        if packed and not any(name.endswith(formats.WEIGHTS) for name in layers):
            raise SourceError(
                WeightsProblem.UNSAFE_FORMAT,
                f"{self._uri} has its files packed as {packed[:60]}. Push each file as a layer:"
                f" `oras push {self._shown} *.safetensors *.json`",
            )
        files = formats.choose(self._uri, found)
        self._layers = {file.path: layers[file.path] for file in files}
        return Listing(self._uri, digest, files)

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        if not self._layers:
            await self.list()
        layer = self._layers[path]
        url = f"{self._base}/v2/{self._repository}/blobs/{layer.digest}"
        for attempt in (1, 2):
            sent = 0
            try:
                async for chunk in self._web.read_range(url, offset, length, layer.size, secret=self._secret):
                    sent += len(chunk)
                    yield chunk
                return
            except SourceError as error:
                # Tokens last for minutes, a download for longer.
                if sent or attempt == 2 or error.reason is not WeightsProblem.ACCESS_DENIED:
                    raise
            await self._manifest(self._reference)

    @property
    def _shown(self) -> str:
        return self._uri.removeprefix("oci://")

    async def _manifest(self, reference: str) -> tuple[str, _Manifest]:
        """Get a manifest and its digest, with a token if the registry asks for one."""
        self._base = self._base or self._scheme()
        url = f"{self._base}/v2/{self._repository}/manifests/{reference}"
        headers = {"Accept": _ACCEPT}
        response, content = await self._web.document(url, _MAX_DOCUMENT_BYTES, headers, self._secret)
        if response.status == 401:
            self._secret = await self._authenticated(response.headers.get("WWW-Authenticate", ""))
            response, content = await self._web.document(url, _MAX_DOCUMENT_BYTES, headers, self._secret)
        if response.status in {401, 403}:
            raise self._denied(response.status)
        if response.status == 404:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} has no {reference}. Look with `oras repo tags {self._host}/{self._repository}`",
            )
        check_status(response)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        told = response.headers.get("Docker-Content-Digest", digest)
        if (told.startswith("sha256:") and digest != told) or (":" in reference and digest != reference):
            raise ChangedError(url, "is not what its digest says")
        try:
            return digest, _decode_manifest(content)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ChangedError(url, f"is no manifest: {str(error)[:120]}") from None

    def _scheme(self) -> str:
        plain = URL(f"http://{self._host}")
        return str(plain.origin() if self._web.endpoints.names(plain) else URL(f"https://{self._host}").origin())

    async def _authenticated(self, challenge: str) -> dict[str, str]:
        """Answer a challenge with a header (RFC 6750, and the distribution specification's token service)."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            if self._account is None:
                raise self._denied(401)
            return self._account.header
        parameters = dict(_CHALLENGE.findall(rest))
        if kind.lower() != "bearer" or "realm" not in parameters:
            raise self._denied(401)
        try:
            realm = URL(parameters["realm"])
            url = realm.update_query(
                {"service": parameters.get("service", ""), "scope": f"repository:{self._repository}:pull"}
            )
        except ValueError:
            raise self._denied(401) from None
        secret = self._account.header if self._account is not None else {}
        response, content = await self._web.document(str(url), _MAX_DOCUMENT_BYTES, secret=secret)
        if response.status in {401, 403}:
            raise self._denied(response.status)
        check_status(response)
        try:
            answer = _decode_token(content)
        except msgspec.MsgspecError:
            raise self._denied(401) from None
        token = answer.token or answer.access_token
        if not re.fullmatch(r"[!-~]{1,16384}", token):
            raise self._denied(401)
        return {"Authorization": f"Bearer {token}"}

    def _denied(self, status: int) -> SourceError:
        return SourceError(
            WeightsProblem.ACCESS_DENIED,
            f"{self._uri}: the registry answers {status}. `kubectl create secret docker-registry registry"
            f" --docker-server={self._host} --docker-username=... --docker-password=...`, and name it in secretRef",
        )


def _account(uri: str, host: str, credential: Mapping[str, bytes]) -> _Account | None:
    """Read `.dockerconfigjson`, or `username` and `password`."""
    if not credential:
        return None
    try:
        if ".dockerconfigjson" in credential:
            auths = json.loads(credential[".dockerconfigjson"])["auths"]
            for name, entry in auths.items():
                if name.removeprefix("https://").split("/")[0] in {host, _DOCKER_HUB.get(host, host)}:
                    if "auth" in entry:
                        username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                        return _Account(username, password)
                    return _Account(entry["username"], entry["password"])
        elif "username" in credential and "password" in credential:
            return _Account(credential["username"].decode().strip(), credential["password"].decode().strip())
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # told below, in words
    raise SourceError(
        WeightsProblem.ACCESS_DENIED,
        f"{uri}: the Secret holds no account for {host}. `kubectl create secret docker-registry registry"
        f" --docker-server={host} --docker-username=... --docker-password=...`",
    )
