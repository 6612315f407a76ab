"""What of an engine's environment can still take effect in a copy of a process that has imported everything.

Python code reads most variables when it needs them, some once at import. The zygote records which ones its imports
read. An engine that wants another value of one of those can't be forked, unless its effect is known and mended here.
"""

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

FOR_IMPORTS = {
    # A pool of threads that libraries open as they are loaded; a process with threads can't be forked.
    "OPENBLAS_NUM_THREADS": "1",
}
"""Variables of the zygote alone."""
CACHE_VARIABLE = "XDG_CACHE_HOME"
"""Folder from which libraries derive constants at import; `Constants` moves them."""
_MENDED = frozenset(
    {
        CACHE_VARIABLE,
        # Read anew at each use; imports only look at them in passing.
        "CUDA_VISIBLE_DEVICES",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "VLLM_CACHE_ROOT",
    }
)
_LIBRARY_PREFIXES = (
    *("GLIBC_", "GOMP_", "GOTO_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON"),
    *("PYTORCH_", "TCMALLOC_", "TORCH"),
)
"""Read by the interpreter or by C libraries when they are loaded, where no record shows it."""
_WHOLE = frozenset({"copy", "__iter__"})
"""Callers that read every variable and mean none: copies for subprocesses, and searches by prefix."""


class _RecordingEnviron(os._Environ):  # type: ignore[type-arg]  # the class of `os.environ` itself
    """`os.environ` that notes the names somebody asks for."""

    asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        if sys._getframe(1).f_code.co_name not in _WHOLE:
            self.asked.add(key)
        value: str = super().__getitem__(key)
        return value


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Record the names of variables that Python code asks for meanwhile."""
    _RecordingEnviron.asked = set()
    ordinary = os.environ.__class__
    os.environ.__class__ = _RecordingEnviron
    try:
        yield _RecordingEnviron.asked
    finally:
        os.environ.__class__ = ordinary


def too_late(own: Mapping[str, str], wanted: Mapping[str, str], read: Collection[str]) -> list[str]:
    """Return the variables in which `wanted` differs from `own` although their value was used up by the imports."""
    differing = {name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name)}
    return sorted(name for name in differing - _MENDED if name in read or name.startswith(_LIBRARY_PREFIXES))


class Constants:
    """Module constants that hold a path below one folder: libraries computed them from the environment at import."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.found: list[tuple[ModuleType, str]] = [
            (module, name)
            for module in list(sys.modules.values())
            for name, value in list(getattr(module, "__dict__", {}).items())
            if issubclass(type(value), str | Path) and self._is_below(str(value))  # not what it pretends to be
        ]

    def move(self, folder: Path) -> None:
        """Let them say `folder` instead."""
        for module, name in self.found:
            value = getattr(module, name)
            setattr(module, name, type(value)(str(folder) + str(value)[len(self._folder) :]))

    def _is_below(self, value: str) -> bool:
        return value == self._folder or value.startswith(self._folder + "/")
