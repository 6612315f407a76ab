"""Who serves an API group beside the API server itself: APIServices of the aggregation layer."""

from warmfleet_kube.objects import Object, Record, Resource


class ServiceReference(Record, frozen=True, kw_only=True):
    """The Service that requests of the group go to."""

    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ApiServiceSpec(Record, frozen=True, kw_only=True):
    """What an APIService says."""

    service: ServiceReference | None = None
    """None: the API server itself."""
    ca_bundle: str = ""
    """Certificates (PEM) in base64 that its server is to show one of."""


class ApiServiceCondition(Record, frozen=True, kw_only=True):
    """What the API server says of it."""

    type: str
    status: str
    message: str = ""


class ApiServiceStatus(Record, frozen=True, kw_only=True):
    """Whether the server can be reached."""

    conditions: tuple[ApiServiceCondition, ...] = ()


class ApiService(Object, frozen=True, kw_only=True):
    """One version of an API group, and who serves it."""

    spec: ApiServiceSpec = ApiServiceSpec()
    status: ApiServiceStatus = ApiServiceStatus()

    def is_served_by(self, namespace: str, name: str) -> bool:
        """Whether this very Service serves it."""
        return self.spec.service == ServiceReference(namespace=namespace, name=name)

    @property
    def owner(self) -> str:
        """Who serves it, for people."""
        return str(self.spec.service) if self.spec.service is not None else "the API server itself"

    @property
    def trouble(self) -> str:
        """Why requests don't reach its server, in the API server's words; empty: they do, or nobody has tried."""
        for each in self.status.conditions:
            if each.type == "Available" and each.status == "False":
                return each.message or "it is not available"
        return ""


API_SERVICES: Resource[ApiService] = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", ApiService)
