"""Where weights come from: six kinds of uri, one contract.

`open_source` gives a `Source`: `list` resolves the revision and names the files, `read` yields their bytes by ranges.
`download.download` fills a draft of the store from it: parallel, resumed, bounded and checked.

A uri is written by whoever may create a ModelDeployment, so nothing a source says is believed: names, sizes, hashes,
redirects and addresses are checked here (`formats`, `safetensors`, `web`), and no file that could run code is fetched.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from warmfleet_agent.sources import buckets, hugging_face, web
from warmfleet_agent.sources.contract import Listing, LocalSource, RemoteFile, Source, SourceError, SourceRules
from warmfleet_agent.sources.endpoints import Endpoints
from warmfleet_agent.sources.folder import FolderSource
from warmfleet_agent.sources.registry import RegistrySource
from warmfleet_agent.sources.static import StaticSource
from warmfleet_api.vocabulary import WeightsProblem

__all__ = ["Listing", "LocalSource", "RemoteFile", "Source", "SourceError", "SourceRules", "open_source"]


@asynccontextmanager
async def open_source(
    uri: str, revision: str | None, credential: Mapping[str, bytes], rules: SourceRules
) -> AsyncIterator[Source]:
    """Open where a uri points to; nothing is asked of it before `list` or `read`.

    Args:
        uri: hf:// s3:// gs:// https:// oci:// or file://.
        revision: as `Listing.revision` gave it, or a tag or branch of hf:// and oci://; None: what is current.
        credential: the keys of the Secret, empty without one.
        rules: what an administrator allows.

    Raises:
        SourceError: the uri is none of these, or not allowed.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        yield FolderSource(uri, revision, rules)
        return
    endpoints = Endpoints(rules)
    if scheme in {"s3", "gs"}:
        async with buckets.opened(uri, revision, credential, endpoints) as bucket:
            yield bucket
        return
    if scheme not in {"hf", "https", "http", "oci"}:
        raise SourceError(
            WeightsProblem.FORBIDDEN_SOURCE,
            f"{uri[:200]!r} is of no known kind. Write hf:// s3:// gs:// https:// oci:// or file://",
        )
    async with web.opened(endpoints) as client:
        if scheme == "hf":
            async with hugging_face.opened(uri, revision, credential, client) as repository:
                yield repository
        elif scheme == "oci":
            yield RegistrySource(uri, revision, credential, client)
        else:
            yield StaticSource(uri, revision, credential, client)
