"""How busy GPUs are, as the driver's own tool tells: the container toolkit puts it into every container with a GPU."""

import subprocess

_COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
ANSWER_SECONDS = 5.0
"""A driver that hangs hangs its tool too."""


def busy_percents() -> tuple[int | None, ...]:
    """Return for each of the runner's GPUs, in their order, the share of the time in which it was busy lately.

    None where the driver does not tell, as of parts of a GPU; empty: there is no such tool, or it does not answer.
    """
    try:
        answer = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(int(line) if line.strip().isdecimal() else None for line in answer.stdout.splitlines())


def mean_percent(gpus: tuple[int, ...], percents: tuple[int | None, ...]) -> int | None:
    """Return the mean of some GPUs, by their indices; None: it is not known of all, or there are none."""
    known = [percents[each] for each in gpus if each < len(percents)]
    told = [each for each in known if each is not None]
    return sum(told) // len(told) if told and len(told) == len(gpus) else None
