"""The models as the last round saw them: which changed since, and which may need something."""

from collections.abc import Collection, Iterable, Mapping, Set
from itertools import compress

from warmfleet_operator.decide.fleet import Limits, Model, ModelKey
from warmfleet_operator.decide.newcomers import Newcomer, Newcomers
from warmfleet_operator.decide.replicas import plan_of_nothing


class CarriedModels:
    """The models of the fleet, told apart by identity: what is the very object of the last round did not change."""

    def __init__(self) -> None:
        self.all: Mapping[ModelKey, Model] = {}
        self.unsettled: dict[ModelKey, Model] = {}
        """Those that may need something (`labels.py`), newcomers left out."""
        self.newcomers = Newcomers()
        self.with_standby: dict[ModelKey, Model] = {}
        """Those that want standbys."""
        self._near: list[Model] = []
        """The unsettled ones and maybe some others, in the order of the fleet."""
        self._known: dict[int, Model] = {}
        """By identity, which lasts as they are held here."""
        self._limits: Limits | None = None

    def see(
        self, models: Mapping[ModelKey, Model], limits: Limits, touched: Iterable[ModelKey]
    ) -> Mapping[ModelKey, Model | None]:
        """Take the models as they are now; return those of which something changed, each with what it was before.

        None where it is new, or only its places changed: of these `touched` are the keys.
        """
        self.all, known = models, self._known
        changed: dict[ModelKey, Model | None] = dict.fromkeys(touched)
        ids = list(map(id, models.values()))
        others = set(ids)
        others ^= known.keys()
        if self._limits is not limits:
            self._near = list(models.values())
        else:
            there = (model for key in changed if (model := models.get(key)) is not None)
            near = others.union(map(id, self.unsettled.values()), map(id, there))
            self._near = list(compress(models.values(), map(near.__contains__, ids)))
        if others:
            come = _those(self._near, others)
            others.difference_update(map(id, come))
            changed |= {gone.key: gone for gone in map(known.pop, others)}
            known |= {id(model): model for model in come}
            changed |= {model.key: changed.get(model.key) for model in come}
        for key in changed:
            self._take(key, models.get(key))
        if self._limits is not limits:
            self.unsettled, self._limits = dict(models), limits
            self.newcomers.clear()
        return changed

    def _take(self, key: ModelKey, model: Model | None) -> None:
        self.with_standby.pop(key, None)
        self.newcomers.pop(key, None)
        if model is None:
            self.unsettled.pop(key, None)
            return
        self.unsettled[key] = model
        if model.spec.standby is not None:
            self.with_standby[key] = model

    def in_line(self) -> list[Model]:
        """Return the unsettled models in the order of the fleet."""
        return _those(self._near, set(map(id, self.unsettled.values())))

    def sort_out(self, model: Model) -> None:
        """Look no more at a model that is nowhere until it changes: it is a newcomer, or wants nothing."""
        del self.unsettled[model.key]
        plan = plan_of_nothing(model)
        if plan.starts:
            self.newcomers[model.key] = Newcomer(model, plan)

    def in_order(self, models: Mapping[ModelKey, Model]) -> list[Model]:
        """Return some of the models in the order of the fleet."""
        return _those(self.all.values(), set(map(id, models.values()))) if models else []


def _those(models: Collection[Model], ids: Set[int]) -> list[Model]:
    """Return the models of these identities, in their order."""
    return list(compress(models, map(ids.__contains__, map(id, models))))
