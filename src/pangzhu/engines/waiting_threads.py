"""Threads that earlier work of torch left waiting, ended before llama.cpp computes.

Both share GNU's OpenMP on Linux, which counts the threads of all who use it. Where there are more than cores, threads that wait
for each other go to sleep at once, and llama.cpp, whose threads wait for each other more than a thousand times a token, takes
half as long again (docs/decisions.md). torch starts its threads anew when it needs them.
"""

import ctypes
import sys

OPENMP = "libgomp.so.1"
OMP_PAUSE_SOFT = 1  # omp.h: settings are kept


def end() -> None:
    """End those that this thread's work has left. Where there is no such library, nobody has left any."""
    if sys.platform != "linux":
        return
    try:
        openmp = ctypes.CDLL(OPENMP)
    except OSError:
        return
    openmp.omp_pause_resource_all(OMP_PAUSE_SOFT)
