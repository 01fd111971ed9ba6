"""`python -m benchmarks.shapes`: how much time products take when the number of tokens is filled up to a multiple.

oneDNN splits the tokens between threads and tiles; numbers with few divisors are a quarter slower. Numbers of tokens are
drawn at random, each filled up to multiples of 1 (as it is), 2, 4, … and multiplied by turns; the tokens that were added
are paid for in the time that is printed.
"""

import argparse
import random
import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
HIDDEN, INNER = 896, 4864
ROUNDS = 4


def main() -> None:
    """Print the time of all products against those of the numbers as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "float32"])
    parser.add_argument("--numbers", type=int, default=60, help="how many numbers of tokens are drawn")
    given = parser.parse_args()
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    weights = [torch.rand(INNER, HIDDEN).to(dtype) for _ in range(ROUNDS)]  # another each time: none is in the cache
    totals = dict.fromkeys(MULTIPLES, 0.0)
    for number in random.Random(0).sample(range(150, 1040), given.numbers):
        products = {multiple: _product(-(-number // multiple) * multiple, dtype) for multiple in MULTIPLES}
        for multiple, seconds in _best(products, weights).items():
            totals[multiple] += seconds
    print("| tokens filled up to a multiple of | time |\n|---|---|")
    for multiple, total in totals.items():
        print(f"| {multiple} | {total / totals[1]:.3f} |")


def _product(num_tokens: int, dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
    x, y = (torch.rand(num_tokens, width).to(dtype) for width in (HIDDEN, INNER))
    return lambda weight: (linear(x, weight), torch.mm(y, weight))


def _best(products: dict[int, Callable[[torch.Tensor], object]], weights: list[torch.Tensor]) -> dict[int, float]:
    best = dict.fromkeys(products, float("inf"))
    for product in products.values():
        product(weights[0])
    for number, weight in enumerate(weights):
        for multiple in list(products) if number % 2 else list(products)[::-1]:
            started = time.perf_counter()
            products[multiple](weight)
            best[multiple] = min(best[multiple], time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
