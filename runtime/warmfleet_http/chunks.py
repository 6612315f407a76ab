"""Pieces of a body that pass from one connection to the other framed as they came."""

_LINE_END = b"\r\n"
_SIZE_BYTES = 9
"""How far the first line end is looked for: a chunk of 4 GiB would say its size before."""


def body_of_one(data: bytes) -> bytes | None:
    """Return the body of what is exactly one chunk, framed as we would do it; None: it is anything else.

    So for all that a parser could read in another way, for the last chunk, and for a part of one or several. `data` has
    to begin where a chunk does.
    """
    end = data.find(_LINE_END, 0, _SIZE_BYTES)
    body = data[end + 2 : -2]
    if end > 0 and body and data[:end] == b"%x" % len(body) and data.endswith(_LINE_END):
        return body
    return None
