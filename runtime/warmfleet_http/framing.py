"""Which heads of requests are refused: every one that two servers could read in two ways.

The parser refuses most of it by itself (bare LF, folded headers, spaces before the colon, broken chunks, two lengths);
what it leaves to its caller is here. Pure.
"""

from warmfleet_http.messages import Header

Problem = tuple[int, str]
"""Status and words of a refusal."""

_VERSIONS = frozenset({"1.1", "1.0"})


def problem(method: bytes, version: str, target: bytes, headers: list[Header]) -> Problem | None:
    """Return why a request with this head is refused, None if it is clear. `headers` have lower-case names."""
    if version not in _VERSIONS:
        return 505, f"HTTP/{version} is not served; send HTTP/1.1"
    if method == b"CONNECT":
        return 501, "this is no proxy"
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    hosts = 0
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            encodings.append(value)
        elif name == b"host":
            hosts += 1
    if hosts > 1 or (not hosts and version == "1.1"):
        return 400, "the request needs exactly one Host"
    if not (target.startswith(b"/") or b"://" in target or (target == b"*" and method == b"OPTIONS")):
        return 400, "the request's target is no path"
    return _length_problem(version, lengths, encodings) if lengths or encodings else None


def _length_problem(version: str, lengths: list[bytes], encodings: list[bytes]) -> Problem | None:
    if lengths and encodings:
        return 400, "the request has both Content-Length and Transfer-Encoding"
    if len(lengths) > 1 or len(encodings) > 1:
        return 400, "the request says its length more than once"
    if lengths and not lengths[0].isdigit():
        return 400, "Content-Length is no number"
    if encodings and version == "1.0":
        return 400, "HTTP/1.0 has no Transfer-Encoding"
    if encodings and encodings[0].lower() != b"chunked":
        return 501, "of transfer encodings only chunked is served"
    return None
