"""Weights in large pages of memory: Linux then finds them by hundreds of addresses in place of a hundred thousand.

Who decodes reads all weights for each token, so looking up addresses is 4 to 13% of the time; how much differs between two
starts, with the memory a start happens to get (docs/decisions.md). Asking is advice: where Linux cannot follow it (before 6.1,
no 2 MB in one piece, no /proc to read), and on other systems, memory stays as it is.
"""

import ctypes
import sys
from threading import Thread

import psutil

MADV_COLLAPSE = 25  # linux/mman.h


def gather_in_background(least: int) -> Thread | None:
    """`gather`, while others go on: half a gigabyte takes a second. None where the system is not Linux."""
    if sys.platform != "linux":
        return None
    thread = Thread(target=gather, args=(least,), daemon=True)
    thread.start()
    return thread


def gather(least: int) -> int:
    """Ask Linux to put each block of this process's own memory into large pages.

    Args:
        least: bytes of memory in use that make a block worth it.

    Returns:
        Bytes of the blocks that are in large pages now, as far as whole ones fit.
    """
    try:
        blocks = psutil.Process().memory_maps(grouped=False)
    except (psutil.Error, OSError):
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    gathered = 0
    for block in blocks:
        if block.path == "[anon]" and block.rss >= least:
            first, last = (int(address, 16) for address in block.addr.split("-"))
            gathered += block.rss if advise(first, last - first, MADV_COLLAPSE) == 0 else 0
    return gathered
