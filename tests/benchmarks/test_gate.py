"""In bf16 the gate compares distances to float32 over all steps."""

import pytest

from benchmarks.gate import distance


def test_the_distance_counts_every_step_whichever_side_it_lies_on() -> None:
    assert distance([1.5, 1.5, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 3)


def test_runs_of_unequal_length_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="longer"):
        distance([1.0], [1.0, 2.0])
