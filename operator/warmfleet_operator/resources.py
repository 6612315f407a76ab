"""The kinds of objects the operator reads and writes, and their URLs."""

from warmfleet_api import names
from warmfleet_kube.objects import Resource
from warmfleet_operator import records

PODS = Resource("", "v1", "pods", "Pod", records.Pod)
NODES = Resource("", "v1", "nodes", "Node", records.Node)
SERVICES = Resource("", "v1", "services", "Service", records.Service)
INFERENCE_POOLS = Resource(
    names.INFERENCE_GROUP, "v1", "inferencepools", names.INFERENCE_POOL_KIND, records.InferencePool
)
SECRETS = Resource("", "v1", "secrets", "Secret", records.Secret)
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", records.PodDisruptionBudget)
AUTOSCALERS = Resource(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", records.HorizontalPodAutoscaler
)
MODEL_DEPLOYMENTS = Resource(
    names.GROUP,
    names.VERSION,
    names.MODEL_DEPLOYMENT_PLURAL,
    names.MODEL_DEPLOYMENT_KIND,
    records.ModelDeployment,
)
WARM_POOLS = Resource(
    names.GROUP,
    names.VERSION,
    names.WARM_POOL_PLURAL,
    names.WARM_POOL_KIND,
    records.WarmPool,
)
WEIGHT_CACHES = Resource(
    names.GROUP,
    names.VERSION,
    names.WEIGHT_CACHE_PLURAL,
    names.WEIGHT_CACHE_KIND,
    records.WeightCache,
)
NODE_CACHES = Resource(
    names.GROUP,
    names.VERSION,
    names.NODE_CACHE_PLURAL,
    names.NODE_CACHE_KIND,
    records.NodeCache,
)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", records.DaemonSet)
