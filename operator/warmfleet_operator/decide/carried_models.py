"""The models as the last round saw them: which changed since, and which may need something."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, Final

from warmfleet_operator.decide.fleet import Limits, Model, ModelKey
from warmfleet_operator.decide.newcomers import Newcomer, Newcomers
from warmfleet_operator.decide.replicas import plan_of_nothing

_END: Final[Any] = object()
"""Stands behind the last model, and before the first one."""


class CarriedModels:
    """The models of the fleet, told apart by identity: what is the very object of the last round did not change."""

    def __init__(self) -> None:
        self.all: Mapping[ModelKey, Model] = {}
        self.unsettled: dict[ModelKey, Model] = {}
        """Those that may need something (`labels.py`), newcomers left out."""
        self.newcomers = Newcomers()
        self.with_standby: dict[ModelKey, Model] = {}
        """Those that want standbys."""
        self._ranks: dict[ModelKey, float] = {}
        """Sorts the models as the fleet does. One that comes ranks between its neighbours, which keep theirs."""
        self._limits: Limits | None = None

    def see(
        self, models: Mapping[ModelKey, Model], limits: Limits, touched: Iterable[ModelKey]
    ) -> Mapping[ModelKey, Model | None]:
        """Take the models as they are now; return those of which something changed, each with what it was before.

        None where it is new, or only its places changed: of these `touched` are the keys.
        """
        former, self.all = self.all, models
        found = self._walk(former, models)
        if found is None:
            self._ranks = {key: float(number) for number, key in enumerate(models)}
            found = (
                [model for key, model in former.items() if models.get(key) is not model],
                [model for key, model in models.items() if former.get(key) is not model],
            )
        gone, come = found
        changed: dict[ModelKey, Model | None] = dict.fromkeys(touched)
        changed |= {model.key: model for model in gone}
        changed |= {model.key: changed.get(model.key) for model in come}
        for key in changed:
            self._take(key, models.get(key))
        if self._limits is not limits:
            self.unsettled, self._limits = dict(models), limits
            self.newcomers.clear()
        return changed

    def _walk(
        self, former: Mapping[ModelKey, Model], models: Mapping[ModelKey, Model]
    ) -> tuple[list[Model], list[Model]] | None:
        """Go along the former and the present models side by side; return those that went and those that came.

        What is another now did both. None where those that stay do not stand in their former order, or there is no
        rank left between two of them.
        """
        gone: list[Model] = []
        come: list[Model] = []
        news, olds, last = iter(models.values()), chain(former.values(), repeat(_END)), _END
        for now, before in zip(news, olds, strict=False):  # once per model in every round: so at length
            if now is before:
                last = now
                continue
            new, old, first = now, before, len(come)
            while new is not old:
                if old is not _END and models.get(old.key) is not old:
                    gone.append(old)
                    old = next(olds)
                elif new is not _END and former.get(new.key) is not new:
                    come.append(new)
                    new = next(news, _END)
                else:
                    return None
            if not self._rank(come[first:], last, new):
                return None
            last = new
        gone += iter(olds.__next__, _END)
        for model in gone:
            if model.key not in models:
                del self._ranks[model.key]
        return gone, come

    def _rank(self, come: Sequence[Model], last: Model, following: Model) -> bool:
        """Let models that came rank between two that stay; return whether there was room for them."""
        ranks = self._ranks
        if not come:
            return True
        low = ranks[last.key] if last is not _END else None
        high = ranks[following.key] if following is not _END else (low or 0.0) + len(come) + 1
        if low is None:
            low = high - len(come) - 1
        step = (high - low) / (len(come) + 1)
        for number, model in enumerate(come, 1):
            ranks[model.key] = low + number * step
        return low < low + step and ranks[come[-1].key] < high

    def _take(self, key: ModelKey, model: Model | None) -> None:
        self.with_standby.pop(key, None)
        self.newcomers.pop(key, None)
        if model is None:
            self.unsettled.pop(key, None)
            return
        self.unsettled[key] = model
        if model.spec.standby is not None:
            self.with_standby[key] = model

    def in_order(self, keys: Iterable[ModelKey]) -> list[ModelKey]:
        """Return some of the models in the order of the fleet."""
        return sorted(keys, key=self._ranks.__getitem__)

    def sort_out(self, model: Model) -> None:
        """Look no more at a model that is nowhere until it changes: it is a newcomer, or wants nothing."""
        del self.unsettled[model.key]
        plan = plan_of_nothing(model)
        if plan.starts:
            self.newcomers[model.key] = Newcomer(model, plan)
