"""The vLLM adapter: what it executes, and what it reads from vLLM's log (lines of real runs of vLLM 0.32)."""

from pathlib import Path

import pytest

from warmfleet_api.assignment import EngineAssignment, EngineSpec, EnvVar
from warmfleet_api.vocabulary import EngineType, Reason, Stage
from warmfleet_runtime.engines.port import Observation, Place
from warmfleet_runtime.engines.vllm import VllmAdapter

ADAPTER = VllmAdapter()
PLACE = Place(socket=Path("/run/warmfleet/m-0.sock"), cache=Path("/var/cache/warmfleet"))


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
        "VLLM_CACHE_ROOT": "/var/cache/warmfleet/m-0/vllm",
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
