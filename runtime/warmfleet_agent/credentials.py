"""Credentials of sources: Secrets, read by name when a fetch needs one, never listed, watched or kept."""

import base64
import binascii
from collections.abc import Mapping

from warmfleet_agent.records import SECRETS
from warmfleet_api import names
from warmfleet_api.vocabulary import WeightsProblem
from warmfleet_api.weight_cache import SecretReference
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import Forbidden, KubeError, NotFound

SECRETS_ROLE = "warmfleet-weights-secrets"
"""ClusterRole that an administrator binds in a namespace whose Secrets the agents may read."""


class CredentialError(Exception):
    """A credential can't be had; `reason` is one word for machines."""

    def __init__(self, reason: WeightsProblem, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def read(client: KubeClient, reference: SecretReference | None) -> Mapping[str, bytes]:
    """Return the values of a Secret; of none, nothing.

    Raises:
        CredentialError: there is no such Secret, or no right to read it.
    """
    if reference is None:
        return {}
    where = f"Secret {reference.namespace}/{reference.name}"
    try:
        secret = await client.get(SECRETS, reference.namespace, reference.name)
        return {key: base64.b64decode(value, validate=True) for key, value in (secret.data or {}).items()}
    except Forbidden:
        message = f"the agents may not read {where}; let them: {bind_command(reference.namespace)}"
        raise CredentialError(WeightsProblem.ACCESS_DENIED, message) from None
    except NotFound:
        message = (
            f"{where} does not exist; make it: kubectl -n {reference.namespace} create secret generic "
            f"{reference.name} --from-literal=token=..."
        )
        raise CredentialError(WeightsProblem.SECRET_MISSING, message) from None
    except binascii.Error:
        message = f"{where} holds no base64; make it anew: kubectl -n {reference.namespace} create secret generic ..."
        raise CredentialError(WeightsProblem.SECRET_MISSING, message) from None
    except KubeError as error:
        raise CredentialError(WeightsProblem.SOURCE_UNREACHABLE, f"{where} can't be read now: {error}") from error


def bind_command(namespace: str) -> str:
    """Return what an administrator types so that the agents may read Secrets of a namespace."""
    return (
        f"kubectl -n {namespace} create rolebinding {SECRETS_ROLE} --clusterrole={SECRETS_ROLE} "
        f"--serviceaccount={names.AGENT_NAMESPACE}:{names.AGENT_SERVICE_ACCOUNT}"
    )
