"""What is imported only where a setting asks for it."""

import os
from typing import TYPE_CHECKING

from warmfleet_kube.errors import BadSetting
from warmfleet_router.cache.disk_tier import DiskTier
from warmfleet_router.cache.guard import Tier
from warmfleet_router.settings import MEBIBYTE, Settings

if TYPE_CHECKING:
    from warmfleet_router.tracing import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def start_tracing() -> "Tracing | None":
    """Return what makes spans, if OpenTelemetry's own variables name a collector.

    Raises:
        BadSetting: they ask for what is not there.
    """
    is_off = (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if is_off or not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    from warmfleet_router.tracing import Tracing  # noqa: PLC0415 - 20 MB that only who wants it pays

    return Tracing()


def tiers_of(settings: Settings) -> list[Tier]:
    """Return where answers are kept outside of this process, the nearest first.

    Raises:
        BadSetting: the Redis is none.
    """
    tiers: list[Tier] = []
    if settings.cache_redis_url:
        from warmfleet_router.cache.redis_tier import RedisTier  # noqa: PLC0415 - as above

        try:
            tiers.append(RedisTier(settings.cache_redis_url))
        except ValueError as error:
            raise BadSetting(f"WARMFLEET_CACHE_REDIS_URL: {error}; write redis://HOST:6379/0") from error
    if settings.cache_path is not None:
        tiers.append(DiskTier(settings.cache_path, settings.cache_disk_mebibytes * MEBIBYTE))
    return tiers
