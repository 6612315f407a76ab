"""Short words for tests of the admission queue."""

from collections.abc import Iterable

from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission import Accepted, Queue, Request


def ask(
    key: int,
    *,
    tenant: str = "a",
    session: str = "",
    priority: Priority = Priority.NORMAL,
    arrived: float = 0.0,
    deadline: float | None = None,
    prompt: int = 10,
    answer: int = 10,
    sequences: int = 1,
    merge: bytes | None = None,
) -> Request:
    """Return a request."""
    return Request(
        id=key,
        tenant=tenant,
        session=session,
        priority=priority,
        arrived=arrived,
        deadline=deadline,
        prompt_tokens=prompt,
        answer_tokens=answer,
        sequences=sequences,
        merge_key=merge,
    )


def queue(max_sequences: int = 4, *, reserves: bool = False, serving: Serving | None = None) -> Queue:
    """Return a queue in front of a small engine."""
    return Queue(serving or Serving(), max_sequences, reserves)


def offer(at: Queue, requests: Iterable[Request], now: float | None = None) -> None:
    """Offer requests that have to be accepted."""
    for request in requests:
        answer = at.offer(request, request.arrived if now is None else now)
        assert isinstance(answer, Accepted), answer


def taken(at: Queue, now: float = 0.0) -> list[int]:
    """Return the ids that go to the engine now."""
    return [dispatch.id for dispatch in at.take(now)]


def full(max_sequences: int = 4, *, reserves: bool = False, serving: Serving | None = None) -> Queue:
    """Return a queue whose engine is full of Low requests, ids from 1000 on."""
    at = queue(max_sequences, reserves=reserves, serving=serving)
    key = 1000
    while True:
        offer(at, [ask(key, priority=Priority.LOW, tenant="filler")])
        if not taken(at):
            at.cancel(key, 0.0)
            return at
        key += 1


def order_of(at: Queue, now: float) -> list[int]:
    """Return the ids in the order in which the engine gets them, if it runs one after the other from now on."""
    order: list[int] = []
    while batch := taken(at, now):
        for key in batch:
            order.append(key)
            at.finish(key, 10, now)
    return order
