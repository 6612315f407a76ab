"""s3:// and gs:// - a folder of a bucket, by obstore.

obstore would take credentials from the agent's environment or from the node's own identity when none are given: then
whoever may write a uri could read what the node may. So everything is said here: what the Secret holds, or unsigned.
"""

import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import GCSStore, S3Store
from yarl import URL

from warmfleet_agent.sources import formats, gate
from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_agent.sources.endpoints import UNREACHABLE_RETRY_SECONDS, Endpoints
from warmfleet_agent.sources.gate import Gate
from warmfleet_agent.sources.web import USER_AGENT, ChangedError
from warmfleet_api.vocabulary import WeightsProblem

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_URI = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,221}[a-z0-9])(?:/(.*))?")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_KEYS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})
_ACCOUNT_KEYS = ("GOOGLE_SERVICE_ACCOUNT", "key.json", "service-account.json")
_MAX_OBJECTS = 100_000
_CHUNK_BYTES = 1024 * 1024
_NO_RETRIES: "RetryConfig" = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
"""`download` retries: it knows what is written, and how long to go on."""
_GOOGLE = "https://storage.googleapis.com"


class BucketSource:
    """A folder of a bucket."""

    def __init__(self, uri: str, revision: str | None, store: S3Store | GCSStore, folder: str, through: Gate) -> None:
        self._uri = uri
        self._revision = revision
        self._store = store
        self._folder = folder
        self._gate = through
        self._etags: dict[str, tuple[int, str | None]] = {}

    async def list(self) -> Listing:
        """See `Source.list`. The revision is a hash of names, sizes and entity tags."""
        found, tags, count = [], {}, 0
        prefix = f"{self._folder}/" if self._folder else ""
        try:
            async for objects in obstore.list(self._store, self._folder or None, chunk_size=1000):
                count += len(objects)
                if count > _MAX_OBJECTS:
                    raise SourceError(
                        WeightsProblem.FORBIDDEN_SOURCE,
                        f"{self._uri} holds more than {_MAX_OBJECTS} objects; name one model",
                    )
                for each in objects:
                    path = each["path"].removeprefix(prefix)
                    found.append(RemoteFile(path, each["size"], None))
                    tags[path] = each["size"], each["e_tag"]
        except (exceptions.BaseError, OSError) as error:
            raise self._said(error) from None
        if not found:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND, f"{self._uri} holds nothing. Check bucket and folder with {self._look}"
            )
        files = formats.choose(self._uri, found)
        lines = "".join(f"{file.path} {file.bytes} {tags[file.path][1]}\n" for file in files)
        revision = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
        if self._revision not in {None, "", revision}:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} is at {revision} by now, not at {self._revision}. Put the former objects back, or set the"
                " revision to the new one",
            )
        self._etags = {file.path: tags[file.path] for file in files}
        return Listing(self._uri, revision, files)

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        if not self._etags:
            await self.list()
        size, etag = self._etags[path]
        where = f"{self._uri}/{path}"
        key = f"{self._folder}/{path}" if self._folder else path
        received = 0
        try:
            result = await obstore.get_async(
                self._store, key, options={"range": (offset, offset + length), "if_match": etag}
            )
            if result.meta["size"] != size or result.meta["e_tag"] != etag:
                raise ChangedError(where, "is another object by now")
            if result.range != (offset, offset + length):
                raise ChangedError(where, f"answers with bytes {result.range[0]} to {result.range[1]}")
            async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                received += len(chunk)
                if received > length:
                    raise ChangedError(where, "sends more bytes than it was asked for")
                yield bytes(chunk)
        except exceptions.PreconditionError:
            raise ChangedError(where, "is another object by now") from None
        except exceptions.NotFoundError:
            raise ChangedError(where, "is gone") from None
        except (exceptions.BaseError, OSError) as error:
            raise self._said(error) from None
        if received != length:
            raise self._unreachable(f"the connection closed after {received} of {length} bytes")

    @property
    def _look(self) -> str:
        return f"`aws s3 ls {self._uri}/`" if self._uri.startswith("s3") else f"`gcloud storage ls {self._uri}`"

    def _said(self, error: Exception) -> SourceError:
        if self._gate.refused is not None:
            return self._gate.refused
        message = str(error)
        if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)) or (
            "InvalidAccessKeyId" in message or "SignatureDoesNotMatch" in message
        ):
            keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if self._uri.startswith("s3") else _ACCOUNT_KEYS[0]
            return SourceError(
                WeightsProblem.ACCESS_DENIED,
                f"{self._uri} may not be read. Name a Secret with the keys {keys} in secretRef: `kubectl create secret"
                " generic bucket --from-literal=...`",
            )
        if isinstance(error, exceptions.NotFoundError):
            return SourceError(WeightsProblem.MODEL_NOT_FOUND, f"{self._uri} is not there. Check it with {self._look}")
        if isinstance(error, exceptions.InvalidPathError) or "invalid path" in message:
            return SourceError(
                WeightsProblem.FORBIDDEN_SOURCE,
                f"{self._uri} holds an object whose name no file may have: {message.splitlines()[0][:120]!r}. Rename it"
                " in the bucket",
            )
        if is_of_another_region(message):
            return SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} is in another region. Set AWS_REGION in the Secret of secretRef to the bucket's region",
            )
        return self._unreachable(message.splitlines()[0][:200] if message else type(error).__name__)

    def _unreachable(self, why: str) -> SourceError:
        return SourceError(
            WeightsProblem.SOURCE_UNREACHABLE,
            f"{self._uri} can't be read: {why}. It is tried again; check it with {self._look}",
            retry_after_seconds=UNREACHABLE_RETRY_SECONDS,
        )


def is_of_another_region(message: str) -> bool:
    """Whether a store's error says that the bucket is elsewhere. Numbers in it may be of ports and times."""
    return any(
        words in message for words in ("PermanentRedirect", "301 Moved Permanently", "redirect without LOCATION")
    )


@asynccontextmanager
async def opened(
    uri: str, revision: str | None, credential: Mapping[str, bytes], endpoints: Endpoints
) -> AsyncIterator[BucketSource]:
    """Open a folder of a bucket."""
    matched = _URI.fullmatch(uri)
    folder = (matched[3] or "").rstrip("/") if matched is not None else ""
    if matched is None or any(part in {"", ".", ".."} for part in folder.split("/") if folder):
        raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{uri} is no bucket. Write e.g. s3://bucket/folder")
    async with gate.opened(endpoints) as through:
        make = _s3 if matched[1] == "s3" else _gs
        try:
            store = make(matched[2], credential, endpoints, through)
        except (exceptions.BaseError, ValueError) as error:
            raise SourceError(
                WeightsProblem.ACCESS_DENIED, f"{uri}: the Secret of secretRef is no credential: {str(error)[:120]}"
            ) from None
        yield BucketSource(uri.rstrip("/"), revision, store, folder, through)


def _s3(bucket: str, credential: Mapping[str, bytes], endpoints: Endpoints, through: Gate) -> S3Store:
    given = {key: value.decode("utf-8", "replace").strip() for key, value in credential.items()}
    region = given.get("AWS_REGION") or endpoints.s3_region or "us-east-1"
    if not _REGION.fullmatch(region):
        raise ValueError(f"AWS_REGION {region[:40]!r} is no region")
    endpoint = given.get("AWS_ENDPOINT_URL") or endpoints.s3 or f"https://s3.{region}.amazonaws.com"
    keys = {key.lower(): given[key] for key in _KEYS if given.get(key)}
    if credential and not {"aws_access_key_id", "aws_secret_access_key"} <= keys.keys():
        raise ValueError("it needs the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

    def provide() -> dict[str, object]:
        return {
            "access_key_id": keys.get("aws_access_key_id", ""),
            "secret_access_key": keys.get("aws_secret_access_key", ""),
            "token": keys.get("aws_session_token"),
            "expires_at": None,
        }

    return S3Store(
        bucket,
        endpoint=endpoint.rstrip("/"),
        region=region,
        virtual_hosted_style_request=False,
        skip_signature=not keys,
        credential_provider=provide if keys else None,  # type: ignore[arg-type]
        client_options=_client(endpoint, endpoints, through),
        retry_config=_NO_RETRIES,
    )


def _gs(bucket: str, credential: Mapping[str, bytes], endpoints: Endpoints, through: Gate) -> GCSStore:
    endpoint = endpoints.gs or _GOOGLE
    client = _client(endpoint, endpoints, through)
    if not credential:
        return GCSStore(bucket, base_url=endpoint, skip_signature=True, client_options=client, retry_config=_NO_RETRIES)
    account = next((credential[key] for key in _ACCOUNT_KEYS if key in credential), None)
    if account is None:
        raise ValueError(f"it needs the key {_ACCOUNT_KEYS[0]} with a service account's JSON")
    parsed = json.loads(account)
    if not isinstance(parsed, dict):
        raise ValueError("it is no service account's JSON")
    # Where to connect to is not the Secret's to say.
    parsed.pop("gcs_base_url", None)
    return GCSStore(
        bucket,
        base_url=endpoint,
        service_account_key=json.dumps(parsed),
        client_options=client,
        retry_config=_NO_RETRIES,
    )


def _client(endpoint: str, endpoints: Endpoints, through: Gate) -> "ClientConfig":
    url = URL(endpoint)
    endpoints.check(url)
    options: ClientConfig = {
        "user_agent": USER_AGENT,
        "connect_timeout": "15s",
        "read_timeout": "30s",
        "timeout": "1h",
    }
    # Plain http is what an administrator named, and needs no gate.
    if url.scheme == "http":
        return {**options, "allow_http": True}
    return {**options, "proxy_url": through.url}
