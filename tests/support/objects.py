"""Good and bad ModelDeployments: one table that pydantic and the real API server are both asked about."""

from dataclasses import dataclass
from typing import Any

from support.kubeapi import Object
from warmfleet_api import names
from warmfleet_api.model_deployment import MAX_NAME_LENGTH

NAME = "tiny"
VLLM_MODEL = {"uri": "file:///models/tiny"}
SIMULATED = {"type": "Simulated"}


@dataclass(frozen=True, slots=True)
class Good:
    """An object that must be accepted, and what it shows."""

    shows: str
    object: Object


@dataclass(frozen=True, slots=True)
class Bad:
    """An object that must be refused: the refusal names `field` and says `message`."""

    shows: str
    object: Object
    field: str
    message: str
    """Part of the API server's words; of pydantic's too where it is the message of a rule of ours."""


def model(name: str = NAME, **spec: Any) -> Object:
    """Return an object; what is not given is the smallest that works."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.MODEL_DEPLOYMENT_KIND,
        "metadata": {"name": name},
        "spec": {"model": VLLM_MODEL} | spec,
    }


def pod_template(**fields: Any) -> Object:
    """Return an object with a pod template."""
    return model(podTemplate=fields)


EVERYTHING = model(
    model={
        "uri": "hf://meta-llama/Llama-3.1-8B",
        "revision": "0e9e39f249a16976918f6564b8830bc894c89659",
        "secretRef": {"name": "hf-token"},
        "servedNames": ["llama-3-8b", "meta-llama/Llama-3.1-8B-Instruct"],
        "adapters": [
            {"name": "sql", "uri": "file:///models/sql-lora"},
            {"name": "org/style:2", "uri": "s3://models/style-lora"},
        ],
    },
    engine={
        "type": "VLLM",
        "parallelism": {"tensor": 2, "pipeline": 1, "data": 1},
        "maxModelLen": 8192,
        "quantization": "fp8",
        "speculative": {"uri": "file:///models/llama-3.2-1b", "tokens": 5},
        "args": ["--enable-chunked-prefill"],
        "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}, {"name": "EMPTY"}],
    },
    resources={"gpus": 2, "gpuMemory": "40Gi", "gpuResource": "nvidia.com/mig-3g.40gb", "cpu": 4, "memory": "16Gi"},
    priority="High",
    replicas=3,
    coldStart={
        "preloadNodes": 2,
        "deadlineSeconds": 30,
        "maxWaitSeconds": 300,
        "warmup": {"mode": "Progressive", "requests": 3, "prompts": ["You are a helpful assistant."]},
    },
    serving={
        "queue": {"maxRequests": 1000, "timeoutSeconds": 60},
        "batching": {"policy": "SizeOrWait", "maxSize": 32, "maxWaitMilliseconds": 20},
        "mergeWindowMilliseconds": 10,
        "limits": {
            "sequencesPerTenant": 64,
            "tokensPerTenant": 200_000,
            "sequencesPerSession": 4,
            "tokensPerSession": 32_000,
        },
        "hold": {"maxRequests": 100, "timeoutSeconds": 120},
        "routing": {"policy": "PrefixAffinity"},
        "inferencePool": {"endpointPickerRef": {"name": "picker", "port": 9002, "failureMode": "FailOpen"}},
        "responseCache": {"maxEntries": 500, "ttlSeconds": 60},
        "brokenStream": "Complete",
    },
    idle={"policy": "Yield", "afterSeconds": 300},
    rollout={"maxSurge": "50%", "maxUnavailable": 1, "canaryWeight": 10, "progressDeadlineSeconds": 60},
    podTemplate={
        "image": "registry.example.com:5000/runtime@sha256:" + "0" * 64,
        "nodeSelector": {"topology.kubernetes.io/zone": "a", "gpu": ""},
        "tolerations": [
            {"operator": "Exists"},
            {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
        ],
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}, {"name": "registry.eu"}],
    },
)

GOOD = (
    Good("the smallest object", model()),
    Good("every field at once", EVERYTHING),
    Good("the longest name", model("a" * MAX_NAME_LENGTH)),
    Good("no replicas", model(replicas=0)),
    Good("empty blocks", model(engine={}, resources={}, rollout={}, podTemplate={}, serving={}, coldStart={})),
    Good(
        "empty blocks in blocks",
        model(
            engine={"parallelism": {}}, serving={"queue": {}, "batching": {}, "limits": {}}, coldStart={"warmup": {}}
        ),
    ),
    Good("the old goes before the new comes", model(rollout={"maxSurge": 0, "maxUnavailable": "100%"})),
    Good("pools by preference", model(pools=["h100", "a100.eu"])),
    Good("no pools beside a pod template", model(pools=[], podTemplate={"runtimeClassName": "nvidia"})),
    Good("GPUs by parallelism alone", model(engine={"parallelism": {"tensor": 4}}, resources={"gpuMemory": "40Gi"})),
    Good("several processes on CPU", model(engine={"parallelism": {"tensor": 2}}, resources={"gpus": 0})),
    Good("GPUs without parallelism", model(resources={"gpus": 3})),
    Good(
        "an adapter of the object's name beside other served names",
        model(
            model=VLLM_MODEL | {"servedNames": ["a"], "adapters": [{"name": NAME, "uri": "file:///models/sql-lora"}]}
        ),
    ),
    Good("batches of the engine's own size", model(serving={"batching": {"policy": "Static"}})),
    Good(
        "parallelism of a Simulated engine",
        model(engine=SIMULATED | {"parallelism": {"tensor": 8}}, resources={"gpuMemory": "80Gi"}),
    ),
    Good("a Simulated engine from any source", model(engine=SIMULATED, model={"uri": "hf://org/model"})),
    Good(
        "a fault of a Simulated engine",
        model(engine=SIMULATED | {"simulated": {"memory": "1.5Gi", "fault": {"kind": "CrashAtStart"}}}),
    ),
    Good("weights from a registry", model(model={"uri": "oci://registry.example.com/models/llama:3.1"})),
    Good("weights in a bucket", model(model={"uri": "gs://models/llama", "revision": "v1"})),
    Good("a draft model from another source", model(engine={"speculative": {"uri": "hf://org/draft", "tokens": 5}})),
    Good("weights on many nodes", model(coldStart={"preloadNodes": 64})),
    Good("a fractional quantity", model(resources={"cpu": "0.5", "memory": "1e9"})),
    Good("a whole number as quantity", model(resources={"cpu": 0, "memory": 2**30})),
)

BAD = (
    # What the structure refuses.
    Bad("an unknown field", model(replica=2), "spec.replica", "unknown field"),
    Bad("an unknown field deep inside", model(engine={"arg": []}), "spec.engine.arg", "unknown field"),
    Bad("no model", model() | {"spec": {}}, "spec.model", "Required value"),
    Bad("no spec", {key: value for key, value in model().items() if key != "spec"}, "spec", "Required value"),
    Bad("no uri", model(model={}), "spec.model.uri", "Required value"),
    Bad("an empty uri", model(model={"uri": ""}), "spec.model.uri", "at least 1 chars long"),
    Bad("a bad enum", model(priority="Urgent"), "spec.priority", '"Critical", "High", "Normal", "Low"'),
    Bad(
        "a rollout that could change nothing",
        model(rollout={"maxSurge": "0%"}),
        "spec.rollout",
        "both 0, so nothing could ever be replaced",
    ),
    Bad(
        "a canary without room beside the others",
        model(rollout={"maxSurge": 0, "maxUnavailable": 1, "canaryWeight": 10}),
        "spec.rollout",
        "a canary starts beside what serves",
    ),
    Bad(
        "a canary that gets everything",
        model(rollout={"canaryWeight": 100}),
        "spec.rollout.canaryWeight",
        "less than or equal to 99",
    ),
    Bad("a share of 101 %", model(rollout={"maxSurge": "101%"}), "spec.rollout.maxSurge", "should match"),
    Bad("an enum in other letters", model(engine={"type": "vllm"}), "spec.engine.type", '"VLLM", "Simulated"'),
    Bad("a negative number", model(replicas=-1), "spec.replicas", "greater than or equal to 0"),
    Bad("a number that is too large", model(replicas=1001), "spec.replicas", "less than or equal to 1000"),
    Bad("words for a number", model(replicas="two"), "spec.replicas", "must be of type integer"),
    Bad("a fraction for a number", model(replicas=1.5), "spec.replicas", "must be of type integer"),
    Bad("a list for a block", model(engine=[]), "spec.engine", "must be of type object"),
    Bad("context length 0", model(engine={"maxModelLen": 0}), "spec.engine.maxModelLen", "greater than or equal to 1"),
    Bad("half a GPU", model(resources={"gpus": 0.5}), "spec.resources.gpus", "must be of type integer"),
    Bad("a size with a space", model(resources={"memory": "16 Gi"}), "spec.resources.memory", "should match"),
    Bad("a size with an unknown unit", model(resources={"memory": "16GB"}), "spec.resources.memory", "should match"),
    Bad("a negative size", model(resources={"memory": "-1Gi"}), "spec.resources.memory", "should match"),
    Bad("a negative amount", model(resources={"cpu": -1}), "spec.resources.cpu", "greater than or equal to 0"),
    Bad("a boolean as quantity", model(resources={"cpu": [1]}), "spec.resources.cpu", "must be of type"),
    Bad(
        "a resource without a domain",
        model(resources={"gpus": 1, "gpuResource": "gpu"}),
        "spec.resources.gpuResource",
        "should match",
    ),
    Bad(
        "a split into no parts",
        model(engine={"parallelism": {"tensor": 0}}),
        "spec.engine.parallelism.tensor",
        "greater than or equal to 1",
    ),
    Bad(
        "quantization in words",
        model(engine={"quantization": "8 bits"}),
        "spec.engine.quantization",
        "should match",
    ),
    Bad(
        "a draft model that proposes nothing",
        model(engine={"speculative": {"uri": "file:///models/draft", "tokens": 0}}),
        "spec.engine.speculative.tokens",
        "greater than or equal to 1",
    ),
    Bad(
        "a draft model without its tokens",
        model(engine={"speculative": {"uri": "file:///models/draft"}}),
        "spec.engine.speculative.tokens",
        "Required value",
    ),
    Bad(
        "an adapter's name with a space",
        model(model=VLLM_MODEL | {"adapters": [{"name": "my sql", "uri": "file:///models/sql-lora"}]}),
        "spec.model.adapters[0].name",
        "should match",
    ),
    Bad(
        "an adapter's name twice",
        model(
            model=VLLM_MODEL
            | {"adapters": [{"name": "sql", "uri": "file:///models/a"}, {"name": "sql", "uri": "file:///models/b"}]}
        ),
        "spec.model.adapters",
        "Duplicate value",
    ),
    Bad("a pool twice", model(pools=["a", "a"]), "spec.pools", "Duplicate value"),
    Bad("a pool's name that no pool can have", model(pools=["H100"]), "spec.pools[0]", "should match"),
    Bad("a queue without room", model(serving={"queue": {"maxRequests": 0}}), "spec.serving.queue.maxRequests", "than"),
    Bad(
        "an unknown policy",
        model(serving={"batching": {"policy": "Greedy"}}),
        "spec.serving.batching.policy",
        '"Continuous", "Static", "Dynamic", "SizeOrWait"',
    ),
    Bad(
        "a policy of routers that is none",
        model(serving={"routing": {"policy": "Random"}}),
        "spec.serving.routing.policy",
        '"Score", "LeastLoaded"',
    ),
    Bad(
        "an idle time of engines that are kept awake",
        model(idle={"policy": "Keep", "afterSeconds": 60}),
        "spec.idle",
        "idle.policy Keep keeps all replicas awake; remove idle.afterSeconds, or write policy Yield",
    ),
    Bad(
        "a limit of nothing",
        model(serving={"limits": {"sequencesPerTenant": 0}}),
        "spec.serving.limits.sequencesPerTenant",
        "greater than or equal to 1",
    ),
    Bad(
        "a merge window of nothing",
        model(serving={"mergeWindowMilliseconds": 0}),
        "spec.serving.mergeWindowMilliseconds",
        "greater than or equal to 1",
    ),
    Bad(
        "a warm-up of nothing",
        model(coldStart={"warmup": {"requests": 0}}),
        "spec.coldStart.warmup.requests",
        "greater than or equal to 1",
    ),
    Bad(
        "an empty prompt",
        model(coldStart={"warmup": {"prompts": [""]}}),
        "spec.coldStart.warmup.prompts[0]",
        "at least 1 chars long",
    ),
    Bad(
        "too many arguments",
        model(engine={"args": ["--verbose"] * 65}),
        "spec.engine.args",
        "must have at most 64 items",
    ),
    Bad("an empty argument", model(engine={"args": [""]}), "spec.engine.args[0]", "at least 1 chars long"),
    Bad(
        "a variable that no shell could set",
        model(engine={"env": [{"name": "9=LIVES"}]}),
        "spec.engine.env[0].name",
        "should match",
    ),
    Bad(
        "a variable twice",
        model(engine={"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}),
        "spec.engine.env",
        "Duplicate value",
    ),
    Bad(
        "a served name twice",
        model(model=VLLM_MODEL | {"servedNames": ["a", "a"]}),
        "spec.model.servedNames",
        "Duplicate value",
    ),
    Bad(
        "no served names",
        model(model=VLLM_MODEL | {"servedNames": []}),
        "spec.model.servedNames",
        "should have at least 1 items",
    ),
    Bad(
        "an image with a space",
        pod_template(image="a image"),
        "spec.podTemplate.image",
        "should match",
    ),
    Bad(
        "a label value that no node can have",
        pod_template(nodeSelector={"zone": "a b"}),
        "spec.podTemplate.nodeSelector.zone",
        "should match",
    ),
    Bad(
        "a secret's name that no secret can have",
        pod_template(imagePullSecrets=[{"name": "My_Secret"}]),
        "spec.podTemplate.imagePullSecrets[0].name",
        "should match",
    ),
    Bad(
        "an unknown effect",
        pod_template(tolerations=[{"key": "a", "effect": "NoSchedules"}]),
        "spec.podTemplate.tolerations[0].effect",
        '"NoSchedule", "PreferNoSchedule", "NoExecute"',
    ),
    # What our rules refuse; both sides say the same words.
    Bad(
        "a name that is too long", model("a" * (MAX_NAME_LENGTH + 1)), "metadata.name", "at most 50 lower-case letters"
    ),
    Bad("a name with a dot", model("qwen3-0.6b"), "metadata.name", "at most 50 lower-case letters"),
    Bad("a name that begins with a digit", model("7b"), "metadata.name", "at most 50 lower-case letters"),
    Bad(
        "a uri without a scheme", model(model={"uri": "/models/tiny"}), "spec.model.uri", "model.uri starts with hf://"
    ),
    Bad(
        "a uri with a space",
        model(model={"uri": "file:///models/my model"}),
        "spec.model.uri",
        "model.uri starts with hf://",
    ),
    Bad(
        "weights from a place that can't be read",
        model(model={"uri": "ftp://Qwen/Qwen3-0.6B"}),
        "spec.model.uri",
        "model.uri starts with hf://",
    ),
    Bad(
        "a file on another host",
        model(model={"uri": "file://server/models"}),
        "spec.model.uri",
        "model.uri starts with hf://",
    ),
    Bad(
        "a credential for a folder",
        model(model=VLLM_MODEL | {"secretRef": {"name": "token"}}),
        "spec.model.secretRef",
        "a folder of the nodes needs no credential",
    ),
    Bad(
        "a revision with a space",
        model(model={"uri": "hf://a/b", "revision": "my branch"}),
        "spec.model.revision",
        "should match",
    ),
    Bad(
        "weights on more nodes than may be asked for",
        model(coldStart={"preloadNodes": 65}),
        "spec.coldStart.preloadNodes",
        "less than or equal to 64",
    ),
    Bad(
        "a revision of a Simulated engine",
        model(engine=SIMULATED, model={"uri": "hf://a/b", "revision": "main"}),
        "spec.model",
        "a Simulated engine loads none",
    ),
    Bad(
        "preloaded weights of a Simulated engine",
        model(engine=SIMULATED, coldStart={"preloadNodes": 1}),
        "spec.model",
        "a Simulated engine loads none",
    ),
    Bad(
        "behaviour of a Simulated engine beside VLLM",
        model(engine={"simulated": {}}),
        "spec.engine",
        "engine.simulated belongs to engine.type: Simulated",
    ),
    Bad(
        "arguments for a Simulated engine",
        model(engine=SIMULATED | {"args": ["--enforce-eager"]}),
        "spec.engine",
        "a Simulated engine takes none",
    ),
    Bad(
        "quantization of a Simulated engine",
        model(engine=SIMULATED | {"quantization": "fp8"}),
        "spec.engine",
        "a Simulated engine computes nothing",
    ),
    Bad(
        "adapters of a Simulated engine",
        model(engine=SIMULATED, model=VLLM_MODEL | {"adapters": [{"name": "sql", "uri": "file:///models/sql-lora"}]}),
        "spec.model.adapters",
        "a Simulated engine loads nothing",
    ),
    Bad(
        "an adapter without a scheme",
        model(model=VLLM_MODEL | {"adapters": [{"name": "sql", "uri": "/models/sql-lora"}]}),
        "spec.model.adapters[0].uri",
        "the uri of an adapter starts with hf://",
    ),
    Bad(
        "an adapter of the model's own name",
        model(model=VLLM_MODEL | {"adapters": [{"name": NAME, "uri": "file:///models/sql-lora"}]}),
        "spec.model.adapters",
        "a name under which the model itself is served",
    ),
    Bad(
        "an adapter of a served name",
        model(model=VLLM_MODEL | {"servedNames": ["a"], "adapters": [{"name": "a", "uri": "file:///models/sql-lora"}]}),
        "spec.model.adapters",
        "a name under which the model itself is served",
    ),
    Bad(
        "a draft model with a space",
        model(engine={"speculative": {"uri": "file:///models/my draft", "tokens": 5}}),
        "spec.engine.speculative.uri",
        "engine.speculative.uri starts with hf://",
    ),
    Bad(
        "more GPUs than a node has",
        model(engine={"parallelism": {"tensor": 8, "pipeline": 8, "data": 2}}),
        "spec.engine.parallelism",
        "multiplies to more than 64 GPUs",
    ),
    Bad(
        "GPUs that are not the product of parallelism",
        model(engine={"parallelism": {"tensor": 2, "data": 2}}, resources={"gpus": 2}),
        "spec.resources.gpus",
        "is not the product of engine.parallelism",
    ),
    Bad(
        "memory of GPUs without GPUs",
        model(resources={"gpuMemory": "40Gi"}),
        "spec.resources.gpuMemory",
        "resources.gpuMemory is of GPUs, and there are none",
    ),
    Bad(
        "memory of GPUs on CPU",
        model(engine={"parallelism": {"tensor": 2}}, resources={"gpus": 0, "gpuMemory": "40Gi"}),
        "spec.resources.gpuMemory",
        "resources.gpuMemory is of GPUs, and there are none",
    ),
    Bad(
        "the size of a batch where there are none",
        model(serving={"batching": {"maxSize": 8}}),
        "spec.serving.batching",
        "policy Continuous makes none",
    ),
    Bad(
        "a pod template beside pools",
        model(pools=["h100"], podTemplate={"runtimeClassName": "nvidia"}),
        "spec.podTemplate",
        "podTemplate is for runners of the model's own",
    ),
    Bad("memory without its unit", model(resources={"memory": 16}), "spec.resources.memory", "was a unit such as Gi"),
    Bad("memory in thousandths", model(resources={"memory": "500m"}), "spec.resources.memory", "was a unit such as Gi"),
    Bad(
        "a toleration without a key",
        pod_template(tolerations=[{"value": "present"}]),
        "spec.podTemplate.tolerations[0]",
        "needs operator: Exists",
    ),
    Bad(
        "a toleration of any value with a value",
        pod_template(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        "spec.podTemplate.tolerations[0]",
        "takes no value",
    ),
    Bad(
        "a label key that no node can have",
        pod_template(nodeSelector={"my zone": "a"}),
        "spec.podTemplate.nodeSelector",
        "a key that no label can have",
    ),
)
