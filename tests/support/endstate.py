"""What is left when the dust has settled: for comparing a disturbed run with an undisturbed one."""

import json
from collections import Counter
from dataclasses import dataclass

from support.kubeapi import Object
from support.namespace import Namespace, is_ready
from support.waiting import wait_for
from warmfleet_api import names

_OWNED = ("api/v1/namespaces/{}/pods", "api/v1/namespaces/{}/services")
# Kubernetes copies the zone of a pod's node; which of several Ready runners is protected is a matter of history.
_VOLATILE_LABELS = frozenset({names.LABEL_SCALE_OF, names.LABEL_PROTECTED, names.NODE_LABEL_ZONE})
_TIDY_SECONDS = 60
_VOLATILE_ENGINE_FIELDS = frozenset({"modelUID", "node", "memory"})


@dataclass(frozen=True, slots=True)
class EndState:
    """The objects of a namespace without what differs from run to run: uids, versions, times, nodes, addresses."""

    lines: tuple[str, ...]

    def difference(self, other: "EndState") -> str:
        """Return what each of two states has and the other lacks; empty if they are equal."""
        mine, others = Counter(self.lines), Counter(other.lines)
        only_mine = [f"- {line}" for line in (mine - others).elements()]
        return "\n".join([*only_mine, *(f"+ {line}" for line in (others - mine).elements())])


def end_state(namespace: Namespace) -> EndState:
    """Read the namespace's models, runners, Services and budgets."""
    services = [
        each for each in namespace.api.list(f"{namespace.core_path}/services") if names.LABEL_MODEL in _labels(each)
    ]
    budgets = namespace.api.list(f"apis/policy/v1/namespaces/{namespace.name}/poddisruptionbudgets")
    runners = namespace.runners()
    protected = Counter(
        _labels(each)[names.LABEL_OWNER] for each in runners if _labels(each).get(names.LABEL_PROTECTED) == "true"
    )
    lines = [
        *(f"protected runners of {owner}: {count}" for owner, count in protected.items()),
        *(_service(each) for each in services),
        *(_model(each) for each in namespace.models().values()),
        *(_runner(each) for each in runners),
        *(
            _line("service", each, selector=each["spec"].get("selector"), type=each["spec"]["type"])
            for each in services
        ),
        *(_line("budget", each, spec=each["spec"]) for each in budgets),
    ]
    return EndState(tuple(sorted(lines)))


def loose_ends(namespace: Namespace) -> list[str]:
    """Return what should not be there: children without an owner, more runners of a model than replicas."""
    models = namespace.models()
    pools = {each["metadata"]["name"]: each for each in namespace.api.list(namespace.pools_path)}
    uids = {each["metadata"]["uid"] for each in (*models.values(), *pools.values())}
    found = [
        f"orphan: {child['metadata']['name']}"
        for path in _OWNED
        for child in namespace.api.list(path.format(namespace.name))
        if _is_ours(child) and not uids & {owner["uid"] for owner in child["metadata"].get("ownerReferences", [])}
    ]
    owners = Counter(
        (_labels(runner).get(names.LABEL_RUNNER, ""), _labels(runner).get(names.LABEL_OWNER, ""))
        for runner in namespace.runners()
    )
    wanted = {(names.MODEL_DEPLOYMENT_KIND, name): each["spec"]["replicas"] for name, each in models.items()}
    wanted |= {(names.WARM_POOL_KIND, name): each["spec"]["replicas"] for name, each in pools.items()}
    found += [
        f"duplicate: {count} runners of {owner}, {wanted.get((kind, owner), 0)} wanted"
        for (kind, owner), count in owners.items()
        if count > wanted.get((kind, owner), 0)
    ]
    return found


def wait_tidy(namespace: Namespace) -> None:
    """Wait until nothing is left that should not be there: a model may be Ready while what it had before ends."""
    wait_for("no loose ends", lambda: not loose_ends(namespace), _TIDY_SECONDS, lambda: str(loose_ends(namespace)))


def _is_ours(child: Object) -> bool:
    return bool({names.LABEL_RUNNER, names.LABEL_MODEL} & _labels(child).keys())


def _labels(found: Object) -> dict[str, str]:
    labels: dict[str, str] = found["metadata"].get("labels") or {}
    return labels


def _model(model: Object) -> str:
    status = model.get("status", {})
    conditions = {each["type"]: [each["status"], each["reason"]] for each in status.get("conditions", [])}
    return _line(
        "model",
        model,
        spec=model["spec"],
        conditions=conditions,
        replicas=status.get("replicas"),
        ready=status.get("readyReplicas"),
        pending=status.get("pendingStart"),
        hash=status.get("servedHash"),
        engines=sorted((each["runner"], each["state"], each["hash"]) for each in status.get("engines", [])),
    )


def _service(service: Object) -> str:
    spec = service["spec"]
    ports = [[port["port"], port["targetPort"]] for port in spec["ports"]]
    return _line("service", service, type=spec["type"], selector=spec.get("selector"), ports=ports)


def _runner(pod: Object) -> str:
    assignment = json.loads(pod["metadata"]["annotations"][names.ANNOTATION_ASSIGNMENT])
    engines = [
        {key: value for key, value in engine.items() if key not in _VOLATILE_ENGINE_FIELDS}
        for engine in assignment["engines"]
    ]
    labels = {key: value for key, value in _labels(pod).items() if key not in _VOLATILE_LABELS}
    terminating = "deletionTimestamp" in pod["metadata"]
    return _line("runner", pod, labels=labels, engines=engines, ready=is_ready(pod), terminating=terminating)


def _line(kind: str, found: Object, **parts: object) -> str:
    return f"{kind} {found['metadata']['name']} {json.dumps(parts, sort_keys=True)}"
