"""The command line `hack/cluster`."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from localcluster.api import UnreachableError
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.images import all_images
from localcluster.progress import to_stderr
from localcluster.provider import PROVIDERS, Provider, open_cluster
from localcluster.record import Fleet, Wish
from localcluster.views import NodeState, table

_BINARY_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_Command = Callable[[Provider, argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: _Command = options.command
    try:
        command(open_cluster(options.name, options.provider, to_stderr()), options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--name", type=_name, default="warmfleet", help="which cluster; several run side by side (default: warmfleet)"
    )
    common.add_argument(
        "--provider",
        choices=PROVIDERS,
        help="default: as the cluster was made, else kind where Docker works, else local",
    )
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument("--output", choices=["table", "json"], default="table", help="default: table")
    gpu_memory = argparse.ArgumentParser(add_help=False)
    gpu_memory.add_argument("--gpu-memory", type=_bytes, metavar="80Gi", help="memory of each fake GPU (default: 80Gi)")

    parser = argparse.ArgumentParser(prog="hack/cluster", description="A real Kubernetes cluster on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: _Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        sub.set_defaults(command=command)
        return sub

    up = add("up", _up, "Start the cluster, or bring a running or half-started one to what is asked.", gpu_memory)
    up.add_argument("--nodes", type=int, metavar="N", help="how many real nodes (default: 3, or as before)")
    up.add_argument(
        "--gpus-per-node", type=int, metavar="G", help="fake GPUs on each real node (default: 0, or as before)"
    )
    up.add_argument(
        "--fast-node-loss",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a node without power is NotReady after 12 s instead of 50 s",
    )
    add("down", _down, "End the cluster and remove every trace of it.")
    add("status", _status, "Show the cluster's processes and nodes.", listing)
    add("nodes", _nodes, "List the nodes.", listing)
    load = add("load", _load, "Put images on every node, seeded ones (image.json) in no time.")
    load.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="an image.json, or an OCI or Docker archive (*.tar)"
    )
    load.add_argument("--all", action="store_true", help="every image that hack/images has built")
    kill = add("kill-node", _kill_node, "Cut the power of a real node.")
    kill.add_argument("node", type=_node, metavar="N", help="the node's number or name: 2 or n2")
    start = add("start-node", _start_node, "Power a real node on and wait until it is Ready.")
    start.add_argument("node", type=_node, metavar="N", help="the node's number or name: 2 or n2")
    fake = add("fake-nodes", _fake_nodes, "Have exactly COUNT fake nodes whose runners one process plays.", gpu_memory)
    fake.add_argument("count", type=int, metavar="COUNT", help="0 removes them all")
    fake.add_argument("--gpus", type=int, default=8, help="GPUs of each (default: 8)")
    fake.add_argument("--zones", type=int, default=3, help="zones they are spread over (default: 3)")
    fake.add_argument(
        "--no-taint", action="store_true", help="let pods land there that do not tolerate kwok.x-k8s.io/node=fake"
    )
    fake.add_argument(
        "--player-command",
        type=shlex.split,
        default=[],
        metavar="COMMAND",
        help="plays the runners instead of `python -m warmfleet_runtime.player`; gets --kubeconfig and --cidr",
    )
    kill_zone = add("kill-zone", _kill_zone, "Cut the power of all fake nodes of a zone at once.")
    kill_zone.add_argument("zone", metavar="ZONE", help="value of topology.kubernetes.io/zone, e.g. zone-a")
    start_zone = add("start-zone", _start_zone, "Power the fake nodes of a zone on and wait until they are Ready.")
    start_zone.add_argument("zone", metavar="ZONE", help="value of topology.kubernetes.io/zone, e.g. zone-a")
    add("kubeconfig", _kubeconfig, "Print the path of the administrator's kubeconfig.")
    return parser


def _up(cluster: Provider, options: argparse.Namespace) -> None:
    cluster.up(Wish(options.nodes, options.gpus_per_node, options.gpu_memory, options.fast_node_loss))
    print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
    if isinstance(cluster, Cluster):
        print(f"export PATH={shlex.quote(str(cluster.kubectl.parent))}:$PATH  # kubectl of the cluster's version")


def _down(cluster: Provider, _: argparse.Namespace) -> None:
    cluster.down()


def _status(cluster: Provider, options: argparse.Namespace) -> None:
    processes = cluster.processes()
    nodes: list[NodeState] | str
    try:
        nodes = cluster.nodes()
    except UnreachableError as error:
        nodes = str(error)
    if options.output == "json":
        shown = None if isinstance(nodes, str) else [asdict(node) for node in nodes]
        print(json.dumps({"processes": [asdict(process) for process in processes], "nodes": shown}, indent=2))
    else:
        print(table(processes), nodes if isinstance(nodes, str) else table(nodes), sep="\n\n")


def _nodes(cluster: Provider, options: argparse.Namespace) -> None:
    nodes = cluster.nodes()
    print(json.dumps([asdict(node) for node in nodes], indent=2) if options.output == "json" else table(nodes))


def _load(cluster: Provider, options: argparse.Namespace) -> None:
    images = [*options.images, *(all_images() if options.all else [])]
    if not images:
        raise ClusterError("no image to load; name an image.json, or build with hack/images/build and use --all")
    cluster.load(images)


def _kill_node(cluster: Provider, options: argparse.Namespace) -> None:
    cluster.kill_node(options.node)


def _start_node(cluster: Provider, options: argparse.Namespace) -> None:
    cluster.start_node(options.node)


def _fake_nodes(cluster: Provider, options: argparse.Namespace) -> None:
    memory = options.gpu_memory or Fleet().gpu_memory_bytes
    tainted = not options.no_taint
    cluster.fake_nodes(
        Fleet(options.count, options.gpus, memory, options.zones, tainted, tuple(options.player_command))
    )


def _kill_zone(cluster: Provider, options: argparse.Namespace) -> None:
    cluster.kill_zone(options.zone)


def _start_zone(cluster: Provider, options: argparse.Namespace) -> None:
    cluster.start_zone(options.zone)


def _kubeconfig(cluster: Provider, _: argparse.Namespace) -> None:
    print(cluster.kubeconfig)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: up to 32 lower-case letters, digits and dashes")
    return text


def _node(text: str) -> int:
    try:
        return int(text.removeprefix("n"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no node; see `hack/cluster nodes`") from None


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)(Ki|Mi|Gi|Ti)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number with Ki, Mi, Gi or Ti, e.g. 80Gi")
    return int(found[1]) * _BINARY_UNITS.get(found[2], 1)
