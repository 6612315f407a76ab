"""Every private name of vLLM that a forked engine rests on, checked before the first fork.

vLLM may rename or reshape any of them in any release. So each is looked up with its parameters and the version is
compared; whatever does not hold is named, and engines are executed instead.
"""

import gc
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

VERSION = "0.32.0"
"""The release these names were read in; a test compares it with the image's lock."""
SPAWN = "VLLM_WORKER_MULTIPROC_METHOD"

_PARAMETERS = {
    "vllm.utils.system_utils:get_mp_context": (),
    "vllm.utils.system_utils:_maybe_force_spawn": (),
    "vllm.entrypoints.cli.serve:ServeSubcommand.cmd": ("args",),
    "vllm.entrypoints.cli.serve:ServeSubcommand.validate": ("self", "args"),
    "vllm.entrypoints.launchers.cli_args:make_arg_parser": ("parser",),
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
    "vllm.entrypoints.launchers.app",
    "vllm.entrypoints.launchers.api_server.app_state",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.structured_output",
    "vllm.tokenizers",
    "vllm.renderers.hf",
    "vllm.model_executor.model_loader",
    "vllm.compilation.decorators",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
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
        if forks:
            for name in _CONTEXT_HOLDERS:
                vars(sys.modules[name])["get_mp_context"] = self._forking_context
        args = self.parser.parse_args(arguments[1:])
        self.configure_logging(args)
        self.subcommand.validate(args)
        self.subcommand.cmd(args)

    def _forking_context(self) -> Any:
        # The command line asks for `spawn` and so does the platform of CPUs, both for what a process may have done
        # before it forks; this one did nothing. vLLM's own checks run after this, and may still ask for `spawn`.
        os.environ[SPAWN] = "fork"
        return self.original_context()


def load() -> Vllm:
    """Import all that a start needs, and check the names.

    Raises:
        MismatchError: another version, or a name or signature that does not hold.
    """
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
    platforms = importlib.import_module("vllm.platforms")
    _ = platforms.current_platform  # found out once, here
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


def has_device() -> bool:
    """Whether this process has opened a GPU, so that a copy of it could not."""
    return bool(_find("torch:cuda.is_initialized")())


def _assemble() -> Vllm:
    """Build what can be built before an engine is known; the parser alone takes a second."""
    parser = _find("vllm.utils.argparse_utils:FlexibleArgumentParser")(prog="vllm serve")
    subcommand = _find("vllm.entrypoints.cli.serve:ServeSubcommand")()
    return Vllm(
        parser=_find("vllm.entrypoints.launchers.cli_args:make_arg_parser")(parser),
        subcommand=subcommand,
        configure_logging=_find("vllm.logger:configure_logging_from_args"),
        original_context=_find("vllm.utils.system_utils:get_mp_context"),
    )


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found
