"""The admission queue in front of one engine, as a pure function of requests and time.

    queue.offer(request, now) → queue.take(now) → the engine → queue.finish(id, tokens, now)

It decides who goes next, who shares a generation and who is refused; the front carries that out. `now` and all other
times are monotonic seconds.
"""

from warmfleet_runtime.admission.queue import Queue
from warmfleet_runtime.admission.requests import Accepted, Dispatch, Merged, Refused, Request
from warmfleet_runtime.admission.statistics import Histogram, Statistics

__all__ = ["Accepted", "Dispatch", "Histogram", "Merged", "Queue", "Refused", "Request", "Statistics"]
