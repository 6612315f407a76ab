"""What a model's engines read: which entries of the weight stores, at which revision, found with which credential.

A source is asked once what a uri holds at the revision that the spec asks for. The answer is *frozen* in
`status.weights` and stays, whatever the source calls current later, until the uri or the revision in the spec
changes. So a model that scales out or moves reads the same weights everywhere, and a restart of the operator
asks nobody. What a former spec read stays frozen as long as a runner still reads it: going back to it is no new
question, and its old runners and new ones can't differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from warmfleet_api.assignment import EngineSpec
from warmfleet_api.fields import ON_THE_NODE
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import EngineType, Priority, Tier
from warmfleet_api.weight_cache import SecretReference
from warmfleet_api.weights import entry_key, folder_of

_entry_key = lru_cache(maxsize=16384)(entry_key)
"""Models are read anew with every change of their status, and read the same as before."""
_BY_HOST = {"https", "oci"}
"""Schemes whose credentials belong to one host; those of the others belong to the whole scheme."""


@dataclass(frozen=True, slots=True)
class NeededEntry:
    """One thing an engine reads."""

    uri: str
    requested: str = ""
    """The revision that the spec asks for; empty: what is current."""
    scope: str = ""
    """The namespace that alone may read it, where it is found with a credential."""
    secret: SecretReference | None = None
    """That credential."""
    revision: str = ""
    """What the source answered; empty: it has not been asked yet."""
    bytes: int = 0
    digest: str = ""
    """Hash of what it holds; empty until a node had it whole."""
    key: str = field(init=False, repr=False, compare=False)
    """Its name in the weight stores; of one that is not known, the name under which it is asked for."""

    def __post_init__(self) -> None:
        # Once, as every round asks for it once per node and waiting start.
        object.__setattr__(self, "key", _entry_key(self.uri, self.revision or self.requested, self.scope))

    @property
    def is_known(self) -> bool:
        """Whether the source has said what it holds."""
        return bool(self.revision)

    @property
    def folder(self) -> str:
        """The folder of the nodes it is copied from, empty for what comes from afar."""
        return self.uri.removeprefix("file://") if self.uri.startswith(ON_THE_NODE) else ""

    def wanted(
        self, tier: Tier, priority: Priority = Priority.NORMAL, *, pinned: bool = False, uses_per_day: int = 0
    ) -> WantedEntry:
        """Return what a node is told. One that is not known is only asked for, whatever the tier."""
        return WantedEntry(
            key=self.key,
            uri=self.uri,
            revision=self.revision or self.requested or None,
            tier=tier if self.is_known else Tier.REMOTE,
            priority=priority,
            pinned=pinned,
            uses_per_day=uses_per_day,
            secret_ref=self.secret,
            digest=self.digest or None,
        )


def uris_of(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    """Return everything an engine reads: the model first, then draft and adapters; none for a Simulated one."""
    if spec.engine.type is EngineType.SIMULATED:
        return ()
    draft = (spec.engine.speculative.uri,) if spec.engine.speculative is not None else ()
    return tuple(dict.fromkeys((spec.model.uri, *draft, *(each.uri for each in spec.model.adapters))))


def needed_entries(namespace: str, spec: ModelDeploymentSpec, status: ModelDeploymentStatus) -> tuple[NeededEntry, ...]:
    """Return what engines of this spec read, the model first, each as far as it is known."""
    return tuple(_frozen(entry, status) for entry in _asked(namespace, spec))


def _asked(namespace: str, spec: ModelDeploymentSpec) -> Iterator[NeededEntry]:
    secret = spec.model.secret_ref
    for uri in uris_of(spec):
        # A credential goes to the source it was made for and to no other.
        uses_secret = secret is not None and source_of(uri) == source_of(spec.model.uri)
        yield NeededEntry(
            uri=uri,
            requested=(spec.model.revision or "") if uri == spec.model.uri else "",
            scope=namespace if uses_secret else "",
            secret=SecretReference(name=secret.name, namespace=namespace)
            if secret is not None and uses_secret
            else None,
        )


def _frozen(entry: NeededEntry, status: ModelDeploymentStatus) -> NeededEntry:
    for known in status.weights:
        asked = (known.uri, known.requested) == (entry.uri, entry.requested)
        # The key tells whether it was found with a credential: what that showed is not for everybody.
        if asked and known.key == entry_key(known.uri, known.revision, entry.scope):
            return NeededEntry(
                uri=entry.uri,
                requested=entry.requested,
                scope=entry.scope,
                secret=entry.secret,
                revision=known.revision,
                bytes=known.bytes,
                digest=known.digest,
            )
    return entry


def source_of(uri: str) -> tuple[str, str]:
    """Return what shares a credential: the scheme, and the host where it belongs to one."""
    scheme, _, rest = uri.partition("://")
    return scheme, rest.partition("/")[0] if scheme in _BY_HOST else ""


def keys_of(engine: EngineSpec) -> Iterator[str]:
    """Yield the keys of what an assigned engine reads."""
    prefix = folder_of("")
    draft = (engine.speculative.folder,) if engine.speculative is not None else ()
    for folder in (engine.folder, *draft, *(each.folder for each in engine.adapters)):
        if folder.startswith(prefix):
            yield folder.removeprefix(prefix)


def size_bytes(entries: Iterable[NeededEntry]) -> int:
    """Return what entries take together."""
    return sum(entry.bytes for entry in entries)
