"""What the agent knows beside what its stores hold: answers of sources, uses, failures, measurements.

It lives in memory; what a restarted agent needs of it stands in the NodeCache's status.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from warmfleet_agent.bandwidths import Bandwidths, recalled
from warmfleet_agent.failures import Failures
from warmfleet_agent.plan import Known, Use, used
from warmfleet_agent.sources import Listing
from warmfleet_agent.status import Found
from warmfleet_agent.transfers import Outcome, Trouble
from warmfleet_api.artifacts import name_in
from warmfleet_api.node_cache import EntryProblem, NodeCacheSpec, NodeCacheStatus, WantedEntry
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem

logger = logging.getLogger(__name__)

PROOF_SECONDS = 50 * 60.0
"""A credential is shown to its source again after this long: within the hour, with time for tries."""
PROOF_RETRY_SECONDS = 60.0
MANY_TIMES_FULL = 3
"""An entry that found no room so often, though there should have been, waits longer."""
_REFUSED = frozenset({WeightsProblem.ACCESS_DENIED, WeightsProblem.SECRET_MISSING, WeightsProblem.MODEL_NOT_FOUND})


@dataclass(slots=True)
class Knowledge:
    """Times are unix seconds."""

    known: dict[str, Known] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)
    last_used: dict[str, float] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    bandwidths: Bandwidths = field(default_factory=Bandwidths)
    denied: dict[str, EntryProblem] = field(default_factory=dict)
    """Entries whose credential the source did not take any more: no further runner gets to see them."""
    prove_at: dict[str, float] = field(default_factory=dict)
    """When the credential of an entry is to be shown again."""
    _times_full: dict[str, int] = field(default_factory=dict)
    _failed_on_the_way: set[str] = field(default_factory=set)
    """Entries whose last failure was a transfer's, which an answer of the source does not undo."""
    _wishes: dict[str, WantedEntry] = field(default_factory=dict)

    def recall(self, status: NodeCacheStatus, boot_id: str, generation: int) -> None:
        """Take over what the status says from before the agent's restart.

        Entries are not among it: the stores themselves say what is whole, and memory is empty after a boot. Answers of
        sources are, if the status speaks of the spec's present generation: else they may be to an earlier question.
        """
        if status.boot_id and status.boot_id != boot_id:
            logger.info("the node was booted since: its memory starts empty")
        self.bandwidths = recalled(status)
        for each in status.entries:
            if each.last_used_time is not None:
                last = datetime.fromisoformat(each.last_used_time).timestamp()
                self.last_used[each.key] = last
                self.uses[each.key] = Use(1.0, last)
            if each.state is EntryState.KNOWN and status.observed_generation == generation:
                self.found[each.key] = Found(each.revision, each.bytes)

    def follow(self, spec: NodeCacheSpec) -> None:
        """Forget what belongs to wishes that are gone or have changed."""
        wishes = {each.key: each for each in spec.entries}
        for key, wish in self._wishes.items():
            if wishes.get(key) != wish:
                self._forget(key)
        for key, wish in wishes.items():
            before = self._wishes.get(key)
            if before is not None and before.secret_ref != wish.secret_ref:
                self.prove_at.pop(key, None)
        self._wishes = wishes
        self.known = {key: each for key, each in self.known.items() if key in wishes}
        self.found = {key: each for key, each in self.found.items() if key in wishes}
        self.denied = {key: each for key, each in self.denied.items() if key in wishes}
        self.prove_at = {key: each for key, each in self.prove_at.items() if key in wishes}

    def keep_uses(self, keys: frozenset[str]) -> None:
        """Forget the uses of entries that are neither here nor wanted."""
        for key in self.last_used.keys() - keys:
            self.last_used.pop(key, None)
            self.uses.pop(key, None)

    def answers(self) -> Mapping[str, Known]:
        """Return what sources said, for a plan."""
        # Of an answer from before a restart only the whole size is known: enough for who only asked.
        asked = {
            key: Known((found.bytes,), 0.0)
            for key, found in self.found.items()
            if key in self._wishes and self._wishes[key].tier is Tier.REMOTE
        }
        return asked | self.known

    def linked(self, key: str, now: float) -> None:
        """Note that a runner began to see an entry."""
        self.uses[key] = used(self.uses.get(key), now)
        self.last_used[key] = now

    def unlinked(self, key: str, now: float) -> None:
        """Note that a runner ceased to see an entry."""
        self.last_used[key] = now

    def asked(self, key: str, outcome: Outcome, now: float) -> None:
        """Take the answer of a source, or that there was none."""
        self._listed(key, outcome.listing, now)
        if outcome.trouble is not None:
            self._failed(key, outcome.trouble, now)
        elif outcome.done and key not in self._failed_on_the_way:
            self._forget(key)

    def moved(self, key: str, source: Tier, target: Tier, outcome: Outcome, now: float) -> None:
        """Take how a transfer ended."""
        self._listed(key, outcome.listing, now)
        if outcome.trouble is not None:
            self._failed_on_the_way.add(key)
            self._failed(key, outcome.trouble, now)
        elif outcome.is_full:
            self._times_full[key] = self._times_full.get(key, 0) + 1
            if self._times_full[key] >= MANY_TIMES_FULL:
                words = f"{target.value} had no room for it, though by the store's account it should; who else writes?"
                self._failed(key, Trouble(WeightsProblem.CACHE_FULL, words, 0.0), now)
        elif outcome.done:
            self._forget(key)
            if not name_in(key):
                self._measure(source, outcome)
            if source is Tier.REMOTE:
                self.proven(key, now)

    def proven(self, key: str, now: float) -> None:
        """Note that the source took the credential of an entry."""
        self.denied.pop(key, None)
        self.prove_at[key] = now + PROOF_SECONDS

    def not_proven(self, key: str, trouble: Trouble, now: float) -> None:
        """Note that the credential was refused; a source that does not answer refuses nothing."""
        self.prove_at[key] = now + PROOF_RETRY_SECONDS
        if trouble.reason in _REFUSED and trouble.retry_after_seconds is None:
            self.denied[key] = EntryProblem(reason=trouble.reason, message=trouble.message[:512])

    def _listed(self, key: str, listing: Listing | None, now: float) -> None:
        if listing is not None:
            self.known[key] = Known(tuple(file.bytes for file in listing.files), now)
            self.found[key] = Found(listing.revision, listing.bytes)

    def _failed(self, key: str, trouble: Trouble, now: float) -> None:
        self.failures.add(
            key,
            trouble.reason,
            trouble.message,
            retry_after_seconds=trouble.retry_after_seconds,
            now=now,
            tier=trouble.tier,
        )
        logger.warning("%s: %s: %s", key, trouble.reason, trouble.message)

    def _forget(self, key: str) -> None:
        self.failures.forget(key)
        self._times_full.pop(key, None)
        self._failed_on_the_way.discard(key)

    def _measure(self, source: Tier, outcome: Outcome) -> None:
        if source is Tier.REMOTE:
            self.bandwidths = self.bandwidths.with_remote(outcome.brought_bytes, outcome.seconds)
        elif source is Tier.DISK:
            self.bandwidths = self.bandwidths.with_disk(outcome.brought_bytes, outcome.seconds)
        if outcome.memory_read is not None:
            self.bandwidths = self.bandwidths.with_memory(*outcome.memory_read)
