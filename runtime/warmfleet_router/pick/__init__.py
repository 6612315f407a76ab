"""Which engine a request goes to: filter → weighted scorers → picker. Pure, and the same in every router.

    shares.py     which of two specs it is for, while a canary is on
    filters.py    which endpoints may take it at all
    scorers.py    how good each of them is, from 0 to 1
    policies.py   which scorers with which weight, by the model's `serving.routing.policy`

Routers share no state and yet agree where it matters: what has to come to the same engine (a session, a prefix) is
hashed together with the runners' uids, which all of them know.
"""

from warmfleet_router.pick.filters import of_one_spec, usable
from warmfleet_router.pick.interface import Asked, Filter, Picker, Policy, Scorer
from warmfleet_router.pick.policies import POLICIES, pick
from warmfleet_router.pick.shares import Shares

__all__ = ["POLICIES", "Asked", "Filter", "Picker", "Policy", "Scorer", "Shares", "of_one_spec", "pick", "usable"]
