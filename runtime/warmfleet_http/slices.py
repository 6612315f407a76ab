"""Short turns on the processor for a process that mostly waits.

Next to engines that compute all the time, a process that passes bytes on waits for its turn as long as theirs take.
Since Linux 6.12 a process may ask for shorter turns (EEVDF's slice): it gets no more of the processor, but gets it
sooner after it wakes. It needs no privilege, and holds through control groups.
"""

import ctypes
import os
import platform

SLICE_SECONDS = 100e-6
"""The shortest there is."""
_SYSCALLS = {"x86_64": 314, "aarch64": 274}
"""Number of sched_setattr, which the C library does not wrap."""


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of linux/sched/types.h, its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def ask_for_short_slices() -> bool:
    """Give the calling thread, and those it will start, the shortest slices; return whether the kernel took it.

    An older kernel takes it and does nothing.
    """
    number = _SYSCALLS.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, nice, 0, round(SLICE_SECONDS * 1e9))
    return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0) == 0)
