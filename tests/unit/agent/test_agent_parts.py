"""Parts of the agent by themselves: threads, progress, failures, knowledge, its surface over HTTP."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ports import free_port
from support.scripted import until
from warmfleet_agent import api as surface
from warmfleet_agent.api import Feed, status_route
from warmfleet_agent.credentials import bind_command
from warmfleet_agent.failures import LONGEST_SECONDS, Failures
from warmfleet_agent.knowledge import PROOF_SECONDS, Knowledge
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.progress import Meter
from warmfleet_agent.sources import Listing, RemoteFile
from warmfleet_agent.threads import Threads
from warmfleet_agent.transfers import Outcome, Trouble
from warmfleet_api import agent_status
from warmfleet_api.agent_status import AgentStatus
from warmfleet_api.node_cache import (
    NodeCacheSpec,
    NodeCacheStatus,
    SeenEntry,
    TierSpec,
    WantedEntry,
)
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_api.weight_cache import SecretReference
from warmfleet_kube.errors import BadSetting
from warmfleet_kube.health import Check, serve

LISTING = Listing("hf://org/a", "r1", (RemoteFile("model.safetensors", 100, None),))
PASSES = Trouble(WeightsProblem.SOURCE_UNREACHABLE, "no answer", 5.0)
FOR_A_PERSON = Trouble(WeightsProblem.ACCESS_DENIED, "no right", None)


# Threads ------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_is_awaited_to_its_end() -> None:
    threads, ended = Threads(), threading.Event()

    def slow() -> None:
        time.sleep(0.3)
        ended.set()

    task = asyncio.create_task(threads.long(slow))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    threads.close()


@pytest.mark.parametrize("after_seconds", [0.05, 0.5])
async def test_a_blocking_context_is_left_however_its_task_ends(after_seconds: float) -> None:
    threads, steps = Threads(), []

    @contextmanager
    def blocking() -> Iterator[int]:
        time.sleep(0.2)
        steps.append("entered")
        try:
            yield 1
        finally:
            steps.append("left")

    async def use() -> None:
        async with threads.entered(blocking()):
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    await asyncio.sleep(after_seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["entered", "left"]
    threads.close()


async def test_an_error_inside_a_blocking_context_reaches_it_and_its_user() -> None:
    threads, seen = Threads(), []

    @contextmanager
    def blocking() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(str(error))
            raise

    with pytest.raises(ValueError, match="inside"):
        async with threads.entered(blocking()):
            raise ValueError("inside")
    assert seen == ["inside"]
    threads.close()


# Progress -----------------------------------------------------------------------------------------------------------


def test_the_speed_is_that_of_the_last_seconds_and_what_was_there_has_none() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    meter.resume(1000)
    for _ in range(100):
        now[0] += 0.1
        meter.add(10)
    assert meter.total_bytes == 2000
    assert meter.brought_bytes == 1000
    assert abs(meter.bytes_per_second() - 100) <= 3
    now[0] += 60
    assert meter.bytes_per_second() == 0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(-1000, 1000)), max_size=50))
def test_no_order_of_bytes_gives_a_negative_count_or_speed(steps: list[tuple[float, int]]) -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    for seconds, size_bytes in steps:
        now[0] += seconds
        meter.add(size_bytes)
        assert meter.total_bytes >= 0
        assert meter.bytes_per_second() >= 0


# Failures and knowledge ---------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.one_of(st.none(), st.floats(0, 1e6)))
def test_delays_grow_and_have_a_bound(tries: int, retry_after_seconds: float | None) -> None:
    failures, before = Failures(), 0.0
    for _ in range(tries):
        problem = failures.add("a", WeightsProblem.DAMAGED, "x", retry_after_seconds=retry_after_seconds, now=1000.0)
        assert problem.until - 1000.0 >= before
        before = problem.until - 1000.0
    assert before <= max(LONGEST_SECONDS, 3600.0)


def spec(*entries: WantedEntry) -> NodeCacheSpec:
    return NodeCacheSpec(cache="c", memory=TierSpec(bytes=1, path="/m"), entries=list(entries))


def wish(**more: object) -> WantedEntry:
    return WantedEntry.model_validate({"key": "a", "uri": "hf://org/a", "tier": "Memory"} | more)


def test_an_answer_undoes_a_failed_question_but_no_failed_transfer() -> None:
    knowledge = Knowledge()
    knowledge.follow(spec(wish()))
    knowledge.asked("a", Outcome(trouble=PASSES), 1.0)
    assert "a" in knowledge.failures.problems
    knowledge.asked("a", Outcome(done=True, listing=LISTING), 2.0)
    assert knowledge.failures.problems == {}
    knowledge.moved("a", Tier.REMOTE, Tier.MEMORY, Outcome(trouble=PASSES), 3.0)
    knowledge.asked("a", Outcome(done=True, listing=LISTING), 4.0)
    assert "a" in knowledge.failures.problems
    knowledge.moved("a", Tier.REMOTE, Tier.MEMORY, Outcome(done=True), 5.0)
    assert knowledge.failures.problems == {}


def test_another_wish_forgets_the_failure_of_the_former() -> None:
    knowledge = Knowledge()
    knowledge.follow(spec(wish()))
    knowledge.asked("a", Outcome(trouble=FOR_A_PERSON), 1.0)
    knowledge.follow(spec(wish()))
    assert "a" in knowledge.failures.problems
    knowledge.follow(spec(wish(secretRef={"name": "s", "namespace": "n"})))
    assert knowledge.failures.problems == {}
    knowledge.asked("a", Outcome(done=True, listing=LISTING), 2.0)
    knowledge.follow(spec())
    assert knowledge.known == {}
    assert knowledge.found == {}


def test_what_is_full_against_all_accounts_waits_longer_after_some_tries() -> None:
    knowledge = Knowledge()
    knowledge.follow(spec(wish()))
    for _ in range(2):
        knowledge.moved("a", Tier.REMOTE, Tier.MEMORY, Outcome(is_full=True), 1.0)
    assert knowledge.failures.problems == {}
    knowledge.moved("a", Tier.REMOTE, Tier.MEMORY, Outcome(is_full=True), 1.0)
    assert knowledge.failures.problems["a"].reason is WeightsProblem.CACHE_FULL


def test_only_a_refusal_denies_and_a_silent_source_does_not() -> None:
    knowledge = Knowledge()
    knowledge.not_proven("a", PASSES, 0.0)
    assert knowledge.denied == {}
    knowledge.not_proven("a", FOR_A_PERSON, 0.0)
    assert knowledge.denied["a"].reason is WeightsProblem.ACCESS_DENIED
    knowledge.proven("a", 10.0)
    assert knowledge.denied == {}
    assert knowledge.prove_at["a"] == 10.0 + PROOF_SECONDS
    assert PROOF_SECONDS < 3600


def test_a_restarted_agent_recalls_uses_and_answers_but_believes_no_entry() -> None:
    status = NodeCacheStatus(
        boot_id="before",
        remote_bytes_per_second=7,
        entries=[
            SeenEntry(
                key="a", tier=Tier.MEMORY, state=EntryState.PRESENT, bytes=9, last_used_time="2026-01-31T12:00:00Z"
            ),
            SeenEntry(key="b", tier=Tier.REMOTE, state=EntryState.KNOWN, revision="r2", bytes=5),
        ],
    )
    knowledge = Knowledge()
    knowledge.recall(status, "now", status.observed_generation)
    asked = WantedEntry(key="b", uri="hf://org/b", tier=Tier.REMOTE)
    knowledge.follow(spec(wish(), asked))
    assert knowledge.uses["a"].count == 1.0
    assert knowledge.bandwidths.remote == 7
    assert knowledge.found["b"].revision == "r2"
    assert set(knowledge.answers()) == {"b"}
    # Wanted whole, its files are asked for: the whole size alone plans no room.
    knowledge.follow(spec(wish(), asked.model_copy(update={"tier": Tier.MEMORY})))
    assert knowledge.answers() == {}
    # The spec was changed meanwhile: the question may have been taken away, and asked anew since.
    later = Knowledge()
    later.recall(status, "now", status.observed_generation + 1)
    assert later.found == {} and later.bandwidths.remote == 7


def test_the_command_names_the_role_and_who_gets_it() -> None:
    reference = SecretReference(name="hf", namespace="team-a")
    assert bind_command(reference.namespace).startswith("kubectl -n team-a create rolebinding ")
    assert "--serviceaccount=warmfleet-agents:warmfleet-agent" in bind_command("team-a")


# HTTP ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(
    feed: Feed, metrics: Metrics, *, age_seconds: float = 0.0, ready: bool = True
) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    checks = (Check("watch", lambda: age_seconds, 10.0, lambda: "refused"),)
    task = asyncio.create_task(
        serve(port, checks, lambda: (ready, "why"), metrics.render, routes=(status_route(feed),), on_port=feed.opened)
    )
    await until(lambda: feed.port != 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def feed_of(metrics: Metrics, status: list[AgentStatus], *, in_motion: bool = False) -> Feed:
    return Feed(lambda: status[-1], lambda: in_motion, metrics)


async def test_health_says_which_check_failed_and_why() -> None:
    metrics = Metrics()
    feed = feed_of(metrics, [AgentStatus(node="n")])
    async with served(feed, metrics, age_seconds=30.0, ready=False) as session:
        async with session.get("/livez") as answer:
            assert answer.status == 503
            assert await answer.text() == "FAILED watch: 30.0 s (limit 10 s) refused\n"
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "why\n")
        async with session.get("/metrics") as answer:
            assert "warmfleet_weights_bytes_total" in await answer.text()
        async with session.get("/v1/status") as answer:
            assert agent_status.decode(await answer.read()).node == "n"


async def test_a_stream_tells_changes_at_once_and_keeps_its_distance() -> None:
    metrics, status = Metrics(), [AgentStatus(node="n")]
    feed = feed_of(metrics, status)
    async with served(feed, metrics) as session, session.get("/v1/status?watch=1") as stream:
        first = agent_status.decode(await stream.content.readline())
        assert first.in_memory == ()
        await asyncio.sleep(1.0)
        started = asyncio.get_running_loop().time()
        status.append(AgentStatus(node="n", in_memory=("a",)))
        feed.touch()
        assert agent_status.decode(await stream.content.readline()).in_memory == ("a",)
        assert asyncio.get_running_loop().time() - started < 0.3
        feed.touch()
        started = asyncio.get_running_loop().time()
        await stream.content.readline()
        assert asyncio.get_running_loop().time() - started > 0.3


async def test_a_reader_that_takes_nothing_is_dropped_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(surface, "PROGRESS_SECONDS", 0.01)
    metrics = Metrics()
    long = AgentStatus(node="n", in_memory=tuple(f"key-{number}" for number in range(50_000)))
    feed = feed_of(metrics, [long], in_motion=True)
    async with served(feed, metrics) as session:
        reader, writer = await asyncio.open_connection("127.0.0.1", feed.port)
        writer.write(b"GET /v1/status?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: metrics.registry.get_sample_value("warmfleet_weights_streams") == 1)
        await until(lambda: metrics.registry.get_sample_value("warmfleet_weights_streams") == 0, 15)
        async with session.get("/v1/status") as answer:
            assert answer.status == 200
        writer.transport.abort()


async def test_too_many_readers_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "MAX_STREAMS", 1)
    metrics = Metrics()
    feed = feed_of(metrics, [AgentStatus(node="n")])
    async with served(feed, metrics) as session, session.get("/v1/status?watch=1") as stream:
        await stream.content.readline()
        async with session.get("/v1/status?watch=1") as answer:
            assert answer.status == 503
            assert "end one of them" in await answer.text()


async def test_a_port_that_is_taken_is_a_setting_to_change() -> None:
    metrics = Metrics()
    feed = feed_of(metrics, [AgentStatus(node="n")])
    async with served(feed, metrics):
        with pytest.raises(BadSetting, match="WARMFLEET_PORT="):
            await serve(feed.port, (), lambda: (True, ""), metrics.render)
