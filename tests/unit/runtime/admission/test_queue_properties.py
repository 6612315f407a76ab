"""Whatever happens in whatever order: nobody is lost, nothing is over-admitted, turns are kept."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.admission import ask
from warmfleet_api.assignment import AdmissionLimits, Batching, Serving
from warmfleet_api.vocabulary import BatchingPolicy, Priority
from warmfleet_runtime.admission import Accepted, Merged, Queue, Refused, Request
from warmfleet_runtime.admission.fairness import cost
from warmfleet_runtime.admission.room import ceilings

ANSWER_TOKENS = 20
MOST_PROMPT_TOKENS = 200
MOST_SEQUENCES = 2
LARGEST = cost(MOST_PROMPT_TOKENS, MOST_SEQUENCES * ANSWER_TOKENS)
TENANTS = ("a", "b", "c")
NO_LIMITS = AdmissionLimits()


@dataclass
class Known:
    """What the caller of the queue knows of a generation."""

    request: Request
    timeout: float
    hearers: set[int]
    room: int = 0
    """Sequences it runs; 0: it waits."""

    @property
    def deadline(self) -> float:
        own = float("inf") if self.request.deadline is None else self.request.deadline
        return min(own, self.request.arrived + self.timeout)


class Caller(RuleBasedStateMachine):
    """Uses the queue as the front does, and keeps books of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.key = 0
        self.known: dict[int, Known] = {}
        self.counts: Counter[tuple[Priority, str]] = Counter()
        self.served: dict[tuple[Priority, str, str], list[float]] = {}
        """Work sent to the engine of each two tenants of a class while both waited."""
        self.forgiven: defaultdict[tuple[Priority, str], float] = defaultdict(float)

    @initialize(
        max_sequences=st.integers(2, 20),
        reserves=st.booleans(),
        has_long=st.sampled_from([False, False, False, True]),
        policy=st.sampled_from([BatchingPolicy.CONTINUOUS] * 3 + list(BatchingPolicy)),
        limits=st.sampled_from(
            [NO_LIMITS, NO_LIMITS, NO_LIMITS, AdmissionLimits(sequences_per_tenant=6, tokens_per_session=500)]
        ),
        max_requests=st.sampled_from([0, 3, 10, 1000, 1000, 1000, 1000]),
        classes=st.sampled_from([tuple(Priority), (Priority.NORMAL,)]),
    )
    def begin(
        self,
        *,
        max_sequences: int,
        reserves: bool,
        has_long: bool,
        policy: BatchingPolicy,
        limits: AdmissionLimits,
        max_requests: int,
        classes: tuple[Priority, ...],
    ) -> None:
        self.serving = Serving(
            max_requests=max_requests,
            timeout_seconds=10,
            batching=Batching(policy=policy, max_size=3, max_wait_milliseconds=200),
            merge_window_milliseconds=300,
            limits=limits,
        )
        self.max_sequences, self.reserves, self.has_long = max_sequences, reserves, has_long
        self.classes = classes
        self.queue = Queue(self.serving, max_sequences, reserves)

    # What the front does ---------------------------------------------------------------------------------------

    @rule(
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from(TENANTS),
        session=st.sampled_from(["", "s"]),
        own_deadline=st.sampled_from([None, None, None, None, 0.0, 1.0, 3.0, 100.0]),
        prompt=st.integers(1, MOST_PROMPT_TOKENS),
        is_long=st.integers(0, 9).map(lambda drawn: drawn == 0),
        sequences=st.integers(1, MOST_SEQUENCES),
        merge=st.sampled_from([None, None, None, None, b"k", b"j"]),
        count=st.sampled_from([1, 2, 8, 20]),
    )
    def offer(
        self,
        *,
        priority: Priority,
        tenant: str,
        session: str,
        own_deadline: float | None,
        prompt: int,
        is_long: bool,
        sequences: int,
        merge: bytes | None,
        count: int,
    ) -> None:
        for _ in range(count):
            self.key += 1
            request = ask(
                self.key,
                tenant=tenant,
                session=session,
                priority=priority if priority in self.classes else self.classes[0],
                arrived=self.now,
                deadline=None if own_deadline is None else self.now + own_deadline,
                prompt=5000 if is_long and self.has_long else prompt,
                answer=ANSWER_TOKENS,
                sequences=sequences,
                merge=merge,
            )
            self._hear(request, self.queue.offer(request, self.now))
            self._settle()

    def _hear(self, request: Request, answer: Accepted | Merged | Refused) -> None:
        match answer:
            case Accepted():
                assert request.deadline is None or request.deadline > self.now
                self.known[request.id] = Known(request, self.serving.timeout_seconds, {request.id})
            case Merged(leader):
                led = self.known[leader].request
                assert (led.tenant, led.merge_key) == (request.tenant, request.merge_key)
                assert self.now - led.arrived <= 0.3
                self.known[leader].hearers.add(request.id)
            case Refused():
                assert answer.status in {400, 429}
                assert (answer.retry_after_seconds or 0) >= (answer.status == 429)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.queue.next_time(self.now)) is not None and due <= end:
            assert due > self.now, "a time that is past would make the front spin"
            self.now = due
            self._settle()
        self.now = end
        self._settle()

    @precondition(lambda self: any(known.room for known in self.known.values()))
    @rule(data=st.data(), is_failed=st.integers(0, 9).map(lambda drawn: drawn == 0))
    def finish(self, data: st.DataObject, *, is_failed: bool) -> None:
        key = data.draw(st.sampled_from([key for key, known in self.known.items() if known.room]))
        self._finish(key, is_failed=is_failed)

    def _finish(self, key: int, *, is_failed: bool) -> None:
        request = self.known.pop(key).request
        self.queue.first_token(key, self.now)
        self.queue.progress(key, 1, self.now)
        self.queue.finish(key, 0 if is_failed else request.sequences * ANSWER_TOKENS, self.now)
        if is_failed:
            self._forgive(request)
        self.counts[request.priority, "finished"] += 1
        self._settle()

    @rule()
    def finish_all(self) -> None:
        for key in [key for key, known in self.known.items() if known.room]:
            self._finish(key, is_failed=False)

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        leader = data.draw(st.sampled_from(list(self.known)))
        known = self.known[leader]
        key = data.draw(st.sampled_from(sorted(known.hearers)))
        known.hearers.discard(key)
        is_over = self.queue.cancel(key, self.now)
        assert is_over == (not known.hearers)
        assert not self.queue.cancel(key, self.now)
        if is_over:
            del self.known[leader]
            self.counts[known.request.priority, "cancelled"] += 1
            if known.room:
                self._forgive(known.request)
        self._settle()

    @rule(max_sequences=st.integers(2, 20), timeout_seconds=st.sampled_from([5, 10]))
    def configure(self, max_sequences: int, timeout_seconds: int) -> None:
        self.serving = Serving(
            max_requests=self.serving.max_requests,
            timeout_seconds=timeout_seconds,
            batching=self.serving.batching,
            merge_window_milliseconds=300,
            limits=self.serving.limits,
        )
        self.max_sequences = max_sequences
        self.queue.configure(self.serving, max_sequences, self.now)
        self.served.clear()
        self._settle()

    # What has to hold ------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for key, refusal in self.queue.expire(self.now):
            leader = next(leader for leader, known in self.known.items() if key in known.hearers)
            known = self.known[leader]
            assert not known.room
            assert refusal.retry_after_seconds
            # With first tokens that come late, the sender's deadline has passed earlier.
            assert refusal.code == "shed" or self.now >= known.deadline or self.has_long
            known.hearers.discard(key)
            if not known.hearers:
                del self.known[leader]
                self.counts[known.request.priority, "turned out"] += 1
        for dispatch in self.queue.take(self.now):
            known = self.known[dispatch.id]
            assert not known.room, "sent twice"
            assert dispatch.waited_seconds == self.now - known.request.arrived
            if not self.has_long:  # long prompts wait in a line of their own
                self._check_turn(known)
            self._check_room(known)
            if not self.has_long:
                self.queue.first_token(dispatch.id, self.now)
            self.counts[known.request.priority, "dispatched"] += 1
        assert all(known.room or known.deadline > self.now for known in self.known.values()), "waits past its deadline"
        waiting = sum(not known.room for known in self.known.values())
        assert waiting <= self.serving.max_requests

    def _check_turn(self, chosen: Known) -> None:
        own = chosen.request
        rivals = [known for known in self.known.values() if not known.room and known.request.priority is own.priority]
        same = [known.deadline for known in rivals if known.request.tenant == own.tenant]
        assert chosen.deadline <= min(same), "an earlier deadline of the tenant waits"
        for other in {known.request.tenant for known in rivals} - {own.tenant}:
            first, second = sorted((own.tenant, other))
            served = self.served.setdefault((own.priority, first, second), [0.0, 0.0])
            served[own.tenant == second] += work(own)
            bound = 2 * LARGEST + self.forgiven[own.priority, first] + self.forgiven[own.priority, second]
            assert abs(served[0] - served[1]) <= bound, "one tenant is far ahead of another that waits too"

    def _check_room(self, chosen: Known) -> None:
        rank = chosen.request.priority.rank
        most = ceilings(self.max_sequences, self.max_sequences, reserves=self.reserves)
        chosen.room = min(chosen.request.sequences, most[rank])
        for level in range(rank + 1):
            together = sum(known.room for known in self.known.values() if known.request.priority.rank >= level)
            assert together <= most[level], "over-admission"

    def _forgive(self, request: Request) -> None:
        """Let a tenant's next requests be cheaper by what this one did not take."""
        self.forgiven[request.priority, request.tenant] += work(request)

    @invariant()
    def both_books_agree(self) -> None:
        waiting = Counter(known.request.priority for known in self.known.values() if not known.room)
        running = Counter(known.request.priority for known in self.known.values() if known.room)
        waits = {(known.request.priority, known.request.tenant) for known in self.known.values() if not known.room}
        for priority, *pair in list(self.served):  # the bound is for tenants that both wait all the time
            if any((priority, tenant) not in waits for tenant in pair):
                del self.served[priority, pair[0], pair[1]]
        statistics = self.queue.statistics()
        for priority, each in statistics.classes.items():
            assert each.waiting == waiting[priority]
            assert each.dispatched == self.counts[priority, "dispatched"]
            assert each.finished == self.counts[priority, "finished"]
            assert each.cancelled == self.counts[priority, "cancelled"]
            ended = sum(self.counts[priority, how] for how in ("finished", "cancelled", "turned out"))
            assert each.accepted == ended + waiting[priority] + running[priority], "a request is lost"
        assert statistics.merged == sum(len(known.hearers - {leader}) for leader, known in self.known.items())
        if self.serving.batching.policy is BatchingPolicy.CONTINUOUS and not running:
            assert not waiting, "an engine with nothing to do lets requests wait"
        if not self.known:
            assert self.queue.next_time(self.now) is None
            assert not any(each.waiting or each.running for each in statistics.classes.values())

    def teardown(self) -> None:
        """Let everybody leave: then nothing is held, and all room and limits are free again."""
        if not hasattr(self, "queue"):
            return
        for leader, known in list(self.known.items()):
            for key in known.hearers:
                self.queue.cancel(key, self.now)
            del self.known[leader]
            self.counts[known.request.priority, "cancelled"] += 1
        self.both_books_agree()
        self.queue.configure(Serving(limits=self.serving.limits), 4, self.now)
        for tenant in TENANTS:
            self.key += 1
            request = ask(self.key, tenant=tenant, arrived=self.now, answer=ANSWER_TOKENS, session="s")
            assert isinstance(self.queue.offer(request, self.now), Accepted)


def work(request: Request) -> float:
    return cost(request.prompt_tokens, request.sequences * request.answer_tokens)


TestQueue = Caller.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
