"""Requests that two servers could read in two ways, each followed by one that must never be served."""

HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
CORPUS = {
    "two lengths": HEAD + b"content-length: 0\r\ncontent-length: 40\r\n\r\n" + NEXT,
    "two equal lengths": HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc" + NEXT,
    "a list of lengths": HEAD + b"content-length: 3, 3\r\n\r\nabc" + NEXT,
    "length and chunks": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + NEXT,
    "a signed length": HEAD + b"content-length: +3\r\n\r\nabc" + NEXT,
    "a hexadecimal length": HEAD + b"content-length: 0x3\r\n\r\nabc" + NEXT,
    "a length beyond 64 bits": HEAD + b"content-length: 99999999999999999999\r\n\r\n" + NEXT,
    "an empty length": HEAD + b"content-length:\r\n\r\n" + NEXT,
    "an unknown encoding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "an encoding before chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked, then identity": HEAD
    + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
    + NEXT,
    "chunked behind a tab and a control": HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a folded header": HEAD + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "a folded encoding": HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a header before all with a space": b"POST /x HTTP/1.1\r\n host: a\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "bare LF in the head": b"POST /x HTTP/1.1\nhost: a\ncontent-length: 0\n\n" + NEXT,
    "one bare LF in the head": HEAD + b"x: y\ncontent-length: 0\r\n\r\n" + NEXT,
    "a bare CR in a header": HEAD + b"x: y\rcontent-length: 40\r\n\r\n" + NEXT,
    "a NUL in a header": HEAD + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "bare LF behind a chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" + NEXT,
    "bare LF behind a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n" + NEXT,
    "no end of a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + NEXT,
    "a negative chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a prefixed chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a chunk size beyond 64 bits": HEAD
    + b"transfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"
    + NEXT,
    "a space behind the chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n" + NEXT,
    "bare LF in a chunk extension": HEAD + b"transfer-encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n" + NEXT,
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "no host": b"GET /x HTTP/1.1\r\n\r\n" + NEXT,
    "two hosts": b"GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + NEXT,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /x HTTP/1.2\r\nhost: a\r\n\r\n" + NEXT,
    "no version": b"GET /x\r\n\r\n" + NEXT,
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n" + NEXT,
    "no path": b"GET x HTTP/1.1\r\nhost: a\r\n\r\n" + NEXT,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
