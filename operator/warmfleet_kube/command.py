"""How a process of ours is started: its settings shown by `--help`, its end as an exit code."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from warmfleet_kube.errors import BadSetting, ProcessError

S = TypeVar("S", bound=BaseSettings)


def take_arguments(module: str, description: str, settings: type[BaseSettings], version: str) -> None:
    """Take the command line, which has `--help` and `--version` alone: settings come from the environment."""
    lines = [
        f"  WARMFLEET_{name.upper():<24}{' '.join((field.description or '').split())}"
        for name, field in settings.model_fields.items()
    ]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog="Settings, from the environment:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version)
    parser.parse_args()


def read_settings(settings: type[S]) -> S:
    """Read the environment.

    Raises:
        BadSetting: names each variable that can't be used, and why.
    """
    try:
        return settings()
    except ValidationError as error:
        lines = []
        for each in error.errors():
            name = f"WARMFLEET_{'_'.join(str(part) for part in each['loc'][:1]).upper()}"
            if each["type"] == "missing":
                lines.append(f"{name} is not set")
            elif each["loc"]:
                lines.append(f"{name}={each['input']!r}: {each['msg']}")
            else:
                lines.append(each["msg"])
        raise BadSetting("; ".join(lines)) from error


def begin_log(level: str) -> None:
    """Log to standard error from this level on, as all processes do."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Run until a signal; return the exit code: 0 after a signal, 2 for what a person has to set, 1 for the rest."""
    try:
        run()
    except ProcessError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 - also before logging is set up
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def cause(error: BaseException, logger: logging.Logger) -> ProcessError:
    """Return what a person should read of the error that ended a process; a defect's traceback goes to the log."""
    for leaf in _leaves(error):
        if isinstance(leaf, ProcessError):
            return leaf
    logger.error("the process ended by a defect", exc_info=error)
    first = next(_leaves(error))
    return ProcessError(f"{type(first).__name__}: {first}; this is a defect, its traceback is in the log")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
