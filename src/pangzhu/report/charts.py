"""A curve over optimizer steps as SVG, or two on the same axes: text that scales, prints, and needs no script.

Colours come from the page, by class names, so that a dark screen and a printer both read it. Two lines are told apart without
colour too: the second is dashed and has squares, and a legend shows both. Left to others: which curves are
drawn (`pangzhu.report.build`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36  # margins, which the labels stand in
NUM_TICKS = 4
MOST_POINTS = 600  # about one a pixel; a longer run is thinned
MOST_MARKS = 40  # squares on a second line
LEGEND = 20  # height of the legend below the axis
SAMPLE = 28  # width of a line in it
SIDE = 6  # of a square


@dataclass(frozen=True, slots=True)
class Line:
    """A second line: `(step, value)`, steps rising, and its name in the legend."""

    points: Sequence[tuple[float, float]]
    name: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line over steps.

    Args:
        points: `(step, value)`, steps rising; values that are not finite are left out.
        title: what it shows, for those who cannot see it.
        x_label: below the horizontal axis.
        top: the value at the upper end of the axis; None takes the largest one.
        name: in the legend, where there is a second line.
        beside: the second line, on the same axes.
    """

    points: Sequence[tuple[float, float]]
    title: str
    x_label: str
    top: float | None = None
    name: str = ""
    beside: Line | None = None


def draw(curve: Curve) -> str:
    """The curve as an `<svg>` element; empty where no value of its first line is finite."""
    points, beside = _finite(curve.points), _finite(curve.beside.points if curve.beside else ())
    if not points:
        return ""
    xs, ys = zip(*points, *beside, strict=True)
    frame = _Frame(min(xs), max(xs), 0.0, curve.top or max(ys) or 1.0)
    x, y = frame.place(points[-1])
    parts = [*_horizontal_lines(frame), *_steps(frame), _polyline(frame, points, "line")]
    parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>')
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}">{escape(curve.x_label)}</text>'
    )
    if curve.beside and beside:
        parts += [
            _polyline(frame, beside, "line beside"),
            *_marks(frame, beside),
            *_legend(curve.name, curve.beside.name),
        ]
    height = HEIGHT + (LEGEND if beside else 0)
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(curve.title)}">'
    return f"{head}{''.join(parts)}</svg>"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie on the page."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)

    def place(self, point: tuple[float, float]) -> tuple[str, str]:
        """Both, as they are written."""
        return f"{self.x(point[0]):.1f}", f"{self.y(point[1]):.1f}"


def round_ticks(low: float, high: float) -> list[float]:
    """At most a handful of round values between two, ends included where they are round: steps of 1, 2 or 5 times a power of
    ten."""
    if high <= low:
        return [low]
    rough = (high - low) / NUM_TICKS
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = -floor(-low / step * (1 + 1e-12))
    return [round(number * step, 12) for number in range(first, floor(high / step * (1 + 1e-12)) + 1)]


def _horizontal_lines(frame: _Frame) -> list[str]:
    parts = []
    for value in round_ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    return parts


def _steps(frame: _Frame) -> list[str]:
    y = HEIGHT - BOTTOM + 16
    ticks = [value for value in round_ticks(frame.x_low, frame.x_high) if value == int(value)] or [frame.x_low]
    return [f'<text class="step" x="{frame.x(value):.1f}" y="{y}">{value:g}</text>' for value in ticks]


def _polyline(frame: _Frame, points: Sequence[tuple[float, float]], kind: str) -> str:
    places = " ".join(",".join(frame.place(point)) for point in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _marks(frame: _Frame, points: Sequence[tuple[float, float]]) -> list[str]:
    """Squares on every point of a line, or on every n-th where they would touch."""
    every = -(-len(points) // MOST_MARKS)
    return [_square(frame.x(x), frame.y(y)) for x, y in points[::every]]


def _square(x: float, y: float) -> str:
    return f'<rect class="mark" x="{x - SIDE / 2:.1f}" y="{y - SIDE / 2:.1f}" width="{SIDE}" height="{SIDE}"/>'


def _legend(first: str, second: str) -> list[str]:
    """Each line as it is drawn, and its name."""
    y = HEIGHT + LEGEND / 2
    parts = []
    for left, kind, name in ((LEFT, "line", first), (WIDTH // 2, "line beside", second)):
        parts.append(f'<line class="{kind}" x1="{left}" x2="{left + SAMPLE}" y1="{y:.0f}" y2="{y:.0f}"/>')
        parts.append(f'<text class="name" x="{left + SAMPLE + 8}" y="{y + 4:.0f}">{escape(name)}</text>')
    return [*parts, _square(WIDTH // 2 + SAMPLE / 2, y)]


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What can be drawn of a line."""
    return _thinned([point for point in points if all(map(isfinite, point))])


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point and the last, so that a long run still draws quickly."""
    every = -(-len(points) // MOST_POINTS) or 1
    kept = points[::every]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
