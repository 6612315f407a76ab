"""`python -m warmfleet_runtime`: PID 1 of a runner."""

import signal
import sys

# PID 1 of a container passes over a signal that nobody handles: without this a pod that is deleted while the imports
# below run would linger for all of its grace period.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio

from warmfleet_runtime import config, logs
from warmfleet_runtime.supervisor import Supervisor


def main() -> None:
    """Run until SIGTERM has drained the runner."""
    runner = config.parse(sys.argv[1:], prog="warmfleet_runtime")
    logs.configure()
    asyncio.run(Supervisor(runner).run())


if __name__ == "__main__":
    main()
