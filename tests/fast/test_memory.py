"""The compiled products that are kept have a bound, set before the first one, and a user's own bound stays."""

import os
import subprocess
import sys

import pytest

from pangzhu.fast import memory
from pangzhu.machine import instruction_sets

GROWTH_OVER_MANY_SHAPES = """
import sys
import psutil, torch
from pangzhu.fast.memory import bound_kernel_caches

torch.set_num_threads(1)
if sys.argv[1] == "bounded":
    bound_kernel_caches(6)
weight = torch.ones(256, 256, dtype=torch.bfloat16)
before = psutil.Process().memory_info().rss
for num_rows in range(1, 1200):
    torch.nn.functional.linear(torch.ones(num_rows, 256, dtype=torch.bfloat16), weight)
print(psutil.Process().memory_info().rss - before)
"""


def growth(how: str) -> int:
    """Bytes that a process grows by while it multiplies matrices of 1,200 shapes, none of them twice."""
    words = [sys.executable, "-c", GROWTH_OVER_MANY_SHAPES, how]
    kept = {name: value for name, value in os.environ.items() if name not in memory.CAPACITIES}
    return int(subprocess.run(words, env=kept, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif("avx512_bf16" not in instruction_sets(), reason="oneDNN multiplies bf16 only where it is fast")
def test_shapes_that_never_come_again_are_not_kept_for_ever() -> None:
    assert growth("bounded") < 0.6 * growth("as it comes")


@pytest.mark.parametrize(
    ("num_lengths", "given", "bound"), [(6, None, "128"), (1, None, "88"), (64, None, "320"), (6, "7", "7")]
)
def test_as_many_are_kept_as_a_micro_batch_shares_and_a_bound_in_the_environment_stays(
    num_lengths: int, given: str | None, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {} if given is None else dict.fromkeys(memory.CAPACITIES, given)
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.bound_kernel_caches(num_lengths)
    assert environment == dict.fromkeys(memory.CAPACITIES, bound)
