"""Calls of the operator's API as the account that the command line uses, with a token of the real API server."""

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from support.cluster import Cluster
from support.operator import OperatorProcess
from warmfleet_api import names

ACCOUNT = "warmfleet-cli"
CALL_SECONDS = 15
NOBODY_LEADS = 503
_open = build_opener(ProxyHandler({})).open


class OperatorCalls:
    """Calls one operator; the token is for ten minutes."""

    def __init__(self, cluster: Cluster, operator: OperatorProcess) -> None:
        self._operator = operator
        made = cluster.kubectl(
            "-n", "warmfleet-system", "create", "token", ACCOUNT, f"--audience={names.TOKEN_AUDIENCE}"
        )
        self.token = made.strip()

    def wake(self, namespace: str, model: str) -> tuple[int, Any]:
        """Ask for a model to be awake, again while nobody leads; return the HTTP status and the answer."""
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            code, answer = self.call("POST", names.PATH_WAKE, {"namespace": namespace, "model": model})
            if code != NOBODY_LEADS or time.monotonic() > deadline:
                return code, answer
            time.sleep(0.5)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return the HTTP status and the answer of any call."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        request = Request(self._operator.api_url(path), data=data, method=method, headers=headers)
        try:
            with _open(request, timeout=CALL_SECONDS) as answer:
                return int(answer.status), json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)
