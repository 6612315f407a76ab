"""etcd, the API server, controllers, scheduler and DNS: processes of the host, bound to the cluster's own addresses."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localcluster.addresses import Addresses
from localcluster.api import Api, wait_until
from localcluster.binaries import Binaries
from localcluster.errors import ClusterError
from localcluster.paths import ClusterFiles
from localcluster.pki import KeyPair, Pki
from localcluster.processes import Processes
from localcluster.progress import Say

DNS_READY_PORT = 8181
_ADMIN_GROUP = "system:masters"
_ISSUER = "https://kubernetes.default.svc.cluster.local"


class ControlPlane:
    """The control plane of one cluster."""

    def __init__(self, name: str, addresses: Addresses, files: ClusterFiles, processes: Processes) -> None:
        self._context = f"warmfleet-{name}"
        self._addresses = addresses
        self._files = files
        self._processes = processes
        self.pki = Pki(files.pki)

    @property
    def admin(self) -> KeyPair:
        """The administrator's certificate."""
        return self.pki.issue("admin", "warmfleet-local-admin", _ADMIN_GROUP)

    def api(self) -> Api:
        """A connection as administrator."""
        admin = self.admin
        return Api(self._addresses.server, self.pki.authority.certificate, admin.certificate, admin.key)

    def kubeconfig(self, path: Path, pair: KeyPair) -> Path:
        """Write a kubeconfig for the holder of `pair`."""
        return self.pki.kubeconfig(path, self._addresses.server, self._context, pair)

    def ensure(self, binaries: Binaries, *, fast_node_loss: bool, say: Say) -> None:
        """Start what doesn't run and wait until the API server, DNS and the default service account are there.

        Raises:
            ClusterError: something did not come up; carries the end of its log.
        """
        self._files.config.mkdir(parents=True, exist_ok=True)
        self._files.audit_log.parent.mkdir(parents=True, exist_ok=True)
        self._files.etcd.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.kubeconfig(self._files.kubeconfig, self.admin)
        self._ensure("etcd", self._etcd(binaries), say)
        self._ensure(
            "kube-apiserver", self._api_server(binaries), say, [self._config("audit-policy.json", AUDIT_POLICY)]
        )
        with self.api() as api:
            self._wait("kube-apiserver", 90, lambda: api.request("GET", "/readyz") == "ok")
            self._ensure("kube-controller-manager", self._controllers(binaries, fast_node_loss=fast_node_loss), say)
            self._ensure("kube-scheduler", self._scheduler(binaries), say)
            for path, body in _dns_rights():
                api.apply(path, body)
            self._ensure("coredns", self._dns(binaries), say, [self._files.config / "Corefile"])
            self._wait("coredns", 30, self._dns_ready)
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("kube-controller-manager", 30, lambda: api.get(account) is not None)

    def _ensure(self, name: str, command: list[str], say: Say, inputs: list[Path] | None = None) -> None:
        if self._processes.ensure(name, command, inputs=inputs or []):
            say(f"started {name}")

    def _wait(self, name: str, seconds: float, check: Callable[[], bool]) -> None:
        def up() -> bool:
            if self._processes.running(name) is None:
                start_over = "if `hack/cluster up` does not help, start over with `hack/cluster down`"
                raise ClusterError(f"{name} ended; {start_over}:\n{self._processes.log_tail(name)}")
            return check()

        wait_until(f"{name} ready", seconds, up, lambda: self._processes.log_tail(name))

    def _dns_ready(self) -> bool:
        connection = http.client.HTTPConnection(str(self._addresses.host), DNS_READY_PORT, timeout=2)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def _config(self, name: str, content: dict[str, Any] | str) -> Path:
        path = self._files.config / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
        return path

    def _component_kubeconfig(self, name: str, user: str) -> Path:
        return self.kubeconfig(self._files.config / f"{name}.kubeconfig", self.pki.issue(name, user))

    def _etcd(self, binaries: Binaries) -> list[str]:
        client, peer = f"http://{self._addresses.loopback}:2379", f"http://{self._addresses.loopback}:2380"
        return [
            binaries["etcd"],
            f"--data-dir={self._files.etcd}",
            "--unsafe-no-fsync",  # the data is worth nothing after a power cut of the machine
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--quota-backend-bytes=4294967296",
            "--auto-compaction-retention=5m",
            "--log-level=warn",
        ]

    def _api_server(self, binaries: Binaries) -> list[str]:
        addresses, pki = self._addresses, self.pki
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        serving = pki.issue(
            "kube-apiserver", "kube-apiserver", None, [*names, str(addresses.host), str(addresses.api_service)]
        )
        kubelet = pki.issue("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", _ADMIN_GROUP)
        front_proxy = pki.issue("front-proxy-client", "front-proxy-client", authority=pki.front_proxy_authority)
        return [
            binaries["kube-apiserver"],
            f"--etcd-servers=http://{addresses.loopback}:2379",
            f"--bind-address={addresses.host}",
            f"--advertise-address={addresses.host}",
            "--secure-port=6443",
            f"--service-cluster-ip-range={addresses.service_range}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={pki.authority.certificate}",
            f"--service-account-key-file={pki.service_account_key.with_suffix('.pub')}",
            f"--service-account-signing-key-file={pki.service_account_key}",
            f"--service-account-issuer={_ISSUER}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            f"--kubelet-certificate-authority={pki.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki.front_proxy_authority.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={front_proxy.certificate}",
            f"--proxy-client-key-file={front_proxy.key}",
            "--enable-aggregator-routing=true",  # no kube-proxy on the host: webhooks are called at their pods
            f"--audit-policy-file={self._files.config / 'audit-policy.json'}",
            f"--audit-log-path={self._files.audit_log}",
            "--audit-log-format=json",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=10",
        ]

    def _controllers(self, binaries: Binaries, *, fast_node_loss: bool) -> list[str]:
        pki = self.pki
        kubeconfig = self._component_kubeconfig("kube-controller-manager", "system:kube-controller-manager")
        command = [
            binaries["kube-controller-manager"],
            f"--kubeconfig={kubeconfig}",
            *_identity(kubeconfig),
            f"--bind-address={self._addresses.loopback}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki.service_account_key}",
            f"--root-ca-file={pki.authority.certificate}",
            f"--cluster-signing-cert-file={pki.authority.certificate}",
            f"--cluster-signing-key-file={pki.authority.key}",
            f"--requestheader-client-ca-file={pki.front_proxy_authority.certificate}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]
        if fast_node_loss:
            command += ["--node-monitor-grace-period=12s", "--node-monitor-period=1s"]
        return command

    def _scheduler(self, binaries: Binaries) -> list[str]:
        kubeconfig = self._component_kubeconfig("kube-scheduler", "system:kube-scheduler")
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            # The default of 50 requests per second throttles the binding of hundreds of pods.
            "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
        }
        return [
            binaries["kube-scheduler"],
            f"--config={self._config('kube-scheduler.json', config)}",
            *_identity(kubeconfig),
            f"--bind-address={self._addresses.loopback}",
        ]

    def _dns(self, binaries: Binaries) -> list[str]:
        kubeconfig = self._component_kubeconfig("coredns", "system:coredns")
        corefile = f"""\
.:53 {{
    bind {self._addresses.host}
    errors
    ready {self._addresses.host}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
{_forward()}}}
"""
        return [binaries["coredns"], "-conf", str(self._config("Corefile", corefile))]


def _identity(kubeconfig: Path) -> list[str]:
    return [f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}"]


def _forward() -> str:
    """Names outside the cluster go to the host's name servers, where it has any."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except FileNotFoundError:
        return ""
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    return f"    forward . {' '.join(servers)}\n" if servers else ""


AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        # What pods are made and changed to, so that it can be told afterwards who was given which place when.
        {"level": "Request", "verbs": ["create", "patch"], "resources": [{"group": "", "resources": ["pods"]}]},
        {"level": "Metadata"},
    ],
}


def _dns_rights() -> list[tuple[str, dict[str, Any]]]:
    group = "rbac.authorization.k8s.io"
    watched = [("", ["endpoints", "services", "pods", "namespaces"]), ("discovery.k8s.io", ["endpointslices"])]
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [{"apiGroups": [g], "resources": r, "verbs": ["list", "watch"]} for g, r in watched],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:coredns"}],
    }
    base = f"/apis/{group}/v1"
    return [(f"{base}/clusterroles/system:coredns", role), (f"{base}/clusterrolebindings/system:coredns", binding)]
