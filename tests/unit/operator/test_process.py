"""How the parts of the operator's process are wired."""

from support.scripted import client_of, scripted
from warmfleet_operator import keys
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.process import Operator
from warmfleet_operator.settings import Settings


async def test_a_round_of_the_fleet_goes_before_the_statuses_that_were_due_sooner() -> None:
    async with scripted() as script, client_of(script) as client:
        queue = Operator(client, Settings(namespace="n"), Metrics())._queue
        first, second = keys.model(ModelKey("n", "a")), keys.model(ModelKey("n", "b"))
        for key in (first, second, keys.FLEET):
            queue.add(key)
        assert [taken[0] for _ in range(3) if (taken := queue.take())] == [keys.FLEET, first, second]
