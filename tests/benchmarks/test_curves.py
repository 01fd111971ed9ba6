"""Curves: the table compares within a round, and every curve holds the value it is compared with."""

import pytest

from benchmarks.curves import CURVES, TOKENS_A_STEP, table


def row(value: str, number: int, seconds: float, *, curve: str = "rank") -> dict[str, str]:
    figures = {"seconds": str(seconds), "tokens": "1000", "instruction_set": "avx2"}
    return {"curve": curve, "value": value, "round": str(number), **figures}


def test_a_point_is_compared_with_the_base_of_its_own_round() -> None:
    rows = [row("8", 0, 2.0), row("32", 0, 2.2), row("8", 1, 4.0), row("32", 1, 4.0), row("64", 2, 9.0)]
    lines = table(rows).splitlines()
    assert lines[2:] == ["| rank (avx2) | **8** | 333 | 1.00 | 2 |", "| rank (avx2) | 32 | 323 | 1.05 | 2 |"]


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_holds_its_base_and_fills_a_step(name: str) -> None:
    curve = CURVES[name]
    assert curve.base in curve.values
    for value in curve.values:
        point = curve.point(value)
        assert point.rows_per_step or TOKENS_A_STEP // point.length >= 1
