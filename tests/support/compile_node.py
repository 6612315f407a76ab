"""A node without a cluster for what compiles: a weight store and a runner with real vLLM, brought together by hand.

    async with node(folder, "a") as first, node(folder, "b") as second:
        entry = await first.keep(model)                 # weights, by the agent's own way
        async with first.runner(weights) as runner:     # `weights` stands for /weights: the same path on both nodes
            ...
        await first.take(name); await second.fetch(first)

The agent's parts are the real ones: its stores, its transfers and the port others fetch from. What the operator would
write is said here.
"""

import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
from aiohttp import web
from msgspec.structs import replace

from support import engine
from support.agent_api import settings_for
from support.runner_process import RunnerProcess, running_runner
from warmfleet_agent.artifacts.serving import artifacts_route
from warmfleet_agent.device import device
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.store import Store
from warmfleet_agent.threads import Threads
from warmfleet_agent.tiers import Tiers
from warmfleet_agent.transfers import Outcome, Transfers, moving
from warmfleet_api import artifacts, names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.node_cache import NodeCacheSpec, TierSpec, WantedEntry
from warmfleet_api.runner_status import StartRecord
from warmfleet_api.vocabulary import Tier
from warmfleet_api.weights import entry_key
from warmfleet_kube.client import KubeClient

NAMESPACE = "bench"
IMAGE = "this-tree"
STORE_BYTES = 1024**3
COMPILED = {"VLLM_USE_AOT_COMPILE": "0"}
"""vLLM 0.32 can't load what it compiled ahead of time for CPUs; Inductor's cache it can."""


@dataclass(slots=True)
class Node:
    """One node."""

    folder: Path
    tiers: Tiers
    transfers: Transfers
    address: str
    """Where its agent listens."""
    uid: str
    """Of its runner's pod."""

    @property
    def store(self) -> Store:
        """Its memory."""
        assert self.tiers.memory is not None, self.tiers.troubles
        return self.tiers.memory

    @property
    def cache(self) -> Path:
        """The cache volume of its runner."""
        volumes = self.folder / "kubelet" / "pods" / self.uid / "volumes"
        return volumes / "kubernetes.io~empty-dir" / "cache"

    async def keep(self, model: Path) -> str:
        """Have the model of an absolute path in memory, and return its key."""
        self.transfers.file_roots = (model.parent,)
        uri = model.as_uri()
        key = entry_key(uri, "")
        await self._bring(WantedEntry(key=key, uri=uri, tier=Tier.MEMORY))
        return key

    async def take(self, name: str) -> str:
        """Take what the runner offers, and return the key it has from then on."""
        key = artifacts.entry_key(name, namespace=NAMESPACE, image=IMAGE, device=device())
        uri = f"{artifacts.RUNNER_SCHEME}://{NAMESPACE}/{self.uid}/{name}"
        await self._bring(WantedEntry(key=key, uri=uri, tier=Tier.MEMORY))
        return key

    async def fetch(self, key: str, other: "Node") -> None:
        """Fetch a compile cache from another node."""
        uri = f"{artifacts.AGENT_SCHEME}://{other.address}/{key}"
        await self._bring(WantedEntry(key=key, uri=uri, tier=Tier.MEMORY, digest=other.store.entries[key].digest))

    def show(self, key: str, weights: Path) -> None:
        """Show an entry to the runner: link it into the view, and the view to where the runner sees it."""
        self.store.link(self.uid, key)
        shutil.copytree(self.store.make_view(self.uid) / key, weights / key, copy_function=os.link)

    @asynccontextmanager
    async def runner(self, weights: Path) -> AsyncIterator[RunnerProcess]:
        """Run a runner."""
        self.cache.mkdir(parents=True, exist_ok=True)
        flags = (f"--cache={self.cache}", f"--weights={weights}", "--stop-seconds=5")
        async with running_runner(self.folder, *flags, python=engine.RUNTIME_PYTHON) as runner:
            try:
                yield runner
            except Exception as error:
                error.add_note((self.folder / "runner.log").read_text(errors="replace")[-4000:])
                raise

    async def bring(self, wanted: WantedEntry) -> Outcome:
        """Fetch an entry into memory, as the agent does once its turn and room are decided."""
        return await self.transfers.fetch(wanted, self.store, moving(wanted.key, Tier.REMOTE, Tier.MEMORY, 0, 0))

    async def _bring(self, wanted: WantedEntry) -> None:
        outcome = await self.bring(wanted)
        assert outcome.done, outcome


@asynccontextmanager
async def node(folder: Path, name: str) -> AsyncIterator[Node]:
    """Run the agent's parts of a node below `folder`."""
    folder = folder / name
    folder.mkdir(parents=True)
    tiers, threads, metrics = Tiers(settings_for(folder)), Threads(), Metrics()
    memory = TierSpec(bytes=STORE_BYTES, path=str(folder / "memory"))
    tiers.follow(NodeCacheSpec(cache="default", memory=memory), time.time())
    # Nothing here asks Kubernetes for anything.
    transfers = Transfers(cast(KubeClient, None), threads, allow_private=False, kubelet=folder / "kubelet")
    application = web.Application()
    application.add_routes([artifacts_route(tiers, metrics)])
    served = web.AppRunner(application)
    await served.setup()
    try:
        await web.TCPSite(served, "127.0.0.1", 0).start()
        address = f"127.0.0.1:{served.addresses[0][1]}"
        yield Node(folder, tiers, transfers, address, str(uuid.uuid4()))
    finally:
        await served.cleanup()
        tiers.close()
        threads.close()


def compiling(name: str, folder: Path) -> EngineAssignment:
    """Return the assignment of an engine that compiles."""
    assigned = engine.assigned(name, folder, env=COMPILED)
    args = tuple(each for each in assigned.engine.args if each != "--enforce-eager")
    return replace(assigned, engine=replace(assigned.engine, args=args))


async def last_start(runner: RunnerProcess) -> StartRecord:
    """Return the start that a runner ended last."""
    async with runner.http.get(runner.status_url + names.PATH_STARTS) as response:
        return msgspec.json.decode((await response.read()).splitlines()[-1], type=StartRecord)


def compiled_files(cache: Path) -> frozenset[str]:
    """Return the shared objects below a cache folder: each is one call of the compiler."""
    return frozenset(str(path.relative_to(cache)) for path in cache.rglob("*.so"))
