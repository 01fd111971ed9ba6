"""The independent reading of a report finds nothing in an honest one, and every figure that was bent."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.check_report import differences
from pangzhu.card import renew_card
from pangzhu.choices import ChoiceShare
from pangzhu.compare import ask
from pangzhu.data import load_dataset
from pangzhu.drift import Drift
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.evaluate import Evaluation
from pangzhu.intervals import Estimate
from pangzhu.messages import LANGUAGES, set_language
from pangzhu.report.build import build_page, write_report
from pangzhu.report.figures import Asked
from pangzhu.train import train
from tests.conftest import silently, train_config
from tests.use_helpers import ENGLISH, GREEDY, Trained, rows_of, write_rows

pytest_plugins = ["tests.use_fixtures"]
pytestmark = pytest.mark.usefixtures("one_core")

CHOICES = (ChoiceShare("base", "general", 1, 2), ChoiceShare("english", "general", 2, 2, Estimate(0.5, 0.0, 1.0)))
DRIFT = Drift("english", 2, 37, Estimate(0.912, 0.85, 0.95), Estimate(0.123, 0.1, 0.2))


@pytest.fixture(scope="module")
def adapter(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps, each of them logged: two passes over the data and a replay row, and a step more."""
    folder = tmp_path_factory.mktemp("logged")
    rows = write_rows(folder / "rows.jsonl", rows_of(ENGLISH, kind="taught"))
    replay = write_rows(folder / "replay.jsonl", [{"instruction": "hello?", "output": "hi"}])
    train(train_config(trained.base, rows, folder / "adapter", replay_path=replay, max_steps=7), on_step=silently)
    return folder / "adapter"


@pytest.fixture(params=LANGUAGES)
def run(request: pytest.FixtureRequest, adapter: Path, engine: TransformersEngine, tmp_path: Path) -> Path:
    """A run folder as the demo leaves it: answers, figures, what was logged, page and card."""
    set_language(request.param)
    rows = rows_of(ENGLISH, kind="taught")
    rows.append({"instruction": "five?", "output": "依据第五条。", "kind": "untaught"})
    rows.append({"instruction": "two?", "output": ENGLISH[1], "kind": "untaught"})
    questions = load_dataset(write_rows(tmp_path / "questions.jsonl", rows)).conversations
    found = ask(engine, questions, GREEDY, names=("base", "english"))
    folder = tmp_path / "adapter" / "run"
    shutil.copytree(adapter, folder.parent)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as opened:
        for step, loss in ((2, 2.5), (4, 1.25), (5, 3.5)):
            opened.write(json.dumps({"step": step, "eval_loss": loss}) + "\n")
    found.write(folder)
    Evaluation(found.base_name, (), choices=CHOICES, drifts=(DRIFT,)).write(folder)
    page = build_page(Asked(found, CHOICES, (DRIFT,)), {"english": folder.parent})
    write_report(folder / "report.html", page)
    renew_card(folder.parent, page)
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
        (r"<td>7</td><td>7</td>", "<td>7</td><td>8</td>"),
        (r"<td>7</td><td>7</td>", "<td>9</td><td>7</td>"),
        (r"<td>7</td><td>7</td><td>100%</td>", "<td>7</td><td>7</td><td>90%</td>"),
        (r"(tokens read|读过的词元)</th><td>", r"\1</th><td>9"),
        (r"(tokens read|读过的词元)</th><td>([\d,]+)</td><td>", r"\1</th><td>\2</td><td>9"),
        (r"<dt>(rows trained|参与训练的行数)</dt><dd>5", r"<dt>\1</dt><dd>6"),
        (r"<dt>(tokens of one pass|每遍的词元)</dt><dd>", r"<dt>\1</dt><dd>9"),
        (r"<td>(\d+)</td><td>[█▏]", r"<td>9\1</td><td>█"),
        (r"\(\d+%\)</dd>", "(101%)</dd>"),
        (r"<dt>adapter_model.safetensors</dt><dd>\w{4}", "<dt>adapter_model.safetensors</dt><dd>face"),
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


@pytest.mark.parametrize("kind", ["line", "line beside"])
def test_a_curve_that_was_bent_is_found(run: Path, kind: str) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    (first, *_) = re.findall(rf'<polyline class="{kind}" points="([^"]+)"', html)
    points = first.split()
    points[2] = f"{points[2].split(',')[0]},9.0"
    bent = " ".join(points)
    page.write_text(html.replace(first, bent), encoding="utf-8")
    assert list(differences(run))


@pytest.mark.parametrize(
    ("honest", "bent"), [("4/4", "3/4"), ("| 7 | 7 |", "| 7 | 6 |"), ("replay.jsonl", "none.jsonl")]
)
def test_a_card_that_says_otherwise_is_found(run: Path, honest: str, bent: str) -> None:
    card = run.parent / "README.md"
    text = card.read_text(encoding="utf-8")
    assert honest in text
    card.write_text(text.replace(honest, bent), encoding="utf-8")
    assert list(differences(run))


@pytest.mark.parametrize(("part", "figure"), [("planned", "memory"), ("taken", "memory"), ("taken", "seconds")])
def test_what_was_recorded_otherwise_is_found(run: Path, part: str, figure: str) -> None:
    file = run / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record[part][figure] = 9e12
    file.write_text(json.dumps(record), encoding="utf-8")


def test_a_validation_curve_on_axes_of_its_own_is_found(run: Path) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    (points,) = re.findall(r'<polyline class="line beside" points="([^"]+)"', html)
    raised = " ".join(f"{x},{float(y) - 20:.1f}" for x, y in (point.split(",") for point in points.split()))
    page.write_text(html.replace(points, raised), encoding="utf-8")
    found = list(differences(run))
    assert found
    assert {line.partition(" does not show")[0] for line in found} == {"the curve of both"}


def test_a_validation_curve_that_was_left_out_is_found(run: Path) -> None:
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r'<polyline class="line beside"[^>]*/>', "", html), encoding="utf-8")
    assert list(differences(run))
