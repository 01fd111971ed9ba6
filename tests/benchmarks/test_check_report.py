"""The independent reading of a report finds nothing in an honest one, and every figure that was bent."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.check_report import differences
from pangzhu.choices import ChoiceShare
from pangzhu.compare import ask
from pangzhu.data import load_dataset
from pangzhu.drift import Drift
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.evaluate import Evaluation
from pangzhu.intervals import Estimate
from pangzhu.messages import LANGUAGES, set_language
from pangzhu.report.build import write_report
from pangzhu.report.figures import Asked
from tests.use_helpers import ENGLISH, GREEDY, Trained, rows_of, write_rows

pytest_plugins = ["tests.use_fixtures"]
pytestmark = pytest.mark.usefixtures("one_core")

CHOICES = (ChoiceShare("base", "general", 1, 2), ChoiceShare("english", "general", 2, 2, Estimate(0.5, 0.0, 1.0)))
DRIFT = Drift("english", 2, 37, Estimate(0.912, 0.85, 0.95), Estimate(0.123, 0.1, 0.2))


@pytest.fixture(params=LANGUAGES)
def run(request: pytest.FixtureRequest, trained: Trained, engine: TransformersEngine, tmp_path: Path) -> Path:
    """A run folder as the demo leaves it: answers, figures, what was logged, and the page."""
    set_language(request.param)
    rows = rows_of(ENGLISH, kind="taught")
    rows.append({"instruction": "five?", "output": "依据第五条。", "kind": "untaught"})
    rows.append({"instruction": "two?", "output": ENGLISH[1], "kind": "untaught"})
    questions = load_dataset(write_rows(tmp_path / "questions.jsonl", rows)).conversations
    found = ask(engine, questions, GREEDY, names=("base", "english"))
    folder = tmp_path / "adapter" / "run"
    shutil.copytree(trained.english / "run", folder)
    shutil.copy(trained.english / "manifest.json", folder.parent)
    log = [{"step": step, "loss": 3.0 / step, "learned": step - 1, "num_rows": 4} for step in range(1, 6)]
    write_rows(folder / "metrics.jsonl", log)
    found.write(folder)
    Evaluation(found.base_name, (), choices=CHOICES, drifts=(DRIFT,)).write(folder)
    asked = Asked(found.base_name, found.models, found.rows, CHOICES, (DRIFT,))
    write_report(folder / "report.html", asked, {"english": folder.parent})
    return folder


def test_an_honest_report_has_no_difference(run: Path) -> None:
    assert list(differences(run)) == []


@pytest.mark.parametrize(
    ("honest", "bent"),
    [
        (r"<td>4/4</td>", "<td>3/4</td>"),
        (r"<td>\+100 ", "<td>+90 "),
        (r"<td>100% \[51–100\]", "<td>100% [61–100]"),
        (r"<td>100 \(", "<td>99 ("),
        (r"91\.2%", "95.2%"),
        (r"0\.123", "0.023"),
        (r"<strong>([^<]*)4([^<]*)4", r"<strong>\g<1>5\g<2>5"),
    ],
)
def test_a_figure_that_was_bent_is_found(run: Path, honest: str, bent: str) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    assert re.search(honest, html)
    page.write_text(re.sub(honest, bent, html, count=1), encoding="utf-8")
    assert list(differences(run))


@pytest.mark.parametrize(
    "part", [r"<tr><th scope=\"row\">[^<]*</th><td>base</td>.*?</tr>", r"<table>(?:(?!<table>).)*?0\.123.*?</table>"]
)
def test_a_part_that_was_left_out_is_found(run: Path, part: str) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    left = re.sub(part, "", html, count=1, flags=re.DOTALL)
    assert left != html
    page.write_text(left, encoding="utf-8")
    assert list(differences(run))


def test_a_curve_that_was_bent_is_found(run: Path) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    (first, *_) = re.findall(r'<polyline class="line" points="([^"]+)"', html)
    points = first.split()
    points[2] = f"{points[2].split(',')[0]},9.0"
    bent = " ".join(points)
    page.write_text(html.replace(first, bent), encoding="utf-8")
    assert list(differences(run))
