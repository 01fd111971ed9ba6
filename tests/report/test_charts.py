"""A curve keeps its values in order and inside its frame, whatever they are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pangzhu.report.charts import HEIGHT, MOST_POINTS, WIDTH, Curve, draw, round_ticks


def line_points(drawing: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polyline class="line" points="([^"]*)"', drawing)
    return [tuple(map(float, point.split(","))) for point in points.split()]


def test_a_larger_value_stands_higher_and_a_later_step_further_right() -> None:
    (first, second, third) = line_points(draw(Curve([(1, 2.0), (2, 1.0), (3, 4.0)], "loss", "step")))
    assert first[0] < second[0] < third[0]
    assert third[1] < first[1] < second[1]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [0.0, 0.0, 0.0], [1e-9, 1e9], [3.0] * 10_000])
def test_every_point_lies_inside_the_frame(values: list[float]) -> None:
    drawing = draw(Curve(list(enumerate(values)), "loss", "step"))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line_points(drawing))
    assert len(line_points(drawing)) <= MOST_POINTS + 1


def test_the_last_point_of_a_long_run_is_drawn() -> None:
    drawing = draw(Curve([(step, 1.0) for step in range(10_001)], "loss", "step"))
    assert line_points(drawing)[-1][0] == max(x for x, _ in line_points(drawing))
    assert '<circle class="dot"' in drawing


def test_values_that_are_not_finite_are_left_out_and_nothing_finite_draws_nothing() -> None:
    nan = float("nan")
    assert len(line_points(draw(Curve([(1, 2.0), (2, nan), (3, 1.0)], "loss", "step")))) == 2
    assert draw(Curve([(1, nan), (2, float("inf"))], "loss", "step")) == ""
    assert draw(Curve([], "loss", "step")) == ""


def test_a_drawing_is_well_formed_and_says_what_it_shows() -> None:
    drawing = draw(Curve([(1, 2.0), (5, 1.0)], 'loss <&"> nats', "step <1>"))
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'loss <&"> nats'
    assert "step <1>" in [element.text for element in root.iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 4, [0, 1, 2, 3, 4]),
        (1, 102, [50, 100]),
        (0, 170, [0, 50, 100, 150]),
        (3, 3, [3]),
        (0, 0.3, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_ticks_are_round_and_between_the_ends(low: float, high: float, expected: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)
