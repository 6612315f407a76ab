"""Gives memory back to the kernel while its addresses stay valid, so that nothing that holds a pointer has to know."""

import ctypes
import mmap
from collections.abc import Iterable

import torch

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.malloc_trim.argtypes = (ctypes.c_size_t,)


def discard(tensors: Iterable[torch.Tensor]) -> int:
    """Free the pages of CPU tensors, whose contents become zeros; return the bytes that were given back.

    Only pages that lie wholly inside a tensor's storage go: what the allocator keeps around it stays as it is.

    Raises:
        OSError: the kernel refused, as it does for locked pages.
    """
    page = mmap.PAGESIZE
    freed = 0
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    for address, size in storages.items():
        first = -(-address // page) * page
        length = (address + size) // page * page - first
        if length <= 0:
            continue
        if _libc.madvise(first, length, mmap.MADV_DONTNEED) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"madvise of {length} bytes failed")
        freed += length
    return freed


def trim() -> None:
    """Give back what the allocator holds free."""
    _libc.malloc_trim(0)
