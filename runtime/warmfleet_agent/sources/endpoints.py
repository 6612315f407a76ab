"""Where the agent may connect to: public addresses by https, and what an administrator named.

A uri comes from whoever may create a ModelDeployment, and the agent stands in the cluster's network: without this, a
uri, a redirect or a name that changes its address would reach the cloud's metadata service or the cluster's own APIs.
"""

import asyncio
import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

from yarl import URL

from warmfleet_agent.sources.contract import SourceError, SourceRules
from warmfleet_api import names
from warmfleet_api.vocabulary import WeightsProblem

ENV_ENDPOINTS = "WARMFLEET_ENDPOINTS"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_DEFAULT_HUB = "https://huggingface.co"
_DNS_SECONDS = 10.0
UNREACHABLE_RETRY_SECONDS = 30.0


class Endpoints:
    """What an administrator named in the agent's environment, and the addresses that everyone may use.

    HF_ENDPOINT and AWS_ENDPOINT_URL stand in for the Hub and for AWS, STORAGE_EMULATOR_HOST for Google's storage.
    WARMFLEET_ENDPOINTS lists more, with commas: `http://registry.local:5000,https://mirror.corp`. All of these may have
    private addresses, and speak plain http where they say so.
    """

    def __init__(self, rules: SourceRules) -> None:
        """Raise SourceError: a variable holds no URL."""
        environment = rules.environment
        self.hub = environment.get("HF_ENDPOINT", "").rstrip("/") or _DEFAULT_HUB
        self.s3 = environment.get("AWS_ENDPOINT_URL", "").rstrip("/")
        self.s3_region = environment.get("AWS_REGION", "")
        self.gs = environment.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        more = environment.get(ENV_ENDPOINTS, "").split(",")
        self._named = {_origin(url) for each in (self.hub, self.s3, self.gs, *more) if (url := each.strip())}
        self._named.discard(_origin(_DEFAULT_HUB))
        self._allow_private = rules.allow_private

    def names(self, url: URL) -> bool:
        """Whether an administrator named this scheme, host and port."""
        return (url.scheme, url.host or "", url.port or 0) in self._named

    def check(self, url: URL) -> None:
        """Accept a URL to connect to; its name is looked up later, see `addresses`.

        Raises:
            SourceError: plain http that nobody named, a password in the URL, or a private address.
        """
        if self.names(url):
            return
        shown = f"{url.scheme}://{url.host}"
        if url.scheme != "https":
            raise _forbidden(f"{shown} is not https. Use https://, or let an administrator allow it: {_command(url)}")
        if not url.host or url.user is not None or url.password is not None:
            raise _forbidden(f"{shown} holds a password or no host. Put credentials into a Secret (secretRef) instead")
        if (address := _literal(url.host)) is not None:
            self._check_address(url.host, url.port or 0, address)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Look a name up and return the addresses that may be connected to; connect to these, not to the name.

        Raises:
            SourceError: unknown name, or one with private addresses only.
        """
        try:
            async with asyncio.timeout(_DNS_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise SourceError(
                WeightsProblem.SOURCE_UNREACHABLE,
                f"{host} has no address ({error or 'time is up'}). Check the name, or `kubectl -n kube-system get pods`"
                " for the cluster's DNS",
                retry_after_seconds=UNREACHABLE_RETRY_SECONDS,
            ) from None
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        refused: SourceError | None = None
        allowed = []
        for address in addresses:
            try:
                self._check_address(host, port, ipaddress.ip_address(address.partition("%")[0]))
                allowed.append(address)
            except SourceError as error:
                refused = error
        if not allowed and refused is not None:
            raise refused
        return allowed

    def _check_address(self, host: str, port: int, address: IPv4Address | IPv6Address) -> None:
        named = self._allow_private or any((scheme, host, port) in self._named for scheme in ("http", "https"))
        if not named and not is_public(address):
            raise _forbidden(
                f"{host} is at {address}, which is not a public address. If it may be used, let an administrator allow"
                f" it: {_command(URL.build(scheme='https', host=host, port=port))}"
            )


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the public internet, also where it wraps one of IPv4."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parsed = URL(url)
        origin = (parsed.scheme, parsed.host or "", parsed.port or 0)
    except ValueError:
        origin = ("", "", 0)
    if origin[0] not in {"http", "https"} or not origin[1]:
        raise _forbidden(f"{url!r} in the agent's environment is no URL. Write e.g. https://mirror.corp:8443")
    return origin


def _command(url: URL) -> str:
    return (
        f"`kubectl -n {names.AGENT_NAMESPACE} create configmap {names.AGENT_SETTINGS}"
        f" --from-literal={ENV_ENDPOINTS}={url.scheme}://{url.host}:{url.port}`, then restart the agents"
    )


def _forbidden(message: str) -> SourceError:
    return SourceError(WeightsProblem.FORBIDDEN_SOURCE, message)
