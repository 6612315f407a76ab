"""Times at which a model is to be awake before anybody asks: cron lines, each with a duration. Pure, `now` passed in.

Changes of clocks are cron's: a time that does not exist that day comes an hour later, one that comes twice counts once.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from warmfleet_api.autoscaling import PrewarmSchedule
from warmfleet_operator.decide.scaling import NO_TIMETABLE, Timetable
from warmfleet_operator.decide.times import format_time


def timetable(schedule: Sequence[PrewarmSchedule], now: datetime) -> Timetable:
    """Return what the schedule asks for now."""
    if not schedule:
        return NO_TIMETABLE
    replicas, reason, problem = 0, "", ""
    for entry in schedule:
        last = _last_time(entry.cron, entry.time_zone, now.astimezone(UTC).replace(second=0, microsecond=0))
        if isinstance(last, str):
            problem = problem or last
            continue
        until = last + timedelta(seconds=entry.duration_seconds) if last is not None else None
        if until is None or now >= until:
            continue
        if entry.replicas > replicas:
            replicas = entry.replicas
            reason = f"schedule {entry.cron} in {entry.time_zone}, until {format_time(until)}"
    return Timetable(replicas, reason, problem)


@lru_cache(maxsize=4096)
def _last_time(cron: str, time_zone: str, minute: datetime) -> datetime | str | None:
    """Return when an entry last began as seen in a minute, None if it never did, or what is wrong with it."""
    try:
        # A time that is this very minute has come.
        local = minute.astimezone(ZoneInfo(time_zone)) + timedelta(seconds=1)
        last = next(CronSim(cron, local, reverse=True), None)
    except CronSimError as error:
        return f'schedule "{cron}": {str(error).lower()}; it has minute, hour, day of month, month and day of week'
    except (LookupError, ValueError):
        return f'schedule "{cron}": there is no time zone {time_zone}; write one such as Europe/Vienna or Etc/UTC'
    return last.astimezone(UTC) if last is not None else None
