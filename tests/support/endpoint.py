"""A model's API as its clients reach it: through the Service of the cluster."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import openai
from prometheus_client.parser import text_string_to_metric_families

from support.kubeapi import Object
from support.namespace import Namespace
from support.waiting import wait_for
from warmfleet_api import names

REQUEST_SECONDS = 240
SHORT_REQUEST_SECONDS = 10
"""Longest wait of `traffic` for an answer: a runner that died with a request open never says so."""
PAUSE_SECONDS = 0.1
_open = build_opener(ProxyHandler({})).open


def base_url(namespace: Namespace, model: str) -> str:
    """Return the URL below which the Service of `model` has its API; this machine routes ClusterIPs."""
    service = namespace.api.get(f"{namespace.core_path}/services/{model}")
    assert service is not None, f"no Service {model}"
    return f"http://{service['spec']['clusterIP']}:{names.SERVICE_PORT}/v1"


def client(namespace: Namespace, model: str) -> openai.OpenAI:
    """Return an OpenAI client of the Service that never retries."""
    return openai.OpenAI(base_url=base_url(namespace, model), api_key="none", timeout=REQUEST_SECONDS, max_retries=0)


def metric(runner: Object, name: str, **labels: str) -> float:
    """Return the sum of a runner's samples of that name which have these labels."""
    url = f"http://{runner['status']['podIP']}:{names.STATUS_PORT}{names.PATH_METRICS}"
    with _open(url, timeout=REQUEST_SECONDS) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@dataclass(slots=True)
class Traffic:
    """What became of the requests of a client that never stops asking."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(namespace: Namespace, model: str) -> Iterator[Traffic]:
    """Ask `model` one short question after the other, each on its own connection, while the context is open.

    Before the first answer a refused connection is no failure: a node learns of a Service's new endpoints a moment
    after everybody else. Every other failure counts from the start.
    """
    seen = Traffic()
    stop = threading.Event()
    url = f"{base_url(namespace, model)}/chat/completions"
    question = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}

    def ask() -> None:
        body = json.dumps(question).encode()
        while not stop.is_set():
            request = Request(url, body, {"Content-Type": "application/json", "Connection": "close"})
            try:
                with _open(request, timeout=SHORT_REQUEST_SECONDS) as answer:
                    answer.read()
                seen.answered += 1
            except HTTPError as error:
                seen.failures.append(f"{time.strftime('%X')} {error.code} {error.read().decode(errors='replace')}")
            except (URLError, OSError) as error:
                cause = error.reason if isinstance(error, URLError) else error
                if seen.answered or not isinstance(cause, ConnectionRefusedError):
                    seen.failures.append(f"{time.strftime('%X')} {error}")
            stop.wait(PAUSE_SECONDS)

    thread = threading.Thread(target=ask, name=f"traffic to {model}")
    thread.start()
    try:
        wait_for("a first answer", lambda: seen.answered, SHORT_REQUEST_SECONDS, lambda: "\n".join(seen.failures))
        yield seen
    finally:
        stop.set()
        thread.join()
