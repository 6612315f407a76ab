"""Which engine a request goes to: filter → weighted scorers → picker. Pure, and the same in every router.

    filters.py    which endpoints may take it at all
    scorers.py    how good each of them is, from 0 to 1
    policies.py   which scorers with which weight, by the model's `serving.routing.policy`

Routers share no state and yet agree where it matters: what has to come to the same engine (a session, a prefix) is
hashed together with the runners' uids, which all of them know.
"""

from warmfleet_router.pick.filters import usable
from warmfleet_router.pick.interface import Asked, Filter, Picker, Policy, Scorer
from warmfleet_router.pick.policies import POLICIES, pick

__all__ = ["POLICIES", "Asked", "Filter", "Picker", "Policy", "Scorer", "pick", "usable"]
