"""The frame of `warmfleet`: subcommands, exit status, errors.

A subcommand is a module with `NAME`, `HELP`, `add_arguments` and `run`, listed in `COMMANDS`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from warmfleet_cli import explain, fleet_map, queue, simulate, starts, wake
from warmfleet_cli.errors import CommandError, ExitCode

PLUGIN = "kubectl-warmfleet"
"""Under this name kubectl finds the command as `kubectl warmfleet`."""


class Command(Protocol):
    """A module that is a subcommand."""

    NAME: str
    HELP: str
    """One line."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments; the module's docstring is the description."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit status.

        Raises:
            CommandError: it can't be done.
        """


COMMANDS: tuple[Command, ...] = (queue, starts, fleet_map, explain, wake, simulate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 failed, 2 wrong arguments or files, 130 interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    command: Command = arguments.command
    try:
        return command.run(arguments)
    except CommandError as error:
        print(f"{parser.prog} {command.NAME}: {error}", file=sys.stderr)  # noqa: T201
        return error.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output, `head` for instance, has what it wanted; nothing may be flushed there at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    is_plugin = Path(sys.argv[0]).name == PLUGIN
    parser = argparse.ArgumentParser(
        prog="kubectl warmfleet" if is_plugin else "warmfleet",
        description="Fleets of language models that do not all fit on the GPUs at once.",
    )
    parser.add_argument("--version", action="version", version=f"warmfleet {version('warmfleet')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.NAME, help=command.HELP, description=command.__doc__)
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
