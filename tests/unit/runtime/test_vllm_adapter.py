"""The vLLM adapter: what it executes, and what it reads from vLLM's log (lines of real runs of vLLM 0.32)."""

from pathlib import Path

import msgspec
import pytest

from warmfleet_api.artifacts import cache_name
from warmfleet_api.assignment import EngineAssignment, EngineSpec, EnvVar, LoraAdapter, Parallelism, Speculative
from warmfleet_api.vocabulary import EngineType, Reason, Stage
from warmfleet_runtime.engines.port import Observation, Place
from warmfleet_runtime.engines.vllm import VllmAdapter
from warmfleet_runtime.engines.vllm_serve import RANK, rank_option, serve_arguments

ADAPTER = VllmAdapter()
PLACE = Place(Path("/run/warmfleet/m-0.sock"), cache=Path("/var/cache/warmfleet"), weights=Path("/weights"))


def assigned(**fields: object) -> EngineAssignment:
    spec = {"type": EngineType.VLLM, "uri": "file:///models/m", "served_names": ("m", "alias"), **fields}
    return EngineAssignment(id="m-0", model="m", model_uid="u", hash="h", gpus=(1, 2), engine=EngineSpec(**spec))  # type: ignore[arg-type]


def test_the_command_is_vllm_serve_on_the_socket_with_the_person_s_options_last() -> None:
    command = ADAPTER.command(assigned(max_model_len=512, args=("--enforce-eager",)), PLACE, {}).arguments
    serve = command[command.index("--") + 1 :]
    assert " ".join(serve[1:]) == (
        "-m vllm.entrypoints.cli.main serve /weights --uds /run/warmfleet/m-0.sock --served-model-name m alias "
        "--max-model-len 512 --enable-sleep-mode --disable-uvicorn-access-log --enforce-eager"
    )


FOLDERS = {
    "adapters": (
        LoraAdapter(name="sql", uri="file:///models/sql", folder="/weights/sql"),
        LoraAdapter(name="org/style:2", uri="file:///models/style", folder="/weights/style"),
    ),
    "speculative": Speculative(uri="file:///models/draft", folder="/weights/draft", tokens=5),
}


def serve(gpus: tuple[int, ...] = (0,), **fields: object) -> list[str]:
    """What follows `serve FOLDER --uds SOCKET --served-model-name NAME…`, up to the options of every engine."""
    engine = msgspec.structs.replace(assigned(**fields), gpus=gpus)
    found = list(serve_arguments(engine, Path("/run/m.sock")))
    return found[found.index("alias") + 1 : found.index("--disable-uvicorn-access-log")]


def test_typed_options_are_vllm_s_own() -> None:
    assert serve(parallelism=Parallelism(tensor=2, data=3), quantization="fp8") == [
        *("--tensor-parallel-size", "2", "--data-parallel-size", "3"),
        *("--quantization", "fp8"),
        "--enable-sleep-mode",
    ]
    assert serve(speculative=FOLDERS["speculative"])[:2] == [
        "--speculative-config",
        '{"model":"/weights/draft","num_speculative_tokens":5}',
    ]


def test_adapters_stay_in_memory_and_their_rank_is_left_to_the_check_of_their_folders() -> None:
    assert serve(adapters=FOLDERS["adapters"])[:-1] == [
        *("--enable-lora", "--max-cpu-loras", "2", "--max-loras", "2", "--max-lora-rank", RANK),
        "--lora-modules",
        '{"name":"sql","path":"/weights/sql"}',
        '{"name":"org/style:2","path":"/weights/style"}',
    ]


@pytest.mark.parametrize(
    ("args", "sizes"),
    [
        (("--max-loras", "1"), ["--max-cpu-loras", "2", "--max-lora-rank", RANK]),
        (("--max-loras", "4"), ["--max-cpu-loras", "4", "--max-lora-rank", RANK]),
        (("--max-cpu-loras", "1"), ["--max-loras", "1", "--max-lora-rank", RANK]),
        (("--max-lora-rank", "64"), ["--max-cpu-loras", "2", "--max-loras", "2"]),
    ],
    ids=str,
)
def test_sizes_for_adapters_yield_to_the_person_s(args: tuple[str, ...], sizes: list[str]) -> None:
    found = serve(adapters=FOLDERS["adapters"], args=args)
    assert found[1 : found.index("--lora-modules")] == sizes


def test_a_fork_runs_what_an_exec_runs() -> None:
    command = ADAPTER.command(assigned(**FOLDERS), PLACE, {})
    assert command.fork_arguments is not None
    name = cache_name(assigned(**FOLDERS).engine)
    executed, forked = list(command.arguments), list(command.fork_arguments)
    assert forked[: forked.index("--")] == [
        *("/weights", "file:///models/m"),
        *("draft", "/weights/draft", "file:///models/draft"),
        *("adapter", "/weights/sql", "file:///models/sql"),
        *("adapter", "/weights/style", "file:///models/style"),
        *("compile-cache", f"/var/cache/warmfleet/{name}", f"/weights/{name}"),
    ]
    assert executed[3 : executed.index("--")] == forked[: forked.index("--")]
    assert executed[executed.index("serve") :] == forked[forked.index("serve") :]


@pytest.mark.parametrize(
    ("gpus", "fields", "sequences"),
    [
        ((), {}, 128),
        ((), {"parallelism": Parallelism(tensor=2)}, 256),
        ((0,), {}, 256),
        ((0, 1), {"parallelism": Parallelism(tensor=2)}, 256),
        ((0, 1), {"parallelism": Parallelism(data=2)}, 512),
        ((0, 1), {"args": ("-dp", "2", "--max-num-seqs", "8")}, 16),
        ((0,), {"args": ("--max_num_seqs=8",)}, 8),
        ((0,), {"args": ("--max-num-seqs", "1k")}, 1000),
        ((0,), {"args": ("--max-num-batched-tokens", "64")}, 64),
        ((0,), {"args": ("--performance-mode", "throughput")}, 512),
        ((0,), {"args": ("--max-num-seqs", "64", "--max-num-active-seqs", "16")}, 16),
        ((0,), {"args": ("--max-num-seqs", "many")}, 256),
    ],
    ids=str,
)
def test_how_much_an_engine_runs_at_once_is_known_before_it_starts(
    gpus: tuple[int, ...], fields: dict[str, object], sequences: int
) -> None:
    assert ADAPTER.max_sequences(msgspec.structs.replace(assigned(**fields), gpus=gpus)) == sequences


def test_the_rank_is_the_least_that_takes_every_adapter() -> None:
    assert [rank_option(rank) for rank in (1, 4, 8, 9, 65, 512)] == ["1", "8", "8", "16", "128", "512"]
    assert rank_option(1000) == "1000", "vLLM says that it is too high"


def test_the_environment_tells_nobody_fetches_nothing_and_yields_to_the_person_s() -> None:
    engine = assigned(env=(EnvVar(name="OMP_NUM_THREADS", value="2"), EnvVar(name="HF_HUB_OFFLINE", value="0")))
    environment = ADAPTER.command(engine, PLACE, {"PATH": "/bin"}).environment
    expected = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "2",
        "VLLM_CACHE_ROOT": f"/var/cache/warmfleet/{cache_name(engine.engine)}/vllm",
    }
    assert {name: environment[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "observation"),
    [
        ("warmfleet weight bytes: 1707456", Observation(weight_bytes=1707456)),
        (
            "(Worker pid=1) INFO 11-21 07:23:48 [cpu_model_runner.py:68] Starting to load model /weights...",
            Observation(Stage.ENGINE_FORKED),
        ),
        (
            "(Worker pid=1) INFO 11-21 07:23:48 [default_loader.py:501] Loading weights took 0.01 seconds",
            Observation(Stage.WEIGHTS_LOADED),
        ),
        ("(Worker pid=1) INFO [monitor.py:48] torch.compile took 12.31 s in total", Observation(Stage.COMPILED)),
        (
            "(Worker pid=1) INFO 11-21 18:12:00 [cpu_model_runner.py:91] Warming up done.",
            Observation(Stage.COMPILED),
        ),
        (
            "(Worker pid=1) INFO 11-21 18:11:17 [cpu_model_runner.py:87] Warming up model for the compilation...",
            Observation(),
        ),
        ("warmfleet compile cache files: 41", Observation(compile_cache_files=41)),
        (
            "(EngineCore pid=1) INFO [core.py:402] init engine (profile, create kv cache, warmup model) took 0.04 s",
            Observation(Stage.CACHE_ALLOCATED),
        ),
        ("Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:20<00:20, 10.1s/it]", Observation()),
        ("(APIServer pid=1) INFO [launcher.py:195] Route: /health, Methods: GET", None),
    ],
)
def test_stages_and_signs_of_life_are_read_from_the_log(line: str, observation: Observation | None) -> None:
    assert ADAPTER.observe(line) == observation


CORE = "(EngineCore pid=9) ERROR 11-21 08:20:16 [core.py:1510] "
GAVE_UP = "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above. Failed: {}"


@pytest.mark.parametrize(
    ("exit_code", "log", "reason", "words"),
    [
        (
            2,
            ["usage: vllm serve [model_tag] [options]", "main.py: error: unrecognized arguments: --no-such-option 3"],
            Reason.INVALID_ARGS,
            "vllm serve: unrecognized arguments: --no-such-option 3; correct engine.args",
        ),
        (
            2,
            ["main.py serve: error: argument --max-num-seqs: invalid int value: 'many'"],
            Reason.INVALID_ARGS,
            "argument --max-num-seqs: invalid int value: 'many'; correct engine.args",
        ),
        (
            1,
            [
                "(APIServer pid=7) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "(APIServer pid=7)   Value error, User-specified max_model_len (100000) is greater than the derived "
                "one [type=value_error, input_value=ArgsKwargs(()), input_type=ArgsKwargs]",
                "(APIServer pid=7)     For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            ],
            Reason.INVALID_ARGS,
            "vllm serve: User-specified max_model_len (100000) is greater than the derived one; correct",
        ),
        (
            1,
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig",
                "  Value error, Target and draft model should have the same vocabulary size. Target model "
                "vocab_size=378. Draft model vocab_size=309. [type=value_error, input_value=ArgsKwargs(())]",
            ],
            Reason.INVALID_ARGS,
            "Draft model vocab_size=309; correct engine.speculative",
        ),
        (
            1,
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig",
                "  Value error, Cannot find the config file for awq [type=value_error, input_value=ArgsKwargs(())]",
            ],
            Reason.INVALID_ARGS,
            "the weights are not quantized so; correct engine.quantization",
        ),
        (
            1,
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig",
                "  Value error, Total number of attention heads (4) must be divisible by tensor parallel size (3). "
                "[type=value_error, input_value=ArgsKwargs(())]",
            ],
            Reason.INVALID_ARGS,
            "divisible by tensor parallel size (3); correct engine.parallelism or resources.gpus",
        ),
        (
            1,
            [
                "(Worker pid=9) ERROR 11-21 11:34:23 [multiproc_executor.py:953] RuntimeError: "
                "_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 argument(s).",
                GAVE_UP,
            ],
            Reason.INVALID_ARGS,
            "this quantization does not run on this device",
        ),
        (
            1,
            [
                "(APIServer pid=7) INFO 11-21 11:27:29 [serving.py:226] Loaded new LoRA adapter: name 'sql', path '/w'",
                "ValueError: Call to add_lora method failed: Worker failed with error 'The size of tensor a (128) must "
                "match the size of tensor b (256)', please check the stack trace above for the root cause",
            ],
            Reason.INVALID_ARGS,
            "the adapter after sql of model.adapters can't be served with this model: The size of tensor a (128) must "
            "match the size of tensor b (256); correct it or remove it",
        ),
        (
            1,
            [
                "ValueError: Call to add_lora method failed: Worker failed with error 'LoRA rank 4 is greater than "
                "max_lora_rank 1.', please check the stack trace above for the root cause",
            ],
            Reason.INVALID_ARGS,
            "the first adapter of model.adapters can't be served with this model: LoRA rank 4 is greater than "
            "max_lora_rank 1; raise --max-lora-rank in engine.args",
        ),
        (
            1,
            [CORE + "ValueError: No available memory for the cache blocks. Try increasing", GAVE_UP],
            Reason.INVALID_ARGS,
            "lower engine.maxModelLen, or raise resources.memory",
        ),
        (
            1,
            [CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", GAVE_UP],
            Reason.ENGINE_CRASHING,
            "vLLM ran out of memory (torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB); raise",
        ),
        (-9, ["(APIServer pid=7) INFO serving"], Reason.ENGINE_CRASHING, "ran out of memory (was killed by signal 9)"),
        (
            1,
            [
                "json.decoder.JSONDecodeError: Expecting property name: line 1",
                "OSError: It looks like the tokenizer is not valid",
                GAVE_UP,
            ],
            Reason.ENGINE_CRASHING,
            "vLLM exited with code 1: OSError: It looks like the tokenizer is not valid",
        ),
        (
            78,
            ['warmfleet refused: {"reason":"UnsafeFormat","message":"only x.bin; convert it"}'],
            Reason.UNSAFE_FORMAT,
            "only x.bin; convert it",
        ),
        (1, [], Reason.ENGINE_CRASHING, "vLLM exited with code 1"),
    ],
)
def test_an_exit_is_explained_by_its_cause_and_says_what_to_change(
    exit_code: int, log: list[str], reason: Reason, words: str
) -> None:
    error = ADAPTER.explain(exit_code, log)
    assert error.reason is reason
    assert words in error.message
