"""The operator's metrics are documented, each with its type and labels."""

import re
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.registry import Collector

from warmfleet_operator.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "operator-metrics.md"


def labels_of(collector: Collector) -> set[str]:
    return set(getattr(collector, "_labelnames", ()))


def name_of(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_the_page_lists_each_metric_with_its_type_and_labels() -> None:
    registry = Metrics().registry
    shown = {
        name_of(family): (family.type, labels_of(collector))
        for collector in registry._collector_to_names
        for family in collector.collect()
        if not family.name.startswith("process_")
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", PAGE.read_text(), re.MULTILINE)
    told = {name: (kind, {each for each in labels.replace(" ", "").split(",") if each}) for name, kind, labels in rows}
    assert shown == told
