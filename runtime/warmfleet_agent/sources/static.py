"""https:// - a folder of any web server.

Web servers have no lists of files that could be relied on. `SHA256SUMS` in the folder, as `sha256sum *` writes it,
names the files and their hashes. Without it the files are those that Hugging Face's format names: config.json,
model.safetensors or those of model.safetensors.index.json, and the tokenizer's.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec
from yarl import URL

from warmfleet_agent.sources import formats
from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_agent.sources.web import ChangedError, Web, check_status
from warmfleet_api.vocabulary import WeightsProblem

SUMS = "SHA256SUMS"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"
_SIDE_FILES = (
    "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tekken.json",
    "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_MAX_DOCUMENT_BYTES = 32 * 1024**2
_PARALLEL = 8
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


@dataclass(frozen=True, slots=True)
class _Head:
    """What the server says of a file before it is read."""

    bytes: int
    etag: str | None
    modified: str


class StaticSource:
    """A folder of a web server."""

    def __init__(self, uri: str, revision: str | None, credential: Mapping[str, bytes], web: Web) -> None:
        """Raise SourceError: no https, or a query."""
        url = URL(uri)
        web.endpoints.check(url)
        if url.query_string or url.fragment:
            raise SourceError(
                WeightsProblem.FORBIDDEN_SOURCE, f"{uri} has a query. Name a folder: https://host/folder/"
            )
        self._uri = uri
        self._folder = str(url).rstrip("/")
        self._revision = revision
        self._secret = _headers(uri, credential)
        self._web = web
        self._heads: dict[str, _Head] = {}

    async def list(self) -> Listing:
        """See `Source.list`. The revision is a hash of names, sizes and hashes, or of entity tags and dates."""
        sums = await self._sums()
        names = _worth_asking(sums) if sums is not None else await self._discovered()
        heads = await self._head_all(names, is_required=sums is not None)
        hashes = sums or {}
        files = formats.choose(
            self._uri, [RemoteFile(name, head.bytes, hashes.get(name)) for name, head in heads.items()]
        )
        lines = []
        for file in files:
            head = heads[file.path]
            mark = file.sha256 or head.etag or head.modified
            lines.append(f"{file.path} {file.bytes} {mark}\n")
        revision = "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
        if self._revision not in {None, "", revision}:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} is at {revision} by now, not at {self._revision}. Put the former files back, or set the"
                " revision to the new one",
            )
        self._heads = {file.path: heads[file.path] for file in files}
        return Listing(self._uri, revision, files)

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        if not self._heads:
            await self.list()
        head = self._heads[path]
        async for chunk in self._web.read_range(
            self._url(path), offset, length, head.bytes, etag=head.etag, secret=self._secret
        ):
            yield chunk

    def _url(self, path: str) -> str:
        return f"{self._folder}/{quote(path)}"

    async def _sums(self) -> dict[str, str] | None:
        """Read SHA256SUMS; None: the folder has none."""
        content = await self._document(SUMS)
        if content is None:
            return None
        found: dict[str, str] = {}
        for line in content.decode("utf-8", "replace").splitlines():
            if not line.strip():
                continue
            matched = _LINE.fullmatch(line)
            if matched is None:
                # A server that answers everything with its home page has no such file.
                if not found and line.lstrip().startswith("<"):
                    return None
                raise SourceError(
                    WeightsProblem.FORBIDDEN_SOURCE,
                    f"{self._url(SUMS)} has the line {line[:60]!r}. Write it with `sha256sum * > {SUMS}`",
                )
            found[matched[2]] = matched[1]
        return found

    async def _discovered(self) -> tuple[str, ...]:
        """Return the names that may be there."""
        content = await self._document(_INDEX)
        if content is None:
            return (*_SIDE_FILES, _SINGLE, _ADAPTER)
        try:
            weights = sorted(set(formats.decode_index(content).weight_map.values()))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise SourceError(
                WeightsProblem.FORBIDDEN_SOURCE, f"{self._url(_INDEX)} is damaged: {str(error)[:120]}. Upload it again"
            ) from None
        return (*_SIDE_FILES, _INDEX, *weights)

    async def _document(self, name: str) -> bytes | None:
        response, content = await self._web.document(self._url(name), _MAX_DOCUMENT_BYTES, secret=self._secret)
        # Object stores behind https answer 403 for what is not there, unless listing is allowed.
        if response.status in {403, 404, 410} and name != _SINGLE:
            return None
        check_status(response)
        return content

    async def _head_all(self, names: Iterable[str], *, is_required: bool) -> dict[str, _Head]:
        """Ask for the size of each file; those that are not there are left out, weights of an index never."""
        limit = asyncio.Semaphore(_PARALLEL)
        heads: dict[str, _Head] = {}
        names = tuple(names)
        sharded = _INDEX in names

        async def ask(name: str) -> None:
            formats.refuse_hostile_name(self._uri, name)
            async with (
                limit,
                self._web.request("HEAD", self._url(name), {"Accept-Encoding": "identity"}, self._secret) as response,
            ):
                is_weights = name.endswith(formats.WEIGHTS)
                if response.status in {403, 404, 410} and not (is_required or (sharded and is_weights)):
                    return
                check_status(response)
                length = response.headers.get("Content-Length", "")
                if not length.isdecimal():
                    raise ChangedError(self._url(name), "has no size (no Content-Length)")
                heads[name] = _Head(
                    int(length), response.headers.get("ETag"), response.headers.get("Last-Modified", "")
                )

        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(ask(name))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return dict(sorted(heads.items()))


def _worth_asking(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a list that are worth asking the size of; unsafe ones as well, so that they are told of."""
    names = tuple(names)
    wanted = tuple(name for name in names if formats.is_wanted(name))
    return wanted if any(name.endswith(formats.WEIGHTS) for name in wanted) else names


def _headers(uri: str, credential: Mapping[str, bytes]) -> dict[str, str]:
    given = {key: value.decode("latin-1").strip() for key, value in credential.items()}
    if "token" in given:
        header = f"Bearer {given['token']}"
    elif {"username", "password"} <= given.keys():
        header = "Basic " + base64.b64encode(f"{given['username']}:{given['password']}".encode()).decode()
    elif given:
        raise SourceError(
            WeightsProblem.ACCESS_DENIED,
            f"{uri}: the Secret has neither `token` nor `username` and `password`. Make it with `kubectl create secret"
            " generic mirror --from-literal=token=...`",
        )
    else:
        return {}
    if any(ord(character) < 32 for character in header):
        raise SourceError(WeightsProblem.ACCESS_DENIED, f"{uri}: the Secret holds a control character. Make it anew")
    return {"Authorization": header}
