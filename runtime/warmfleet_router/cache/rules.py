"""Which requests may be answered from what is kept, and under which key. Pure.

The key holds everything that an answer may depend on: tenant, object, engines' spec, revision of the weights, path, and
the body value by value as it came. Two requests that differ in anything but who asks never share an answer.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from warmfleet_api import names
from warmfleet_http.messages import Header
from warmfleet_router.refusals import RefusedError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
PATHS = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})
"""Answers of others depend on what the engine remembers, or cost less than looking them up."""
GREEDY = 1e-5
"""Temperatures below it are 0 to vLLM."""

_VERSION = b"1"
_CHOICE = names.HEADER_CACHE.lower().encode()
_IDENTITY = frozenset({"model", "user", "safety_identifier", "prompt_cache_key"})
"""Fields that change no answer; the model is in the key by what its engines call it."""
_UNKEPT = frozenset({"kv_transfer_params"})
"""Fields whose answers name what an engine holds just then."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Sampling(msgspec.Struct):
    temperature: float | None = None
    seed: int | float | None = None


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_sampling = msgspec.json.Decoder(_Sampling).decode


@dataclass(frozen=True, slots=True)
class Whose:
    """Whom an answer is for, and who gave it."""

    tenant: str
    model_uid: str
    revision: str
    """Of the weights."""
    engine_hash: str
    """Of the spec that the engines were started from; empty: not known, or not one alone."""
    served_name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one request."""

    key: bytes | None
    """None: it has nothing to do with what is kept."""
    engine_hash: str = ""
    looks_up: bool = True
    max_age_seconds: float | None = None
    """How old the client takes it; None: as old as the model lets it become."""
    only_kept: bool = False
    """The client wants no engine asked."""


BYPASS = Plan(None)


def plan(path: str, target: bytes, headers: Iterable[Header], body: bytes, whose: Whose) -> Plan:
    """Return what to do with a request; header names are in lower case.

    Raises:
        RefusedError: X-Warmfleet-Cache says something else than `bypass` or `allow`.
    """
    choice, accept, directives = b"", b"", dict[str, str]()
    for name, value in headers:
        if name == _CHOICE:
            choice = value.strip().lower()
        elif name == b"cache-control":
            directives |= cache_control(value)
        elif name == b"accept":
            accept = value
    if choice not in {b"", b"bypass", b"allow"}:
        message = f"{names.HEADER_CACHE} has to be `bypass`, or `allow` for a request whose answer may differ"
        raise RefusedError(400, "invalid_request", message)
    if choice == b"bypass" or "no-store" in directives or path not in PATHS or not whose.engine_hash:
        return BYPASS
    try:
        fields = _fields(body)
        if choice != b"allow" and path != EMBEDDINGS and not is_deterministic(body):
            return BYPASS
    except _UNREADABLE:
        return BYPASS
    if not _UNKEPT.isdisjoint(fields):
        return BYPASS
    return Plan(
        key=_key(whose, target, accept, fields),
        engine_hash=whose.engine_hash,
        looks_up="no-cache" not in directives,
        max_age_seconds=_seconds(directives.get("max-age")),
        only_kept="only-if-cached" in directives,
    )


def is_deterministic(body: bytes) -> bool:
    """Return whether a generation is greedy or seeded: the same body gets the same answer.

    Raises:
        msgspec.MsgspecError: the body can't be read.
    """
    told = _sampling(body)
    return told.seed is not None or (told.temperature is not None and told.temperature < GREEDY)


def cache_control(value: bytes) -> dict[str, str]:
    """Return the directives of Cache-Control, in lower case."""
    found = {}
    for part in value.decode("latin-1").lower().split(","):
        name, _, argument = part.strip().partition("=")
        if name:
            found[name] = argument.strip('"')
    return found


def may_be_kept(headers: Iterable[Header]) -> bool:
    """Return whether an answer with these headers may be given again, as far as its sender says."""
    told = dict[str, str]()
    for name, value in headers:
        if name == b"cache-control":
            told |= cache_control(value)
    return told.keys().isdisjoint({"no-store", "no-cache", "private"}) and told.get("max-age") != "0"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() and len(text) <= 10 else None


def _key(whose: Whose, target: bytes, accept: bytes, fields: dict[str, msgspec.Raw]) -> bytes:
    parts = [
        *(_VERSION, whose.tenant.encode(), whose.model_uid.encode(), whose.revision.encode()),
        *(whose.engine_hash.encode(), whose.served_name.encode(), target, accept),
    ]
    for name, raw in sorted((name, bytes(raw)) for name, raw in fields.items()):
        if name in _IDENTITY or raw == b"null" or (name, raw) == ("stream", b"false"):
            continue
        parts += (name.encode(), raw)
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        # Lengths keep parts apart: no value can look like two.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
