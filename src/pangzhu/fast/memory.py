"""A bound on the compiled products that oneDNN and torch's layer above it keep.

oneDNN compiles a kernel for every shape it multiplies. Two caches keep the last 1,024 each, half a megabyte apiece. Without
padding hardly a micro-batch has the shapes of another, so what is kept is seldom used again, and a gigabyte grows within
a few dozen steps. `MOST_KERNELS` are enough for the layers of one micro-batch to share: 1,024 tokens hold rows of 44
different lengths at the most.
"""

import os

MOST_KERNELS = 320  # linear layers, forward and back: about 60; up to five products for each length of row
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kernel_caches() -> None:
    """Bound both for this process, unless its environment does; before the first product, or it has no effect."""
    for name in CAPACITIES:
        os.environ.setdefault(name, str(MOST_KERNELS))
