"""PID 1 of a runner that forks from `fake_zygote.py`: `python -P runner_with_fake_zygote.py FAULT FLAGS…`."""

import sys
from functools import partial
from pathlib import Path

from warmfleet_runtime import supervisor
from warmfleet_runtime.__main__ import main
from warmfleet_runtime.zygote_keeper import ZygoteKeeper

if __name__ == "__main__":
    fault = sys.argv.pop(1)
    command = (sys.executable, "-P", str(Path(__file__).with_name("fake_zygote.py")), fault)
    vars(supervisor).update(
        ZygoteKeeper=partial(ZygoteKeeper, command=command),
        is_vllm_installed=lambda: True,
    )
    main()
