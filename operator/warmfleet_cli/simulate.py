"""`warmfleet simulate`: let a fleet happen in simulated time, decided by the operator's own scheduler."""

import argparse

from warmfleet_cli.errors import CommandError, ExitCode
from warmfleet_emulator import reading
from warmfleet_emulator.scenario import Scenario

NAME = "simulate"
HELP = "let a fleet happen in simulated time, and compare schedulers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("fleet", metavar="FLEET.yaml", help="a fleet in YAML, or the name of one that ships: reference")


def run(arguments: argparse.Namespace) -> int:
    """Read the fleet and simulate it."""
    _read(arguments.fleet)
    return ExitCode.OK


def _read(name: str) -> list[Scenario]:
    try:
        return reading.read(reading.find(name))
    except (reading.ScenarioError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
