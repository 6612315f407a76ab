"""Which requests of kubelet are accepted: pure, and strict, as what they name is mounted on and removed by root."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from warmfleet_agent.csi.proto import csi_pb2

MOUNT_FOLDER = "mount"
VOLUMES_FOLDER = "kubernetes.io~csi"
_CONTEXT = "csi.storage.k8s.io/"
POD_UID = f"{_CONTEXT}pod.uid"
EPHEMERAL = f"{_CONTEXT}ephemeral"
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VOLUME_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VOLUME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RefusedError(ValueError):
    """A request that is not of the kind this driver serves; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where kubelet wants the volume of a pod."""

    uid: str
    """Of the pod."""
    volume: str
    """Its name in the pod."""

    @property
    def folders(self) -> tuple[str, ...]:
        """The way from kubelet's folder to the volume's, in which `MOUNT_FOLDER` lies."""
        return ("pods", self.uid, "volumes", VOLUMES_FOLDER, self.volume)


def to_publish(request: csi_pb2.NodePublishVolumeRequest, kubelet: PurePath) -> Target:
    """Return where the volume is wanted.

    Raises:
        RefusedError: it is no ephemeral inline volume, has attributes, or names a strange place.
    """
    _check_id(request.volume_id)
    target = _target(request.target_path, kubelet)
    context: Mapping[str, str] = request.volume_context
    if context.get(EPHEMERAL) != "true":
        raise RefusedError("this driver has only volumes that stand in a pod (spec.volumes[].csi), no claims")
    if context.get(POD_UID) != target.uid:
        raise RefusedError(
            f"{POD_UID} is {_shown(context.get(POD_UID, ''))}, the target is of pod {target.uid}; the CSIDriver of "
            "this driver has to say podInfoOnMount: true"
        )
    if attributes := sorted(key for key in context if not key.startswith(_CONTEXT)):
        raise RefusedError(f"the volume has no attributes; remove {_shown(attributes[0])} from volumeAttributes")
    if request.volume_capability.WhichOneof("access_type") == "block":
        raise RefusedError("the volume is a folder, no block device")
    if request.volume_capability.mount.fs_type:
        raise RefusedError(f"the volume has no fsType; remove {_shown(request.volume_capability.mount.fs_type)}")
    if request.volume_capability.mount.mount_flags:
        raise RefusedError("the volume takes no mount options")
    return target


def to_unpublish(request: csi_pb2.NodeUnpublishVolumeRequest, kubelet: PurePath) -> Target:
    """Return where the volume is.

    Raises:
        RefusedError: the request names a strange place.
    """
    _check_id(request.volume_id)
    return _target(request.target_path, kubelet)


def target_of(point: str, kubelet: PurePath) -> Target | None:
    """Return whose volume a path is; None: it is no place of a volume."""
    prefix = f"{kubelet}/"
    if not point.startswith(prefix):
        return None
    match point.removeprefix(prefix).split("/"):
        case ["pods", uid, "volumes", folder, volume, last] if (
            folder == VOLUMES_FOLDER and last == MOUNT_FOLDER and _UID.fullmatch(uid) and _VOLUME_NAME.fullmatch(volume)
        ):
            return Target(uid, volume)
    return None


def is_pod_uid(name: str) -> bool:
    """Whether a name is the UID of a pod."""
    return _UID.fullmatch(name) is not None


def _target(path: str, kubelet: PurePath) -> Target:
    target = target_of(path, kubelet)
    if target is None:
        raise RefusedError(f"target path {_shown(path)} is no place of a pod's volume below {kubelet}")
    return target


def _check_id(volume_id: str) -> None:
    if not _VOLUME_ID.fullmatch(volume_id):
        raise RefusedError(f"{_shown(volume_id)} is no volume id")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
