"""The data plane that router and runner share: an HTTP/1.1 server under uvicorn, and a client for what is behind it.

Read `server` (what a handler is, and who serves it), `answer` (what a handler writes to) and `pool` (how it asks
somebody else). A request costs one coroutine for its control; the bytes of its answer go from one connection's
callback into the other one's transport, without a task or a queue between them. Nothing here knows what the bytes
mean, save that errors have OpenAI's shape, and `fallback`, which makes a stream of a complete answer.
"""
