"""Times as Kubernetes writes them: RFC 3339 in UTC with seconds."""

from datetime import UTC, datetime


def parse_time(text: str | None) -> datetime | None:
    """Return an aware time, or None for no text."""
    return datetime.fromisoformat(text) if text else None


def format_time(moment: datetime) -> str:
    """Return `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(text: str | None, now: datetime) -> float | None:
    """Return the seconds from that time to `now`, not below 0; None for no text."""
    moment = parse_time(text)
    return None if moment is None else max(0.0, (now - moment).total_seconds())
