"""Builds the cluster's binaries once per version and keeps them outside the tree.

Cold, on two cores: Kubernetes 7 min, the others 1 to 3 min each; with Go's build cache warm, seconds.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.locks import locked
from localcluster.oci import Layer, write_archive
from localcluster.paths import binaries_directory
from localcluster.progress import Say

SOURCES = Path(__file__).parent.parent / "binaries"
PAUSE_IMAGE = "warmfleet.dev/local/pause:1"
_KUBERNETES_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
_SAY_EVERY_SECONDS = 15.0


@dataclass(frozen=True)
class Component:
    """One thing to build: `package` of the Go module `hack/binaries/<module>`, installed under `names`."""

    name: str
    package: str
    names: tuple[str, ...]
    module: str = "."
    link_flags: str = ""

    @property
    def sources(self) -> list[Path]:
        """The files whose content decides whether a built binary is still right."""
        module = SOURCES / self.module
        own = sorted((module / self.package).glob("*.go")) if self.package.startswith("./") else []
        return [module / "go.mod", module / "go.sum", *own]


def kubernetes_version() -> str:
    """The Kubernetes release that is built, e.g. `v1.35.4`."""
    found = re.search(r"^\s*k8s.io/kubernetes (v\S+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ClusterError(f"{SOURCES / 'go.mod'} does not require k8s.io/kubernetes; restore it with `git checkout`")
    return found[1]


def _components(version: str) -> list[Component]:
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())
    return [
        Component("kubernetes", "./kube", _KUBERNETES_NAMES, link_flags=flags),
        Component("etcd", "./etcd", ("etcd",)),
        Component("coredns", "./coredns", ("coredns",)),
        Component("kwok", "sigs.k8s.io/kwok/cmd/kwok", ("kwok",), module="kwok"),
    ]


_KIND = Component("kind", "sigs.k8s.io/kind", ("kind",), module="kind")
_REGISTRY = Component("registry", "./", ("registry",), module="registry")


@dataclass(frozen=True)
class Binaries:
    """The built binaries: `directory / name`."""

    directory: Path

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def pause_archive(self) -> Path:
        """OCI archive of the sandbox image `PAUSE_IMAGE`."""
        return self.directory / "pause.tar"


def ensure_binaries(say: Say) -> Binaries:
    """Build what is missing or out of date.

    Raises:
        ClusterError: a build failed or a compiler is missing.
    """
    version = kubernetes_version()
    target = Binaries(binaries_directory() / version)
    if _up_to_date(target, version):
        return target
    with locked(binaries_directory() / ".lock", say, "another build of the cluster's binaries"):
        target.directory.mkdir(parents=True, exist_ok=True)
        for component in _components(version):
            if not _is_built(target, component.name, _key(component)):
                _build_go(component, target, say)
        if not _is_built(target, "pause", _pause_key()):
            _build_pause(target, say)
    return target


def ensure_kind(say: Say) -> Path:
    """The pinned kind.

    Raises:
        ClusterError: its build failed or Go is missing.
    """
    return _ensure(_KIND, say)


def ensure_registry(say: Say) -> Path:
    """A container registry in memory, which tests fetch from: it prints its port of loopback.

    Raises:
        ClusterError: its build failed or Go is missing.
    """
    return _ensure(_REGISTRY, say)


def _ensure(component: Component, say: Say) -> Path:
    """Build what belongs to no release of Kubernetes."""
    target = Binaries(binaries_directory() / component.name)
    if not _is_built(target, component.name, _key(component)):
        with locked(binaries_directory() / ".lock", say, "another build of the cluster's binaries"):
            target.directory.mkdir(parents=True, exist_ok=True)
            if not _is_built(target, component.name, _key(component)):
                _build_go(component, target, say)
    return target.directory / component.name


def _up_to_date(target: Binaries, version: str) -> bool:
    keys = {component.name: _key(component) for component in _components(version)} | {"pause": _pause_key()}
    return all(_is_built(target, name, key) for name, key in keys.items())


def _is_built(target: Binaries, name: str, key: str) -> bool:
    stamp = target.directory / f".{name}.key"
    return stamp.exists() and stamp.read_text() == key


def _key(component: Component) -> str:
    parts: list[str] = [component.link_flags, os.uname().machine]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in component.sources]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _pause_key() -> str:
    return hashlib.sha256((SOURCES / "pause" / "pause.c").read_bytes()).hexdigest()


def _build_go(component: Component, target: Binaries, say: Say) -> None:
    output = target.directory / f".{component.name}.new"
    flags = ["-trimpath", "-buildvcs=false", f"-ldflags=-s -w {component.link_flags}".rstrip()]
    command = ["go", "build", *flags, "-o", str(output), component.package]
    say(f"building {component.name} (once; minutes without Go's build cache)")
    _run_visibly(component.name, command, SOURCES / component.module, {"CGO_ENABLED": "0"}, say)
    first, *others = component.names
    output.replace(target.directory / first)
    for name in others:
        link = target.directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(first)
    (target.directory / f".{component.name}.key").write_text(_key(component))


def _build_pause(target: Binaries, say: Say) -> None:
    with tempfile.TemporaryDirectory(dir=target.directory) as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        source = SOURCES / "pause" / "pause.c"
        _run_visibly("pause", ["gcc", "-Os", "-static", "-s", "-o", str(root / "pause"), str(source)], SOURCES, {}, say)
        write_archive(PAUSE_IMAGE, {"Entrypoint": ["/pause"]}, [Layer(root)], target.pause_archive)
    (target.directory / ".pause.key").write_text(_pause_key())


def _run_visibly(name: str, command: list[str], directory: Path, environment: Mapping[str, str], say: Say) -> None:
    if shutil.which(command[0]) is None:
        raise ClusterError(f"{command[0]} is not installed, and {name} is built with it; run hack/setup")
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = process.wait(_SAY_EVERY_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"still building {name}, {time.monotonic() - start:.0f} s")
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            output.seek(0)
            raise ClusterError(
                f"building {name} failed (`{' '.join(command)}` in {directory}):\n{output.read()[-4000:]}"
            )
    say(f"built {name} in {time.monotonic() - start:.1f} s")
