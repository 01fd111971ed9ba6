"""A curve keeps its values in order and inside its frame, whatever they are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pangzhu.report.charts import HEIGHT, LEGEND, MOST_MARKS, MOST_POINTS, WIDTH, Curve, Line, draw, round_ticks


def line_points(drawing: str, kind: str = "line") -> list[tuple[float, float]]:
    (points,) = re.findall(rf'<polyline class="{kind}" points="([^"]*)"', drawing)
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


TWO = Curve(
    [(1, 4.0), (9, 2.0)], "both", "step", name="trained <1>", beside=Line([(3, 4.0), (6, 8.0), (9, 2.0)], "measured")
)


def test_two_lines_share_their_axes() -> None:
    drawing = draw(TWO)
    (first, last), (left, middle, right) = line_points(drawing), line_points(drawing, "line beside")
    assert first[1] == left[1]
    assert last == right
    assert first[0] < left[0] < middle[0] < right[0] == last[0]
    assert middle[1] < first[1] < last[1]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line_points(drawing, "line beside"))


def test_a_second_line_is_told_apart_without_colour_and_named() -> None:
    root = ElementTree.fromstring(draw(TWO))
    squares = [element for element in root.iter("rect") if element.get("class") == "mark"]
    assert len(squares) == 3 + 1  # one in the legend
    names = [element.text for element in root.iter("text") if element.get("class") == "name"]
    assert names == ["trained <1>", "measured"]
    samples = [element.get("class") for element in root.iter("line") if element.get("class") != "grid"]
    assert samples == ["line", "line beside"]
    assert root.get("viewBox") == f"0 0 {WIDTH} {HEIGHT + LEGEND}"


def test_a_single_measurement_is_a_square_and_many_have_not_one_each() -> None:
    one = draw(Curve([(1, 2.0), (5, 1.0)], "loss", "step", beside=Line([(5, 1.5)], "measured")))
    assert one.count('class="mark"') == 1 + 1
    many = Line([(step, 1.0) for step in range(1, 1001)], "measured")
    assert many.points[-1][0] == 1000
    assert draw(Curve([(1, 2.0)], "loss", "step", beside=many)).count('class="mark"') <= MOST_MARKS + 1


@pytest.mark.parametrize("points", [[], [(1, float("nan"))]])
def test_a_second_line_without_a_finite_value_is_none(points: list[tuple[float, float]]) -> None:
    alone = Curve([(1, 2.0), (5, 1.0)], "loss", "step")
    beside = Curve([(1, 2.0), (5, 1.0)], "loss", "step", name="trained", beside=Line(points, "measured"))
    assert draw(beside) == draw(alone)
