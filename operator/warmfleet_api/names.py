"""Every wire name of Warmfleet: groups, labels, annotations, ports, paths, environment.

A name that two processes or a person and a process agree on stands here and nowhere else.
"""

from typing import Final

GROUP: Final = "warmfleet.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "warmfleet"

MODEL_DEPLOYMENT_KIND: Final = "ModelDeployment"
MODEL_DEPLOYMENT_PLURAL: Final = "modeldeployments"
MODEL_DEPLOYMENT_SHORT_NAME: Final = "mdl"
WARM_POOL_KIND: Final = "WarmPool"
WARM_POOL_PLURAL: Final = "warmpools"
WARM_POOL_SHORT_NAME: Final = "wp"
WEIGHT_CACHE_KIND: Final = "WeightCache"
WEIGHT_CACHE_PLURAL: Final = "weightcaches"
WEIGHT_CACHE_SHORT_NAME: Final = "wc"
NODE_CACHE_KIND: Final = "NodeCache"
NODE_CACHE_PLURAL: Final = "nodecaches"
NODE_CACHE_SHORT_NAME: Final = "nc"
TENANT_KIND: Final = "Tenant"
TENANT_PLURAL: Final = "tenants"
TENANT_SHORT_NAME: Final = "tn"

# Labels of a runner. Selectors and the ledger rest on them, so the operator alone writes them.
LABEL_RUNNER: Final = "warmfleet.dev/runner"
"""Kind of the runner's owner, e.g. `ModelDeployment`; `Foreign`: a pod of somebody else's that serves models too."""
RUNNER_KINDS: Final = (MODEL_DEPLOYMENT_KIND, WARM_POOL_KIND)
"""Its values on runners. To the operator all other pods are strangers; the router goes by the label alone."""
RUNNER_FOREIGN: Final = "Foreign"
LABEL_OWNER: Final = "warmfleet.dev/owner"
"""Name of the owner."""
LABEL_SLOT: Final = "warmfleet.dev/slot"
"""Which of the owner's places the runner fills; a replacement carries the slot of the one it replaces."""
LABEL_TEMPLATE_HASH: Final = "warmfleet.dev/template-hash"
"""Hash over the user's fields and the runtime image: another hash means a rollout."""
LABEL_SCALE_OF: Final = "warmfleet.dev/scale-of"
"""UID of the ModelDeployment whose `/scale` counts this pod; own runners only."""
LABEL_PROTECTED: Final = "warmfleet.dev/protected"
"""`true` while the runner holds a model's last Ready engine: what the PodDisruptionBudget selects."""
SERVE_LABEL_PREFIX: Final = "serve.warmfleet.dev/"
"""`serve.warmfleet.dev/<model>: Ready|...`: the state of that model's engine in the runner."""
SERVE_LOST: Final = "Lost"
"""Value of a serve label while nothing is heard of the runner or its node."""
LABEL_MODEL: Final = "warmfleet.dev/model"
"""Name of the ModelDeployment, on its Service."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "warmfleet"

ANNOTATION_ASSIGNMENT: Final = "warmfleet.dev/assignment"

LABEL_CACHE: Final = "warmfleet.dev/weight-cache"
"""Name of the WeightCache, on its agents' DaemonSet and pods and on its NodeCaches."""

LABEL_COMPONENT: Final = "app.kubernetes.io/component"
COMPONENT_AGENT: Final = "agent"
"""On the pods of agents: others in their namespace carry a WeightCache's name too."""
COMPONENT_IMAGE: Final = "runtime-image"
"""On the pods that hold the runtime image on the nodes of a WeightCache."""

# Node labels that others write, read by ledger and prediction (NVIDIA GPU feature discovery, kubelet).
NODE_LABEL_GPU_MEMORY_MIB: Final = "nvidia.com/gpu.memory"
NODE_LABEL_GPU_PRODUCT: Final = "nvidia.com/gpu.product"
NODE_LABEL_INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
NODE_LABEL_ZONE: Final = "topology.kubernetes.io/zone"
DEFAULT_GPU_RESOURCE: Final = "nvidia.com/gpu"

# Field managers of server-side apply, one per role.
MANAGER_CHILDREN: Final = "warmfleet-children"
MANAGER_STATUS: Final = "warmfleet-status"
MANAGER_FLEET: Final = "warmfleet-fleet"
MANAGER_CACHES: Final = "warmfleet-caches"
"""DaemonSets of agents, and the spec of NodeCaches."""
MANAGER_AGENT: Final = "warmfleet-agent"
"""The status of a NodeCache."""
MANAGER_ROUTER: Final = "warmfleet-router"
"""The status of a Tenant."""
MANAGER_EXTERNAL_METRICS: Final = "warmfleet-external-metrics"
"""The APIService of external metrics."""

ANNOTATION_ADDRESS: Final = "warmfleet.dev/address"
"""On the leader's Lease: where its API is, `host:port`; followers pass requests on to it."""
PRIORITY_CLASS_PREFIX: Final = "warmfleet-"
"""Before the class in lower case: the PriorityClass of a runner for which a node is asked of a cluster autoscaler."""
EVENT_CONTROLLER: Final = "warmfleet.dev/operator"
LEASE_NAME: Final = "warmfleet-operator"
PDB_NAME: Final = "warmfleet-last-ready"

# What a HorizontalPodAutoscaler of ours asks for, whoever serves external metrics. Plain words are good names in
# Prometheus too.
EXTERNAL_METRICS_GROUP: Final = "external.metrics.k8s.io"
EXTERNAL_METRICS_VERSION: Final = "v1beta1"
EXTERNAL_METRICS_API: Final = f"{EXTERNAL_METRICS_VERSION}.{EXTERNAL_METRICS_GROUP}"
"""Name of the APIService that says who serves them; a cluster has one."""
EXTERNAL_METRICS_SERVICE: Final = "warmfleet-external-metrics"
"""Service of our own server of them, and the name of all that manifests/components/external-metrics installs."""
EXTERNAL_METRICS_PORT: Final = 8443
METRIC_DEMAND: Final = "warmfleet_demand"
METRIC_LABEL_NAMESPACE: Final = "namespace"
METRIC_LABEL_MODEL: Final = "model"
"""Labels of that metric: namespace and name of the ModelDeployment."""

# Gateway API Inference Extension.
INFERENCE_GROUP: Final = "inference.networking.k8s.io"
INFERENCE_POOL_KIND: Final = "InferencePool"

# Ports of a runner.
API_PORT: Final = 8000
STATUS_PORT: Final = 8001
# Port of a model's Service.
SERVICE_PORT: Final = 80
# Ports of the operator: health and metrics, and its API.
OPERATOR_PORT: Final = 8080
OPERATOR_API_PORT: Final = 8082
SYSTEM_NAMESPACE: Final = "warmfleet-system"
"""Where manifests/base installs the operator."""
OPERATOR_SERVICE: Final = "warmfleet-operator"
ROUTER_KEY_SECRET: Final = "warmfleet-router-key"
"""Beside the routers, with the private key by which runners know them; the operator makes one where there is none."""
ROUTER_KEY_ENTRY: Final = "router.pem"
CLI_ACCOUNT: Final = "warmfleet-cli"
"""ServiceAccount whose tokens the command `warmfleet` shows to the operator."""

# The node agent.
AGENT_NAMESPACE: Final = "warmfleet-agents"
"""Of its own: its pods are privileged, which no other namespace has to allow."""
AGENT_SERVICE_ACCOUNT: Final = "warmfleet-agent"
AGENT_CONTAINER: Final = "agent"
AGENT_SETTINGS: Final = "warmfleet-agent-settings"
"""ConfigMap beside the agents, if there is one: environment that an administrator gives them, e.g. HF_ENDPOINT."""
AGENT_PORT: Final = 8002
"""Health, metrics and status stream of an agent."""
CSI_DRIVER: Final = "weights.warmfleet.dev"
"""Gives a runner the read-only view that the node's agent fills."""
CSI_SOCKET: Final = "csi.sock"
MANIFEST_FILE: Final = "manifest.json"
"""The file that makes a folder below /weights an entry; see `weights.Manifest`."""
ENV_CACHE: Final = "WARMFLEET_CACHE"
"""Environment of an agent: name of its WeightCache."""
ENV_MEMORY_PATH: Final = "WARMFLEET_MEMORY_PATH"
"""Where the tmpfs is, on the node and in the agent alike."""
ENV_DISK_PATH: Final = "WARMFLEET_DISK_PATH"
"""Where the folder on disk is, on the node and in the agent alike; empty: none."""
ENV_KUBELET_PATH: Final = "WARMFLEET_KUBELET_PATH"
"""Kubelet's folder, on the node and in the agent alike; /var/lib/kubelet if not said."""

# Paths inside a runner.
RUNNER_CONTAINER: Final = "runner"
ASSIGNMENT_DIRECTORY: Final = "/etc/warmfleet"
ASSIGNMENT_FILE: Final = "assignment"
WEIGHTS_DIRECTORY: Final = "/weights"
"""Models, drafts and adapters: each in a folder below it, or the only one in itself."""
RUN_DIRECTORY: Final = "/run/warmfleet"
"""Sockets and engine logs (emptyDir)."""
CACHE_DIRECTORY: Final = "/var/cache/warmfleet"
"""HOME and compile caches (emptyDir)."""

# Environment of a runner.
ENV_POD_UID: Final = "WARMFLEET_POD_UID"
ENV_POD_NAME: Final = "WARMFLEET_POD_NAME"
ENV_POD_NAMESPACE: Final = "WARMFLEET_POD_NAMESPACE"
ENV_NODE_NAME: Final = "WARMFLEET_NODE_NAME"
ENV_MEMORY_LIMIT_BYTES: Final = "WARMFLEET_MEMORY_LIMIT_BYTES"
ENV_RUNNER_OF: Final = "WARMFLEET_RUNNER_OF"
"""Kind of the runner's owner. A WarmPool's runner is ready when it can take engines, an own one when its model is."""
ENV_STANDBY_MODE: Final = "STANDBY_MODE"
"""`hot`, `warm` or `cold` in a model's own runner that was made to stand by, or in the place of one that stood by."""
ENV_LOAD_ON_DEMAND: Final = "LOAD_ON_DEMAND"
"""`true` beside it where nothing of the model was held before it was needed, else `false`."""
ENV_ZYGOTE: Final = "WARMFLEET_ZYGOTE"
"""`Off`: engines are executed, never forked."""

# HTTP.
HEADER_STATE: Final = "X-Warmfleet-State"
"""On a 503 of a runner: the state of the engine that did not answer."""
HEADER_TOKEN: Final = "X-Warmfleet-Token"
"""Proof that the sender may name class and tenant: `<base64url JSON {"aud": pod uid, "exp": unix seconds}>.<base64url
Ed25519 signature of the part before the dot>`."""
HEADER_CLASS: Final = "X-Warmfleet-Class"
"""Critical, High, Normal or Low; counts with a valid token only."""
HEADER_TENANT: Final = "X-Warmfleet-Tenant"
"""Name of the tenant; counts with a valid token only."""
HEADER_SESSION: Final = "X-Warmfleet-Session"
"""Requests of one conversation; any caller may set it."""
HEADER_DEADLINE: Final = "X-Warmfleet-Deadline-Milliseconds"
"""How long the sender waits for the first token, from now; can only shorten the model's own limit."""
HEADER_LOAD: Final = "X-Warmfleet-Load"
"""On a runner's answers about an engine: `running=3;waiting=0;window=16;queue=256`, in requests. Routers keep it."""
LOAD_MERGED: Final = b";merged=1"
"""Ends that header where the request got the answer of an identical one."""
HEADER_HEARTBEAT: Final = "X-Warmfleet-Heartbeat-Seconds"
"""Of a streaming request: how often a router that holds it sends the comment `: waking`."""
HEADER_CACHE: Final = "X-Warmfleet-Cache"
"""Of a request: `bypass`, or `allow` for one whose answer may differ. Of an answer: `hit`, `miss` or `bypass`."""
HEADER_BROKEN_STREAM: Final = "X-Warmfleet-Broken-Stream"
"""Of a streaming request: `Error`, `Complete` or `Replace`, what becomes of it if its engine breaks off."""
HEADER_AUTHORIZATION: Final = "X-Warmfleet-Authorization"
"""`Bearer <token>` for the operator's API where Authorization does not come through, as by the API server's proxy."""
HEADER_FORWARDED: Final = "X-Warmfleet-Forwarded"
"""On what a follower passes on to the leader: it is not passed on again."""
TOKEN_AUDIENCE: Final = "warmfleet-operator"
"""Of Kubernetes tokens that the operator's API takes: what is good for it is good for nothing else."""
DIRECT_TENANT: Final = "direct"
"""Tenant of requests without a valid token."""
PATH_STATUS: Final = "/v1/status"
PATH_STARTS: Final = "/v1/starts"
"""The last starts of a runner, as JSON lines."""
PATH_WAKE: Final = "/v1/wake"
PATH_DEMAND: Final = "/v1/demand"
PATH_QUEUE: Final = "/v1/queue"
PATH_FLEET: Final = "/v1/fleet"
PATH_SCALING: Final = "/v1/scaling"
PATH_STARTUP: Final = "/startupz"
PATH_READY: Final = "/readyz"
PATH_LIVE: Final = "/livez"
PATH_ARTIFACTS: Final = "/v1/artifacts"
"""Below it the compile caches of an agent's node, by key and `?digest=`."""
PATH_METRICS: Final = "/metrics"


def serve_label(model: str) -> str:
    """Return the label under which a runner shows the state of `model`'s engine."""
    return SERVE_LABEL_PREFIX + model
