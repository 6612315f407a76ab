"""`warmfleet wake`: ask for a model that sleeps, and tell when it will answer."""

import argparse
import asyncio
import sys
import time

from rich.console import Console

from warmfleet_api import names
from warmfleet_api.operator_api import WakeAnswer, WakeRequest
from warmfleet_api.vocabulary import Reason
from warmfleet_cli.errors import ExitCode
from warmfleet_cli.show import View, add_cluster_arguments, add_output_argument, target_of, write_json
from warmfleet_cli.words import seconds

NAME = "wake"
HELP = "ask for a model that sleeps; with --wait until it answers"

_POLL_SECONDS = 0.5
_HOPELESS = {"NotFound", Reason.STOPPED, Reason.NO_ENGINE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", help="name of the ModelDeployment")
    parser.add_argument("--wait", action="store_true", help="return when it answers")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait (default: %(default)s)"
    )
    add_cluster_arguments(parser)
    add_output_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask for the model.

    Returns:
        0: it answers, or was asked for; 3: not within the time; 4: it can't.
    """
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from warmfleet_cli.access import connect

    console = Console(stderr=True)
    request = WakeRequest(namespace=arguments.namespace, model=arguments.model)
    until = time.monotonic() + arguments.timeout
    async with connect(target_of(arguments)) as access:
        with console.status(f"asking for {arguments.model}") as progress:
            answer = await access.tell(names.PATH_WAKE, request, WakeAnswer)
            while arguments.wait and not _is_final(answer) and time.monotonic() < until:
                progress.update(sentence(answer))
                await asyncio.sleep(_POLL_SECONDS)
                answer = await access.tell(names.PATH_WAKE, request, WakeAnswer)
    if arguments.output == "json":
        write_json(View(answer, ""))
    else:
        sys.stdout.write(sentence(answer) + "\n")
    if answer.state in _HOPELESS:
        return ExitCode.IMPOSSIBLE
    return ExitCode.OK if answer.state == Reason.SERVING or not arguments.wait else ExitCode.NOT_IN_TIME


def sentence(answer: WakeAnswer) -> str:
    """Say how far the model is."""
    place = f"{answer.position} of {answer.of} in the queue" if answer.position else ""
    kind = f"{answer.start_type} start" if answer.start_type is not None and answer.state != Reason.SERVING else ""
    soon = f"answers in {seconds(answer.ready_seconds)}" if answer.ready_seconds is not None else ""
    facts = ", ".join(part for part in (place, kind, soon) if part)
    text = f"{answer.namespace}/{answer.model}: {answer.state}" + (f" ({facts})" if facts else "")
    return f"{text}: {answer.message}" if answer.message else text


def _is_final(answer: WakeAnswer) -> bool:
    return answer.state == Reason.SERVING or answer.state in _HOPELESS
