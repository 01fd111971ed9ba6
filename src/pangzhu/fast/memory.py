"""A bound on the compiled products that oneDNN and torch's layer above it keep.

oneDNN compiles a kernel for every shape it multiplies. Two caches keep the last 1,024 each, half a megabyte apiece. Without
padding hardly a micro-batch has the shapes of another, so what is kept is seldom used again, and a gigabyte grows within
a few dozen steps. As many are kept as the layers of one micro-batch share.
"""

import os

FOR_LAYERS = 80  # linear layers and head, forward and back
FOR_A_ROW = 8  # products of attention for each length of row, forward and back
MOST_KERNELS = 320  # short rows share their lengths
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kernel_caches(num_lengths: int) -> None:
    """Bound both for this process, unless its environment does; before the first product, or it has no effect.

    Args:
        num_lengths: most different lengths of rows in one micro-batch.
    """
    num_kernels = min(MOST_KERNELS, FOR_LAYERS + FOR_A_ROW * num_lengths)
    for name in CAPACITIES:
        os.environ.setdefault(name, str(num_kernels))
