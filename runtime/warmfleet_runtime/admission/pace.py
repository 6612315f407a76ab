"""Pace: what the engine was measured to do, and what follows from it for waits and for how much it should run at once.

Work is in `fairness.cost` units. Waits follow from Little's law: work ahead divided by work done per second.
"""

import math
from dataclasses import dataclass

EPOCH_SECONDS = 0.5
"""A measurement lasts at least so long, and until each running sequence was heard of twice."""
_LONGEST_EPOCH_SECONDS = 60.0
_ENOUGH_EPOCHS = 3
FRESH_SECONDS = 60.0
"""Rates measured longer ago say nothing about now."""
GAIN = 1.02
"""Running twice as many has to do so much more work per second to be worth the slower tokens."""
_LEAST_WINDOW_SHARE = 8
USUAL_ANSWER_TOKENS = 256
"""Taken for the length of an answer before one was seen."""
_ARRIVALS_SECONDS = 1.0
_SILENCE_HALVES_SECONDS = 10.0
"""A silence of the engine counts half after so long."""


@dataclass(slots=True)
class _Rate:
    work_per_second: float
    measured: float
    scatter: float = 0.0
    """How far measurements lie from it, on average."""
    epochs: int = 1


@dataclass(slots=True)
class _Epoch:
    """From one measurement to the next."""

    started: float
    least: int
    most: int
    saturated: bool
    sequence_seconds: float = 0.0
    work: float = 0.0
    news: int = 0


class Pace:
    """Measures work per second by how much runs at once, times of requests, and lengths of answers."""

    def __init__(self, now: float = 0.0) -> None:
        self.work_per_second: float | None = None
        """What the engine does while requests wait for it; None: not measured."""
        self.first_token_seconds = 0.0
        """From being sent to the engine to the first token."""
        self.request_seconds = 0.0
        """From being sent to the engine to its end."""
        self._prompt_tokens_per_second: float | None = None
        self._answer_tokens: float | None = None
        self._log_prompt_tokens: float | None = None
        self._arrivals_per_second = 0.0
        self._arrived = now
        self._rates: dict[int, _Rate] = {}
        self._knee: int | None = None
        self._running = 0
        self._changed = now
        self._heard = now
        self._silence = 0.0
        self._silence_ended = now
        self._epoch = _Epoch(now, 0, 0, saturated=False)

    # What is heard ---------------------------------------------------------------------------------------------

    def arrived(self, prompt_tokens: int, now: float) -> None:
        """A request has come."""
        rate = self._arrivals_per_second * math.exp(-max(0.0, now - self._arrived) / _ARRIVALS_SECONDS)
        self._arrivals_per_second, self._arrived = rate + 1 / _ARRIVALS_SECONDS, now
        log = math.log(max(prompt_tokens, 1))
        self._log_prompt_tokens = _smooth(self._log_prompt_tokens, log, 1 / 32)

    def runs(self, sequences: int, *, is_waiting: bool, now: float) -> None:
        """So many sequences run from now on, and whether more wait."""
        epoch = self._epoch
        epoch.sequence_seconds += self._running * (now - self._changed)
        if not self._running:
            self._heard = now
        self._running, self._changed = sequences, now
        if is_waiting and not epoch.saturated:
            self._epoch = _Epoch(now, sequences, sequences, saturated=True)
            return
        epoch.saturated = epoch.saturated and is_waiting
        epoch.least, epoch.most = min(epoch.least, sequences), max(epoch.most, sequences)

    def did(self, work: float, now: float) -> None:
        """The engine has done work."""
        self._silence, self._silence_ended = self.silence_seconds(now), now
        self._heard = now
        epoch = self._epoch
        epoch.work += work
        epoch.news += 1
        elapsed = now - epoch.started
        is_enough = epoch.news >= 2 * max(epoch.most, 1) or elapsed >= _LONGEST_EPOCH_SECONDS
        if elapsed >= EPOCH_SECONDS and is_enough:
            epoch.sequence_seconds += self._running * (now - self._changed)
            self._changed = now
            self._measure(epoch, elapsed, now)
            self._epoch = _Epoch(now, self._running, self._running, epoch.saturated)

    def began(self, prompt_tokens: int, seconds: float) -> None:
        """A first token came so long after its request was sent to the engine."""
        self.first_token_seconds = _smooth(self.first_token_seconds or None, seconds, 1 / 8)
        if seconds > 0:
            self._prompt_tokens_per_second = _smooth(self._prompt_tokens_per_second, prompt_tokens / seconds, 1 / 8)

    def ended(self, answer_tokens: float, asked_tokens: int, seconds: float) -> None:
        """A sequence ended after so many tokens of those asked for."""
        self.request_seconds = _smooth(self.request_seconds or None, seconds, 1 / 8)
        usual = self._answer_tokens
        # One that was cut off at its limit says only that answers are at least so long.
        if answer_tokens < asked_tokens or usual is None or answer_tokens > usual:
            self._answer_tokens = _smooth(usual, answer_tokens, 1 / 8)

    # What follows ----------------------------------------------------------------------------------------------

    def answer_tokens(self, asked_tokens: int) -> float:
        """Return how long an answer will be, of at most so many tokens."""
        return min(asked_tokens, USUAL_ANSWER_TOKENS if self._answer_tokens is None else self._answer_tokens)

    @property
    def usual_prompt_tokens(self) -> float:
        """Geometric mean: a tenth of very long prompts hardly moves it."""
        return math.exp(self._log_prompt_tokens or 0.0)

    def arrivals_per_second(self, now: float) -> float:
        """Return how many requests come, over about the last second."""
        return self._arrivals_per_second * math.exp(-max(0.0, now - self._arrived) / _ARRIVALS_SECONDS)

    def wait_seconds(self, work_ahead: float) -> float:
        """Return how long so much work takes; 0 as long as nothing was measured."""
        return work_ahead / self.work_per_second if self.work_per_second else 0.0

    def silence_seconds(self, now: float) -> float:
        """Return for how long the engine has lately given nothing while it had work, and may do so again.

        That is the longest such time, which counts less and less, or the one that goes on now.
        """
        halves = max(0.0, now - self._silence_ended) / _SILENCE_HALVES_SECONDS
        remembered = self._silence * math.pow(0.5, halves)
        return max(remembered, now - self._heard if self._running else 0.0)

    def reading_seconds(self, prompt_tokens: int) -> float:
        """Return how long the engine will surely have read a prompt, inf if it can't be said."""
        rate = self._prompt_tokens_per_second
        return 2 * prompt_tokens / rate if rate else math.inf

    def window(self, max_sequences: int) -> int:
        """Return how many sequences to run at once: all, or fewer where more would only make each token slower."""
        if self._knee is None:
            return max_sequences
        return min(max_sequences, max(self._knee, max_sequences // _LEAST_WINDOW_SHARE))

    def _measure(self, epoch: _Epoch, elapsed: float, now: float) -> None:
        rate = epoch.work / elapsed
        # More than was known, though nobody waits: the former measurement fell into a bad moment.
        if epoch.saturated or (self.work_per_second is not None and rate > self.work_per_second):
            self.work_per_second = _smooth(self.work_per_second, rate, 1 / 2)
        if epoch.least >= 1 and epoch.most <= 1.5 * epoch.least + 1:
            level = round(math.log2(epoch.sequence_seconds / elapsed))
            known = self._rates.get(level)
            if known is None or now - known.measured > FRESH_SECONDS:
                self._rates[level] = _Rate(rate, now)
            else:
                # As TCP tells a time from its scatter (RFC 6298).
                known.scatter = _smooth(known.scatter, abs(rate - known.work_per_second), 1 / 4)
                known.work_per_second = _smooth(known.work_per_second, rate, 1 / 4)
                known.epochs += 1
                known.measured = now
            self._knee = self._find_knee(now)

    def _find_knee(self, now: float) -> int | None:
        """Return half above the lowest level that surely does as much as the best one; None if there is no such level.

        Surely: in spite of their scatter. On shared cores a level may look better than twice as many by chance, and a
        window that closes for that costs more than one that stays open.
        """
        fresh = {
            level: rate
            for level, rate in self._rates.items()
            if rate.epochs >= _ENOUGH_EPOCHS and now - rate.measured <= FRESH_SECONDS
        }
        enough = max((rate.work_per_second + rate.scatter for rate in fresh.values()), default=math.inf) / GAIN
        sure = [level for level, rate in fresh.items() if rate.work_per_second - rate.scatter >= enough]
        # Half above, so that the level above stays measured and can prove better again.
        return math.ceil(1.5 * 2 ** min(sure)) if sure and min(sure) + 1 in fresh else None


def _smooth(known: float | None, value: float, share: float) -> float:
    return value if known is None else known + share * (value - known)
