"""A canary: a changed spec that is tried beside the former one, which goes on serving. Pure.

While `rollout.canaryWeight` is there, a new hash replaces nothing: `status.rollout` says which spec is the *stable* one
and what its engines are started from, so that a lost replica, a wake or a scale-up brings the stable spec back and
not the one that is tried. Both are planned alike, each as a variant of the model with a spec and a hash of its own.
Without the field the variant is the model itself, and the rollout goes its usual way.
"""

import json
from dataclasses import replace

from warmfleet_api.fields import is_none
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.status import RolloutStatus
from warmfleet_operator.build.template import not_of_the_runner, of_the_runner
from warmfleet_operator.decide.fleet import Model, Problem


def variants(model: Model) -> tuple[Model, ...]:
    """Return what is to run of a model: the stable spec first, then the one that is tried beside it."""
    return (model,) if model.stable is None else (model.stable, model)


def variant(model: Model, hash_: str) -> Model:
    """Return the variant that an engine of this hash belongs to; the model itself for what belongs to none."""
    return model.stable if model.stable is not None and model.stable.hash == hash_ else model


def surge(model: Model) -> int:
    """Return how many replicas more than wanted there may be during a rollout."""
    return _count(model.spec.rollout.max_surge, model.spec.replicas, rounds_up=True)


def unavailable(model: Model) -> int:
    """Return how many replicas fewer than wanted may serve during a rollout."""
    rollout, wanted = model.spec.rollout, model.spec.replicas
    count = min(wanted, _count(rollout.max_unavailable, wanted, rounds_up=False))
    # As Deployments do: a share that is rounded down to 0 must not stop the rollout.
    return 1 if count == 0 and is_none(rollout.max_surge) else count


def canary_replicas(model: Model) -> int:
    """Return how many replicas a canary has: its share of those wanted, at least one, at most maxSurge."""
    wanted, weight = model.spec.replicas, model.spec.rollout.canary_weight or 0
    return min(wanted, max(1, min(surge(model), -(-weight * wanted // 100))))


def as_stable(model: Model) -> RolloutStatus:
    """Return the record of the model's spec as the stable one, without a canary beside it."""
    known = model.status.rollout
    if known is not None and (known.stable_hash, tuple(known.stable_pools)) == (model.hash, model.pools):
        text = known.stable_spec
    else:
        spec = model.spec
        if model.image:
            # Whatever the default is when one of its runners is lost: they are all of the same image.
            template = spec.pod_template.model_copy(update={"image": model.image})
            spec = spec.model_copy(update={"pod_template": template})
        text = json.dumps(of_the_runner(spec), sort_keys=True, separators=(",", ":"))
    return RolloutStatus(stable_hash=model.hash, stable_pools=list(model.pools), stable_spec=text)


def read_stable(spec: ModelDeploymentSpec, rollout: RolloutStatus) -> ModelDeploymentSpec | None:
    """Return the stable spec, with all that no engine depends on as the present one says; None: it can't be read."""
    try:
        stable = json.loads(rollout.stable_spec)
        return ModelDeploymentSpec.model_validate(not_of_the_runner(spec) | stable | {"pools": rollout.stable_pools})
    except (ValueError, TypeError):
        # Of another version: then there is no canary, and the rollout goes its usual way.
        return None


def beside(model: Model, stable: Model) -> Model:
    """Return the model with a stable spec beside which its own is tried."""
    return replace(model, stable=replace(stable, beside=model.hash), beside=stable.hash)


def with_problem(model: Model, problem: Problem) -> Model:
    """Return the model with what keeps it from starting, whichever of its specs it would be."""
    stable = replace(model.stable, problem=problem) if model.stable is not None else None
    return replace(model, problem=problem, stable=stable)


def _count(value: int | str, wanted: int, *, rounds_up: bool) -> int:
    """Return a `CountOrShare` of the replicas wanted as a number."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * wanted
    return -(-share // 100) if rounds_up else share // 100
