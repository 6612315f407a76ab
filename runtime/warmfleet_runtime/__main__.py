"""`python -m warmfleet_runtime`: PID 1 of a runner."""

import asyncio
import sys

from warmfleet_runtime import config, logs
from warmfleet_runtime.supervisor import Supervisor


def main() -> None:
    """Run until SIGTERM has drained the runner."""
    runner = config.parse(sys.argv[1:], prog="warmfleet_runtime")
    logs.configure()
    asyncio.run(Supervisor(runner).run())


if __name__ == "__main__":
    main()
