"""Every private name of vLLM that a forked engine rests on, checked before the first fork.

vLLM may rename or reshape any of them in any release. So each is looked up with its parameters and the version is
compared; whatever does not hold is named, and engines are executed instead.
"""

import contextlib
import gc
import importlib
import inspect
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

VERSION = "0.32.0"
"""The release these names were read in; a test compares it with the image's lock."""
METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
"""Variable that says how an engine starts its own processes."""
SPAWN = "spawn"

_REGISTRY = "vllm.model_executor.models.registry"

_PARAMETERS = {
    "vllm.utils.system_utils:get_mp_context": (),
    "vllm.utils.system_utils:_maybe_force_spawn": (),
    "vllm.platforms.interface:Platform.register_triton_kernel_overrides": (),
    f"{_REGISTRY}:_run_in_subprocess": ("fn",),
    "vllm.entrypoints.cli.serve:ServeSubcommand.cmd": ("args",),
    "vllm.entrypoints.cli.serve:ServeSubcommand.validate": ("self", "args"),
    "vllm.entrypoints.cli.serve:ServeSubcommand.subparser_init": ("self", "subparsers"),
    "vllm.logger:configure_logging_from_args": ("args",),
}
"""`module:name` and the parameters it is called with."""
_CONTEXT_HOLDERS = (
    "vllm.utils.system_utils",
    "vllm.v1.engine.coordinator",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
)
"""Modules that hold `get_mp_context` under that name, which says how an engine starts its own processes."""
_IMPORTS = (
    "uvloop",
    "vllm.entrypoints.cli.serve",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.core.sched.scheduler",
    "vllm.model_executor.model_loader",
    _REGISTRY,
)
"""Without these nothing can be forked."""
_WORTH_IMPORTING = (
    *("httptools", "multiprocessing.resource_tracker"),
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.websockets.websockets_sansio_impl"),
    *("model_hosting_container_standards.sagemaker", "prometheus_fastapi_instrumentator"),
    *("transformers.models.auto.tokenization_auto", "transformers.tokenization_utils_tokenizers"),
    *("vllm.compilation.decorators", "vllm.distributed.elastic_ep.elastic_execute", "vllm.renderers.hf"),
    *("vllm.entrypoints.launchers.app", "vllm.entrypoints.launchers.api_server.app_state"),
    *("vllm.entrypoints.anthropic.api_router", "vllm.entrypoints.cohere.api_router"),
    "vllm.entrypoints.generate.generative_scoring.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.scale_out.derender.api_router",
    "vllm.entrypoints.scale_out.factories",
    "vllm.entrypoints.scale_out.render.api_router",
    "vllm.entrypoints.scale_out.token_in_token_out.api_router",
    "vllm.entrypoints.serve.elastic_ep.api_router",
    "vllm.entrypoints.serve.instrumentator.metrics",
    "vllm.entrypoints.serve.instrumentator.offline_docs",
    "vllm.entrypoints.serve.lora.api_router",
    "vllm.entrypoints.serve.profile.api_router",
    "vllm.entrypoints.serve.tokenize.api_router",
    "vllm.entrypoints.serve.utils.orca_metrics",
    "vllm.model_executor.layers.mamba.mamba_utils",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.models.config",
    "vllm.model_executor.models.llama",
    "vllm.tokenizers",
    "vllm.triton_utils.dispatcher",
    "vllm.v1.pool.flash_maxsim",
    "vllm.v1.sample.sampler",
    "vllm.v1.spec_decode.metadata",
    "vllm.v1.structured_output",
    "vllm.v1.worker.gpu_worker",
    "warmfleet_runtime.engines.vllm_sleep.plugin",
)
"""What a start would import after the fork otherwise (`-X importtime` says what, and how long it takes)."""
_WORTH_IMPORTING_ON_CPU = (
    *("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner", "vllm.v1.worker.cpu.shm"),
    *("warmfleet_runtime.engines.vllm_sleep.worker", "warmfleet_runtime.engines.vllm_sleep.backend"),
)


class MismatchError(Exception):
    """This vLLM is not the one whose private names are known; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Vllm:
    """An imported vLLM that can be turned into a server."""

    parser: Any
    subcommand: Any
    configure_logging: Any
    original_context: Any

    def serve(self, arguments: Sequence[str], *, forks: bool) -> None:
        """Do what `vllm <arguments>` does, in this process, until it ends.

        `forks`: its own processes are forked too, where vLLM itself sees no reason against that.

        Raises:
            SystemExit: arguments that vLLM refuses, as its command does.
        """
        sys.argv = ["vllm", *arguments]
        _call_oneself(" ".join(sys.argv))
        os.environ.setdefault(METHOD, SPAWN)  # as the command does, and checks of the configuration expect
        args = self.parser.parse_args(list(arguments))
        self.configure_logging(args)
        self.subcommand.validate(args)
        if (
            forks and getattr(args, "mm_tensor_ipc", None) != "torch_shm"
        ):  # which shares tensors with spawned processes only
            self._let_fork()
        self.subcommand.cmd(args)

    def _let_fork(self) -> None:
        for name in _CONTEXT_HOLDERS:
            vars(sys.modules[name])["get_mp_context"] = self._forking_context
        # It looks at a model's class in a process of its own, for which it would import itself anew.
        vars(sys.modules[_REGISTRY])["_run_in_subprocess"] = run_in_copy

    def _forking_context(self) -> Any:
        # The command line asks for `spawn` and so does the platform of CPUs, both for what a process may have done
        # before it forks; this one did nothing. vLLM's own checks run after this, and may still ask for `spawn`.
        os.environ[METHOD] = "fork"
        try:
            return self.original_context()
        finally:
            os.environ[METHOD] = SPAWN


def load() -> Vllm:
    """Import all that a start needs, and check the names.

    Raises:
        MismatchError: another version, or a name or signature that does not hold.
    """
    _call_oneself("warmfleet zygote")  # at first, as long as the environment lies where the kernel put it
    gc.disable()  # nothing that imports make is garbage
    check_version(importlib.import_module("vllm"))
    missing = []
    for name in (*_CONTEXT_HOLDERS, *_IMPORTS):
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} can't be imported ({error})")
    if problems := [*missing, *unmet()]:
        raise MismatchError(f"vLLM {VERSION} is not as expected: {'; '.join(problems)}")
    platform = importlib.import_module("vllm.platforms").current_platform
    for name in (*_WORTH_IMPORTING, *(_WORTH_IMPORTING_ON_CPU if platform.is_cpu() else ())):
        with contextlib.suppress(ImportError):  # then an engine that needs it says so
            importlib.import_module(name)
    # Each worker would look through all modules for these, 0.3 s, and unshare the pages it looks at.
    platform.register_triton_kernel_overrides()
    platform.register_triton_kernel_overrides = _nothing
    return _assemble()


def check_version(vllm: ModuleType) -> None:
    """Compare the version.

    Raises:
        MismatchError: it is another one.
    """
    version = getattr(vllm, "__version__", "of no version")
    if version != VERSION:
        raise MismatchError(f"vLLM {version} is installed; engines are forked with {VERSION} only")


def unmet() -> list[str]:
    """Say for each private name that does not hold what is wrong with it."""
    problems = []
    for path, expected in _PARAMETERS.items():
        try:
            parameters = tuple(inspect.signature(_find(path)).parameters)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            problems.append(f"{path} is missing ({error})")
            continue
        if parameters != expected:
            problems.append(f"{path} takes ({', '.join(parameters)}) instead of ({', '.join(expected)})")
    original = getattr(sys.modules.get(_CONTEXT_HOLDERS[0]), "get_mp_context", None)
    problems += [
        f"{name} has no get_mp_context of vLLM's own"
        for name in _CONTEXT_HOLDERS
        if getattr(sys.modules.get(name), "get_mp_context", None) is not original
    ]
    return problems


def run_in_copy(fn: Callable[[], Any]) -> Any:
    """Return what `fn` returns in a copy of this process, which keeps what it does to itself.

    Raises:
        RuntimeError: it raised, which the log tells, or returned what can't be pickled.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(fn, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("a copy of this process ended without a result; its error is above") from None
    finally:
        receiver.close()
        process.join()


def _send_result(fn: Callable[[], Any], sender: "Connection[Any, Any]") -> None:
    sender.send(fn())


def _assemble() -> Vllm:
    """Build what can be built before an engine is known; the parser alone takes a second."""
    parser = _find("vllm.utils.argparse_utils:FlexibleArgumentParser")(prog="vllm")
    subcommand = _find("vllm.entrypoints.cli.serve:ServeSubcommand")()
    subcommand.subparser_init(parser.add_subparsers(dest="subparser"))
    return Vllm(
        parser=parser,
        subcommand=subcommand,
        configure_logging=_find("vllm.logger:configure_logging_from_args"),
        original_context=_find("vllm.utils.system_utils:get_mp_context"),
    )


def _call_oneself(title: str) -> None:
    """Show a title in `ps`, with the library by which vLLM's own processes do, if it is there."""
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(title)


def _nothing() -> None:
    """It was done before the fork."""


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found
