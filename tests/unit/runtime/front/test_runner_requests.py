"""Requests through a whole runner: a sleeper that a request wakes, and a class proven by a token of its assignment."""

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.runner_process import QUICK, running_runner, simulated, state_of
from support.tokens import public_key, signed_token
from warmfleet_api import assignment, names
from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy

pytestmark = pytest.mark.timeout(60)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


async def test_a_trusted_request_wakes_a_sleeper_and_is_counted_in_its_class(tmp_path: Path) -> None:
    engine = simulated("m", QUICK, state=DesiredState.ASLEEP, wake=WakePolicy.ON_REQUEST, idle_seconds=1)
    wanted = Assignment(version=assignment.VERSION, revision=1, engines=(engine,), trusted_keys=(public_key(KEY),))
    headers = {
        names.HEADER_TOKEN: signed_token(KEY, "pod-uid", time.time() + 60),
        names.HEADER_CLASS: "Critical",
        names.HEADER_TENANT: "team",
    }
    async with running_runner(tmp_path) as runner:
        runner.write_assignment(assignment.encode(wanted))
        for times in (1, 2):
            await runner.wait(lambda status: state_of(status, "m") is EngineState.ASLEEP)
            assert await runner.probe(names.PATH_READY) == 200, "it answers requests"
            body = {"model": "m", "prompt": "hi", "max_tokens": 2}
            async with runner.http.post(runner.api + "/v1/completions", json=body, headers=headers) as response:
                assert response.status == 200
            counted = 'warmfleet_queue_finished_total{class="Critical",model="m"}'
            assert await runner.metric(counted) == times
