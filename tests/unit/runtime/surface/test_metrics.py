"""Metrics: what a scrape shows, that it is documented, and that it stays bounded."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from support.runner_process import simulated
from warmfleet_api.runner_status import EngineError, EngineStatus, RunnerStatus, StageTime, StartRecord, ZygoteStatus
from warmfleet_api.vocabulary import EngineState, Launch, Priority, Reason, Stage, StartType, ZygoteState
from warmfleet_runtime.admission import Request
from warmfleet_runtime.front.admission import Admission
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.collectors import EngineCollector, QueueCollector, StartMetrics
from warmfleet_runtime.front.exposition import merged
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.link import Route, Table

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "metrics.md"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Scraped:
    """Everything a front registers, with one model's engine behind it."""

    def __init__(self, *models: str) -> None:
        self.registry = CollectorRegistry()
        self.board = Board()
        self.admission = Admission(self.board)
        self.requests = RequestMetrics(self.registry)
        self.starts = StartMetrics(self.registry, NOW)
        self.registry.register(EngineCollector(self.board))
        self.registry.register(QueueCollector(self.admission))
        routes, engines = {}, []
        for index, model in enumerate(models):
            key = f"{model}-{index}"
            routes[key] = Route(
                attempt=1,
                socket="",
                engine=simulated(key, model=model),
                accepts=True,
                warms_up=False,
                drains=False,
                max_sequences=4,
            )
            engines.append(
                EngineStatus(
                    id=key,
                    model=model,
                    model_uid="u",
                    hash="h",
                    state=EngineState.READY,
                    stages=(StageTime(name=Stage.WARMED_UP, milliseconds=20),),
                    memory_bytes=3,
                    awake_memory_bytes=3,
                    asleep_memory_bytes=1,
                    first_request_milliseconds=7,
                )
            )
        zygote = ZygoteStatus(state=ZygoteState.READY, import_milliseconds=9000)
        status = RunnerStatus(pod_uid="", engines=tuple(engines), zygote=zygote)
        self.board.update(Table(status=status, routes=routes))
        self.admission.follow(reserves=False)

    def samples(self) -> list[Sample]:
        text = generate_latest(self.registry).decode()
        return [each for family in text_string_to_metric_families(text) for each in family.samples]

    def value(self, name: str, **labels: str) -> float:
        return sum(each.value for each in self.samples() if each.name == name and labels.items() <= each.labels.items())


def start(sequence: int, model: str = "m", ended: datetime = NOW, error: EngineError | None = None) -> StartRecord:
    return StartRecord(
        sequence=sequence,
        engine="e",
        model=model,
        model_uid="u",
        start_type=StartType.WARM,
        launch=Launch.FORK,
        error=error,
        milliseconds=1500,
        compile_cache_files=3,
        stages=(StageTime(name=Stage.WEIGHTS_LOADED, milliseconds=300),),
        ended_time=ended.isoformat().replace("+00:00", "Z"),
    )


class Generated:
    tokens = 11
    first_token_at: float | None = 0.0


def use(scraped: Scraped, model: str = "m") -> None:
    """Make every series appear."""
    scraped.requests.refused("invalid_json")
    with scraped.requests.request(model) as measured:
        measured.code, measured.first_token_seconds = "200", 0.1
    with scraped.requests.generation(model, Generated(), prompt_tokens=7, running=2):
        pass
    scraped.starts.follow((start(1, model),), {model})
    queue = next(iter(scraped.admission.queues.values())).queue
    for key in range(300):
        queue.offer(
            Request(id=key, tenant="t", priority=Priority.LOW, arrived=0.0, prompt_tokens=1, answer_tokens=1), 0.0
        )


async def test_every_metric_is_in_the_page_and_the_page_has_no_other() -> None:
    scraped = Scraped("m")
    use(scraped)
    text = generate_latest(scraped.registry).decode()
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            {name for sample in family.samples for name in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")  # which a front switches off
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", PAGE.read_text(), re.MULTILINE)
    told = {name: (kind, {each for each in labels.replace(" ", "").split(",") if each}) for name, kind, labels in rows}
    assert shown == told


async def test_requests_tokens_and_batches_are_counted() -> None:
    scraped = Scraped("m")
    use(scraped)
    assert scraped.value("warmfleet_requests_total", model="m", code="200") == 1
    assert scraped.value("warmfleet_refused_requests_total", code="invalid_json") == 1
    assert scraped.value("warmfleet_prompt_tokens_total", model="m") == 7
    assert scraped.value("warmfleet_generated_tokens_total", model="m") == 11
    assert scraped.value("warmfleet_batch_sequences_sum", model="m") == 2
    assert scraped.value("warmfleet_time_per_token_seconds_count", model="m") == 1


async def test_a_generation_that_never_began_counts_no_tokens() -> None:
    scraped = Scraped("m")
    never = Generated()
    never.first_token_at = None
    with scraped.requests.generation("m", never, prompt_tokens=7, running=1):
        pass
    assert scraped.value("warmfleet_prompt_tokens_total") == scraped.value("warmfleet_generated_tokens_total") == 0


async def test_a_model_that_is_assigned_no_more_leaves_no_series() -> None:
    scraped = Scraped("m")
    use(scraped)
    assert scraped.value("warmfleet_requests_total", model="m") == 1, "the control"
    scraped.board.update(Table(status=RunnerStatus(pod_uid="")))
    scraped.admission.follow(reserves=False)
    scraped.requests.keep_only(set())
    scraped.starts.follow((start(1),), set())
    assert [each for each in scraped.samples() if each.labels.get("model") == "m"] == []


async def test_a_start_is_counted_once_however_often_it_is_told() -> None:
    scraped = Scraped("m")
    failed = EngineError(reason=Reason.ENGINE_CRASHING, message="")
    for _ in range(3):
        scraped.starts.follow((start(1), start(2, error=failed)), {"m"})
    scraped.starts.follow((start(2, error=failed), start(3)), {"m"})
    assert scraped.value("warmfleet_starts_total", result="Succeeded", type="Warm", launch="Fork") == 2
    assert scraped.value("warmfleet_starts_total", result="EngineCrashing") == 1
    assert scraped.value("warmfleet_start_seconds_count") == 2
    assert scraped.value("warmfleet_start_stage_seconds_sum", stage="WeightsLoaded") == pytest.approx(0.6)


async def test_a_restarted_front_counts_only_starts_that_ended_since() -> None:
    scraped = Scraped("m")
    scraped.starts.follow((start(1, ended=NOW - timedelta(seconds=1)), start(2, ended=NOW)), {"m"})
    assert scraped.value("warmfleet_starts_total") == 1


async def test_two_engines_of_one_model_are_one_queue_to_a_scrape() -> None:
    scraped = Scraped("m", "m")
    for queue in scraped.admission.queues.values():
        request = Request(id=1, tenant="t", priority=Priority.HIGH, arrived=0.0, prompt_tokens=1, answer_tokens=1)
        queue.queue.offer(request, 0.0)
    keys = [(each.name, *sorted(each.labels.items())) for each in scraped.samples()]
    assert len(keys) == len(set(keys)), "a scrape with the same series twice is refused"
    assert scraped.value("warmfleet_queue_accepted_total", **{"class": "High"}) == 2


def test_engines_metrics_keep_their_names_and_are_told_apart_by_model() -> None:
    text = (
        "# HELP python_info Python.\n# TYPE python_info gauge\npython_info 1.0\n"
        "# HELP vllm:running Now.\n# TYPE vllm:running gauge\n"
        'vllm:running{engine="0",model_name="odd}name"} 2.0\n'
        "# HELP vllm:plain Plain.\n# TYPE vllm:plain counter\nvllm:plain_total 5.0\n"
    ).replace("vllm:plain Plain.\n# TYPE vllm:plain", "vllm:plain_total Plain.\n# TYPE vllm:plain_total")
    shown = merged([('model="a"', text), ('model="b"', text)])
    families = list(text_string_to_metric_families(shown))
    assert {family.name: [(each.labels["model"], each.value) for each in family.samples] for family in families} == {
        "vllm:running": [("a", 2.0), ("b", 2.0)],
        "vllm:plain": [("a", 5.0), ("b", 5.0)],
    }
    assert families[0].samples[0].labels == {"engine": "0", "model_name": "odd}name", "model": "a"}


async def test_the_status_and_not_a_metric_carries_words() -> None:
    """Labels are names and fixed words: a message as a label would be a series for each failure."""
    scraped = Scraped("m")
    broken = msgspec.structs.replace(
        scraped.board.table.status.engines[0],
        error=EngineError(reason=Reason.ENGINE_CRASHING, message="0x7f31 is not mapped"),
    )
    table = scraped.board.table
    scraped.board.update(
        msgspec.structs.replace(table, status=msgspec.structs.replace(table.status, engines=(broken,)))
    )
    assert "0x7f31" not in generate_latest(scraped.registry).decode()
