"""Where weights come from: six kinds of uri, one contract.

`open_source` gives a `Source`: `list` resolves the revision and names the files, `read` yields their bytes by ranges.
`download.download` fills a draft of the store from it: parallel, resumed, bounded and checked.

A uri is written by whoever may create a ModelDeployment, so nothing a source says is believed: names, sizes, hashes,
redirects and addresses are checked here (`formats`, `safetensors`, `web`), and no file that could run code is fetched.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from warmfleet_agent.sources.contract import Listing, LocalSource, RemoteFile, Source, SourceError, SourceRules
from warmfleet_api.vocabulary import WeightsProblem

__all__ = ["Listing", "LocalSource", "RemoteFile", "Source", "SourceError", "SourceRules", "open_source"]


@asynccontextmanager
async def open_source(
    uri: str, revision: str | None, credential: Mapping[str, bytes], rules: SourceRules
) -> AsyncIterator[Source]:
    """Open where a uri points to; nothing is asked of it before `list` or `read`.

    Args:
        uri: hf:// s3:// gs:// https:// oci:// or file://.
        revision: as `Listing.revision` gave it, or a tag or branch; None: what the source calls current.
        credential: the keys of the Secret, empty without one.
        rules: what an administrator allows.

    Raises:
        SourceError: the uri is none of these, or not allowed.
    """
    raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{uri} is of no known kind")
    async with AsyncExitStack():
        yield
