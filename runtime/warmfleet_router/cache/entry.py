"""One answer that is kept, and how it is written outside of this process: with its key, and a hash over all of it."""

import hashlib

import msgspec

_MAGIC = b"wfa1"
_HASH_BYTES = 16


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer with status 200."""

    key: bytes
    content_type: bytes
    body: bytes
    kept_at: float
    """Unix seconds."""
    expires_at: float
    """Unix seconds."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.body) + len(self.content_type) + 512

    def is_fresh(self, now: float, max_age_seconds: float | None = None) -> bool:
        """Whether it may still be given; `now` in Unix seconds."""
        if not self.kept_at <= now + 60.0 or now >= self.expires_at:
            return False
        return max_age_seconds is None or now - self.kept_at <= max_age_seconds

    def age_seconds(self, now: float) -> int:
        """Return how long it has been kept, for the header Age."""
        return max(0, int(now - self.kept_at))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def encode(entry: Entry) -> bytes:
    """Return an entry as it is written outside."""
    payload = _encode(entry)
    return _MAGIC + _hash(payload) + payload


def decode(data: bytes, key: bytes) -> Entry | None:
    """Read what was written outside; None: it is damaged, or another one's."""
    start = len(_MAGIC) + _HASH_BYTES
    payload = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != _hash(payload):
        return None
    try:
        entry = _decode(payload)
    except msgspec.MsgspecError:
        return None
    return entry if entry.key == key else None


def _hash(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_HASH_BYTES).digest()
