"""How commands show what they found: once or again and again, as a picture for people or JSON for machines."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live

from warmfleet_api import names

if TYPE_CHECKING:
    from warmfleet_cli.access import Access, Target

REFRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class View:
    """What a command found."""

    data: msgspec.Struct | Mapping[str, Any]
    """For machines."""
    picture: RenderableType
    """For people."""


Look = Callable[["Access"], Awaitable[View]]


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cluster and namespace, named as in kubectl."""
    parser.add_argument("-n", "--namespace", default="default", help="namespace of the models (default: default)")
    parser.add_argument("--context", default="", help="context of the kubeconfig, as in kubectl")
    parser.add_argument("--kubeconfig", default="", help="file with the way to the cluster, as in kubectl")
    parser.add_argument("--kubectl", default="kubectl", metavar="PATH", help="kubectl to use (default: kubectl)")
    parser.add_argument(
        "--system-namespace",
        default=names.SYSTEM_NAMESPACE,
        metavar="NAME",
        help="where the operator is installed (default: %(default)s)",
    )


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Add the form of the output."""
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: %(default)s")


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes that shows many objects, once or again and again."""
    add_cluster_arguments(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="models of all namespaces")
    add_output_argument(parser)
    add_watch_argument(parser)


def add_watch_argument(parser: argparse.ArgumentParser) -> None:
    """Add that the command looks again and again."""
    parser.add_argument("-w", "--watch", action="store_true", help="look again every second, until Ctrl-C")


def namespace_of(arguments: argparse.Namespace) -> str:
    """Return the namespace that was asked for, empty for all."""
    return "" if arguments.all_namespaces else str(arguments.namespace)


def target_of(arguments: argparse.Namespace) -> "Target":
    """Return the cluster that was asked for."""
    from warmfleet_cli.access import Target

    return Target(
        kubectl=arguments.kubectl,
        context=arguments.context,
        kubeconfig=arguments.kubeconfig,
        system_namespace=arguments.system_namespace,
    )


def show(arguments: argparse.Namespace, look: Look) -> int:
    """Look and show, with `--watch` again and again until Ctrl-C; return the exit code.

    Raises:
        CommandError: the cluster or the operator did not answer as they should.
    """
    return asyncio.run(_show(arguments, look))


async def _show(arguments: argparse.Namespace, look: Look) -> int:
    from warmfleet_cli.access import connect

    console = Console(soft_wrap=False)
    async with connect(target_of(arguments)) as access:
        view = await look(access)
        if arguments.output == "json":
            write_json(view)
            while arguments.watch:
                await asyncio.sleep(REFRESH_SECONDS)
                write_json(await look(access))
        elif not arguments.watch:
            console.print(view.picture)
        else:
            with Live(view.picture, console=console, auto_refresh=False, screen=console.is_terminal) as live:
                while True:
                    live.update(view.picture, refresh=True)
                    await asyncio.sleep(REFRESH_SECONDS)
                    view = await look(access)
    return 0


def write_json(view: View) -> None:
    """Write one JSON document in one line."""
    sys.stdout.write(msgspec.json.encode(view.data).decode() + "\n")
    sys.stdout.flush()
