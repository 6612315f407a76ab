"""Planning of one node's tiers: what to ask for, fetch, promote, evict and show, in which order and why. Pure.

The agent carries the steps out and plans anew at each change. The same
state and time give the same plan.
"""

from warmfleet_agent.plan.planning import plan
from warmfleet_agent.plan.state import (
    Held,
    Known,
    NodeState,
    Problem,
    TierState,
    Transfer,
    Use,
    Wanted,
    room_bytes,
)
from warmfleet_agent.plan.steps import (
    Ask,
    Demote,
    Discard,
    Evict,
    Fetch,
    Link,
    Plan,
    Promote,
    Step,
    Stop,
    Unlink,
    Wait,
)
from warmfleet_agent.plan.value import used

__all__ = [
    "Ask",
    "Demote",
    "Discard",
    "Evict",
    "Fetch",
    "Held",
    "Known",
    "Link",
    "NodeState",
    "Plan",
    "Problem",
    "Promote",
    "Step",
    "Stop",
    "TierState",
    "Transfer",
    "Unlink",
    "Use",
    "Wait",
    "Wanted",
    "plan",
    "room_bytes",
    "used",
]
