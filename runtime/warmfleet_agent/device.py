"""What code is compiled for on this node."""

from pathlib import Path

from warmfleet_api.artifacts import device_of


def device(proc: Path = Path("/proc")) -> str:
    """Return the accelerators and the CPU of this node, as keys of compile caches name them.

    The NVIDIA driver tells its GPUs below /proc/driver, which every container sees; none: there is no such GPU.
    """
    models = set()
    for told in sorted(proc.glob("driver/nvidia/gpus/*/information")):
        for line in told.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                models.add(value.strip())
    return device_of(" + ".join(sorted(models)), (proc / "cpuinfo").read_text(errors="replace"))
