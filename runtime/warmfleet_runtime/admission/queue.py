"""The admission queue of one engine: who goes to it next, who shares a generation, who is refused.

Read `offer` and `take`; each concern they name has its module. Deterministic: no clock, no chance.

A request has two times. Its *due*, its arrival plus a part of `serving.timeout_seconds` that is the shorter the higher
its class, orders it among the classes. Its *deadline*, arrival plus the whole timeout or what its sender said if that
is sooner, ends its wait; one that by prediction will miss it is refused when it comes.
"""

from dataclasses import replace

from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import BatchingPolicy, Priority
from warmfleet_runtime.admission import refusals
from warmfleet_runtime.admission.entry import Entry, Lane
from warmfleet_runtime.admission.fairness import cost
from warmfleet_runtime.admission.limits import Holdings
from warmfleet_runtime.admission.merging import Merges
from warmfleet_runtime.admission.pace import Pace
from warmfleet_runtime.admission.policies import HELD_FROM, OPEN, Crowd, Gate, gate
from warmfleet_runtime.admission.requests import Accepted, Dispatch, Merged, Refused, Request
from warmfleet_runtime.admission.room import Room, ceilings
from warmfleet_runtime.admission.statistics import ClassStatistics, Statistics
from warmfleet_runtime.admission.waiting import Waiting

UNKNOWN_MAX_SEQUENCES = 256
"""Taken for what an engine runs at once if it does not say."""
DUE_SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""By rank: the part of the timeout after which a request is due."""
SURE_SHARE = 16
"""Each class is sure of one waiting place in so many, whoever else comes."""
PRUDENCE = 1.5
"""A predicted wait has to fit its deadline so many times: engines slow down, and a request that was taken in and then
misses its deadline has waited in vain, while one that was refused at once has lost nothing."""
LONG_PROMPT_TOKENS = 1024
"""A prompt is long from here on, if it is also so many times longer than usual:"""
LONG_PROMPT_FACTOR = 4


class Queue:
    """Holds the requests of one engine, waiting and running.

    After `offer`, `first_token`, `finish`, `cancel`, `configure` and `warm`, and at `next_time`, the caller asks
    `expire` for those that ended and `take` for those to send.
    """

    def __init__(self, serving: Serving, max_sequences: int, reserves: bool) -> None:
        self._serving = serving
        self._max_sequences = max_sequences or UNKNOWN_MAX_SEQUENCES
        self._reserves = reserves
        self._entries: dict[int, Entry] = {}
        self._waiting = Waiting(serving.timeout_seconds)
        self._room = Room(ceilings(self._max_sequences, self._max_sequences, reserves=reserves))
        self._holdings = Holdings()
        self._merges = Merges()
        self._pace = Pace()
        self._warm_tokens: int | None = None
        self._shed: list[tuple[int, Refused]] = []
        self._statistics = Statistics()

    # What is wanted --------------------------------------------------------------------------------------------

    def configure(self, serving: Serving, max_sequences: int, now: float, *, reserves: bool | None = None) -> None:
        """Take a changed assignment. What waits keeps its times; what runs goes on."""
        if serving.timeout_seconds != self._serving.timeout_seconds:
            entries, self._waiting = list(self._waiting), Waiting(serving.timeout_seconds)
            for entry in entries:
                self._waiting.add(entry)
        self._serving = serving
        self._max_sequences = max_sequences or UNKNOWN_MAX_SEQUENCES
        self._reserves = self._reserves if reserves is None else reserves
        self._set_limits()

    def warm(self, prompt_tokens: int | None, now: float) -> None:
        """Let prompts up to this length go to the engine; longer ones wait. None: all may go."""
        self._warm_tokens = prompt_tokens
        for entry in list(self._waiting):
            lane = self._lane(entry.request.prompt_tokens)
            if (lane is Lane.COLD) != (entry.lane is Lane.COLD):
                self._waiting.remove(entry)
                entry.lane = lane
                self._waiting.add(entry)

    # Requests --------------------------------------------------------------------------------------------------

    def offer(self, request: Request, now: float) -> Accepted | Merged | Refused:
        """Take a request in, or say why not.

        Its id must not be held already, and its arrival not be later than `now`. A full queue takes it in nevertheless
        if it starts at once, or if another one has to give way to it: `expire` tells that one.
        """
        answer = self._offer(request, now)
        statistics = self._of(request.priority.rank)
        if isinstance(answer, Refused):
            statistics.refused[answer.code] += 1
        elif isinstance(answer, Merged):
            statistics.merged += 1
        else:
            statistics.accepted += 1
        return answer

    def _offer(self, request: Request, now: float) -> Accepted | Merged | Refused:
        self._pace.arrived(request.prompt_tokens, now)
        entry = self._entry(request)
        leader = self._merges.find(request, entry.due, entry.deadline, self._serving.merge_window_milliseconds / 1000)
        if leader is not None and self._merges.joined < self._most_joined:
            self._merges.join(request, leader)
            return Merged(leader.id)
        usual = refusals.seconds(self._pace.request_seconds, request.id)
        refusal = self._holdings.refusal(request, self._serving.limits, usual)
        if refusal is None:
            at_once = self._starts_at_once(entry, now)
            refusal = self._refuse_late(entry, now, at_once=at_once) or (None if at_once else self._make_place(entry))
        if refusal is not None:
            return refusal
        self._entries[entry.id] = entry
        self._merges.lead(entry)
        self._holdings.enter(request)
        self._waiting.add(entry)
        self._tell_pace(now)
        return Accepted()

    def take(self, now: float) -> tuple[Dispatch, ...]:
        """Return what has to go to the engine now, in this order."""
        dispatches: list[Dispatch] = []
        while self._waiting:
            released = self._gate(now).released
            sent = 0
            while sent <= released and self._waiting:
                entry = self._waiting.next(self._room, is_open=sent < released, now=now)
                if entry is None:
                    break
                self._dispatch(entry, now)
                sent += entry.rank >= HELD_FROM
                dispatches.append(Dispatch(entry.id, now - entry.request.arrived))
            if sent < released or not released:
                break
        if dispatches:
            self._statistics.batch_sizes.observe(len(dispatches))
            self._tell_pace(now)
        return tuple(dispatches)

    def expire(self, now: float) -> tuple[tuple[int, Refused], ...]:
        """Return the waiting requests that ended without a start: too late, or shed for another."""
        ended, self._shed = self._shed, []
        while (first := self._waiting.first_deadline()) is not None and first[0] <= now:
            entry = self._entries[first[1]]
            wait = self._pace.wait_seconds(self._waiting.work())
            refusal = refusals.deadline_passed(now - entry.request.arrived, refusals.seconds(wait, entry.id))
            ended += self._turn_out(entry, refusal)
        if ended:
            self._tell_pace(now)
        return tuple(ended)

    def first_token(self, key: int, now: float) -> None:
        """Hear that the engine began to answer a request it was sent."""
        entry = self._entries.get(key)
        if entry is None or entry.dispatched is None or entry.began:
            return
        entry.began = True
        self._room.has_read(entry)
        self._pace.began(entry.request.prompt_tokens, now - entry.dispatched)
        self._pace.did(cost(entry.request.prompt_tokens, 0), now)

    def progress(self, key: int, tokens: int, now: float) -> None:
        """Hear how many tokens a request has generated so far, all its sequences together."""
        entry = self._entries.get(key)
        if entry is not None and entry.dispatched is not None and tokens > entry.tokens:
            self._pace.did(cost(0, tokens - entry.tokens), now)
            entry.tokens = tokens

    def finish(self, key: int, tokens: int, now: float) -> None:
        """Hear that the engine is done with a request, for better or worse; those merged into it end with it.

        `tokens` is what it generated, all its sequences together; 0 if that is not known, or it failed.
        """
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.dispatched is not None and tokens:
            if not entry.began:
                self._pace.did(cost(entry.request.prompt_tokens, 0), now)
            self.progress(key, tokens, now)
            sequences = max(entry.request.sequences, 1)
            self._pace.ended(tokens / sequences, entry.request.answer_tokens, now - entry.dispatched)
        self._of(entry.rank).finished += 1
        self._end(entry, now)

    def cancel(self, key: int, now: float) -> bool:
        """Let one sender go. True: nobody is left to hear the answer, so a generation that runs has to be stopped.

        A generation keeps the id of its leader even if others alone are left of it.
        """
        entry = self._merges.leave(key)
        if entry is None or entry.members:
            return False
        self._of(entry.rank).cancelled += 1
        self._end(entry, now)
        return True

    def next_time(self, now: float) -> float | None:
        """When time alone changes something: ask `expire` and `take` then. None: never."""
        if self._shed:
            return now
        times: list[float | None] = [self._gate(now).opens]
        if (first := self._waiting.first_deadline()) is not None:
            times.append(first[0])
        if self._waiting.has_long:
            times.append(self._room.reading_until(now))
        return min((each for each in times if each is not None), default=None)

    @property
    def running_sequences(self) -> int:
        """Sequences at the engine now."""
        return sum(self._room.running)

    @property
    def window(self) -> int:
        """How many sequences go to the engine at once now, the highest class's room included."""
        return self._room.limits[0]

    def statistics(self) -> Statistics:
        """Return what became of the requests so far; the queue goes on counting in it."""
        for rank, priority in enumerate(Priority):
            self._statistics.classes[priority].running = self._room.running[rank]
            self._statistics.classes[priority].waiting = self._waiting.count(rank)
        self._statistics.merged = self._merges.joined
        self._statistics.window = self._room.limits[-1]
        self._statistics.work_per_second = self._pace.work_per_second
        return self._statistics

    # Parts -----------------------------------------------------------------------------------------------------

    def _entry(self, request: Request) -> Entry:
        rank, timeout = request.priority.rank, self._serving.timeout_seconds
        due, deadline = request.arrived + timeout * DUE_SHARES[rank], request.arrived + timeout
        if request.deadline is not None:
            # What was measured in a bad moment must not keep everything from an idle engine: it would never be measured
            # anew.
            lead = self._pace.first_token_seconds if any(self._room.running) else 0.0
            deadline = min(deadline, request.deadline - lead)
            # A short deadline lifts a request inside its class, never past the next higher one.
            due = max(min(due, deadline), request.arrived + timeout * (DUE_SHARES[rank - 1] if rank else 0))
        answer = self._pace.answer_tokens(request.answer_tokens)
        return Entry(
            request=request,
            rank=rank,
            lane=self._lane(request.prompt_tokens),
            due=due,
            deadline=deadline,
            cost=cost(request.prompt_tokens, request.sequences * answer),
            members={request.id},
        )

    def _lane(self, prompt_tokens: int) -> Lane:
        if self._warm_tokens is not None and prompt_tokens > self._warm_tokens:
            return Lane.COLD
        if prompt_tokens > max(LONG_PROMPT_TOKENS, LONG_PROMPT_FACTOR * self._pace.usual_prompt_tokens):
            return Lane.LONG
        return Lane.SHORT

    @property
    def _most_joined(self) -> int:
        return max(self._serving.max_requests, self._max_sequences)

    def _starts_at_once(self, entry: Entry, now: float) -> bool:
        if entry.lane is not Lane.SHORT or not self._waiting.is_empty_down_to(entry.rank):
            return False
        is_held = entry.rank >= HELD_FROM and not self._gate(now).released
        return not is_held and self._room.fits(entry.rank, self._room.sequences(entry))

    def _refuse_late(self, entry: Entry, now: float, *, at_once: bool) -> Refused | None:
        """Refuse a request that comes too late, or which what waits before it would make too late."""
        wait = spare = 0.0
        if not at_once:
            ahead = self._waiting.work_ahead(entry.rank, entry.request.tenant, entry.due)
            wait = self._pace.wait_seconds(ahead + entry.cost)
            # An engine that stood still lately may do so again; but that alone shall keep nobody out who is in a hurry.
            spare = min(self._pace.silence_seconds(now), (entry.deadline - now) / 2) if wait else 0.0
        late = now + PRUDENCE * wait + spare - entry.deadline
        if late < 0:
            return None
        return refusals.deadline_unmet(wait, entry.deadline - now, refusals.seconds(late / PRUDENCE, entry.id))

    def _make_place(self, entry: Entry) -> Refused | None:
        """Refuse a request if the queue is full and nobody gives way to it."""
        most = self._serving.max_requests
        if len(self._waiting) < most:
            return None
        wait = self._pace.wait_seconds(self._waiting.work() / 2)
        loser = self._waiting.giving_way(entry.rank, entry.request.tenant, most // SURE_SHARE)
        if loser is None:
            return refusals.queue_full(len(self._waiting), refusals.seconds(wait, entry.id))
        self._shed += self._turn_out(loser, refusals.shed(refusals.seconds(wait, loser.id)))
        return None

    def _turn_out(self, entry: Entry, refusal: Refused) -> list[tuple[int, Refused]]:
        """End a generation that waits; return whom to tell."""
        members = sorted(entry.members)
        self._of(entry.rank).refused[refusal.code] += len(members)
        self._forget(entry)
        return [(member, refusal) for member in members]

    def _dispatch(self, entry: Entry, now: float) -> None:
        self._waiting.start(entry)
        entry.dispatched = now
        self._room.enter(entry, now + self._pace.reading_seconds(entry.request.prompt_tokens))
        statistics = self._of(entry.rank)
        statistics.dispatched += 1
        statistics.wait_seconds.observe(now - entry.request.arrived)

    def _end(self, entry: Entry, now: float) -> None:
        if entry.dispatched is not None:
            self._room.leave(entry)
            took = cost(entry.request.prompt_tokens, entry.tokens)
            self._waiting.correct(entry, took - entry.cost)
        self._forget(entry)
        self._set_limits()
        self._tell_pace(now)

    def _forget(self, entry: Entry) -> None:
        if entry.dispatched is None:
            self._waiting.remove(entry)
        del self._entries[entry.id]
        self._merges.end(entry)
        self._holdings.leave(entry.request)

    def _gate(self, now: float) -> Gate:
        if self._serving.batching.policy is BatchingPolicy.CONTINUOUS:
            return OPEN  # every request asks several times
        waiting, first_arrived = self._waiting.crowd
        crowd = Crowd(
            waiting=waiting,
            first_arrived=first_arrived,
            running=sum(self._room.running[HELD_FROM:]),
            room=self._room.limits[HELD_FROM],
            arrivals_per_second=self._pace.arrivals_per_second(now),
        )
        found = gate(self._serving.batching, crowd, now)
        return found if found.opens is None or found.opens > now else replace(found, opens=None)

    def _set_limits(self) -> None:
        window = self._pace.window(self._max_sequences)
        self._room.limits = ceilings(self._max_sequences, window, reserves=self._reserves)

    def _tell_pace(self, now: float) -> None:
        self._pace.runs(sum(self._room.running), is_waiting=bool(self._waiting), now=now)

    def _of(self, rank: int) -> ClassStatistics:
        return self._statistics.classes[_PRIORITIES[rank]]


_PRIORITIES = tuple(Priority)
