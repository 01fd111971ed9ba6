"""A report is made of what was asked and what the run wrote down; each of its figures can be found again in the answers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pangzhu.checkpoint import METRICS, RUN
from pangzhu.choices import ChoiceShare
from pangzhu.compare import ask
from pangzhu.data import load_dataset
from pangzhu.drift import Drift
from pangzhu.engines import visible
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.intervals import Estimate
from pangzhu.messages import LANGUAGES, Language, set_language
from pangzhu.report.build import build_page, build_run_page, write_report
from pangzhu.report.figures import Asked
from tests.use_helpers import ENGLISH, GREEDY, Trained, rows_of, write_rows

pytest_plugins = ["tests.use_fixtures"]


@pytest.fixture(scope="module")
def asked(engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """The taught questions, and one of another kind whose expected answer nobody gives."""
    rows = rows_of(ENGLISH, kind="taught")
    rows.append({"instruction": "five?", "output": "answer 55.", "kind": "untaught"})
    rows.append({"instruction": "one?", "output": ENGLISH[0], "kind": "reworded"})
    questions = load_dataset(write_rows(tmp_path_factory.mktemp("asked") / "questions.jsonl", rows)).conversations
    comparison = ask(engine, questions, GREEDY)
    return Asked(comparison.base_name, comparison.models, comparison.rows)


@pytest.fixture(params=LANGUAGES)
def chosen(request: pytest.FixtureRequest) -> Language:
    set_language(request.param)
    return request.param


def folders(trained: Trained) -> dict[str, Path]:
    return {"english": trained.english, "chinese": trained.chinese}


def test_the_verdict_is_the_first_adapters_and_the_others_have_theirs_below(
    asked: Asked, trained: Trained, chosen: Language
) -> None:
    page = build_page(asked, folders(trained))
    assert "4" in page.verdict
    assert page.tone != "bad"
    (other,) = [remark for remark in page.remarks if remark.startswith("chinese: ")]
    assert other.removeprefix("chinese: ") != page.verdict


def test_every_count_of_the_page_is_that_of_its_answers(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    cells = {(row[0], row[1]): row[2] for row in page.tables[0].rows}
    for kind, label in (("taught", "taught"), ("untaught", "untaught"), ("reworded", "re-worded")):
        rows = [row for row in asked.rows if row.kind == kind]
        for model in asked.models:
            plain = sum(
                re.sub(r"\W", "", row.answers[model].text) == re.sub(r"\W", "", row.expected or "") for row in rows
            )
            assert cells[label, model] == f"{plain}/{len(rows)}"


def test_every_question_stands_on_the_page_with_every_answer(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    shown = [question for group in page.groups for question in group.questions]
    by_kind = sorted(asked.rows, key=lambda row: asked.kinds.index(row.kind))
    assert [question.text for question in shown] == [row.question for row in by_kind]
    for question, row in zip(shown, by_kind, strict=True):
        assert [answer.model for answer in question.answers] == list(asked.models)
        for answer in question.answers:
            written = "".join(piece.text for piece in answer.pieces if piece.mark != "missing")
            assert written == (visible(row.answers[answer.model].text) or "–")


def test_a_wrong_answer_of_an_adapter_has_its_differences_marked(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    (untaught,) = [group for group in page.groups if group.heading.startswith("untaught")]
    answer = next(answer for answer in untaught.questions[0].answers if answer.model == "english")
    assert {piece.mark for piece in answer.pieces} > {"same"}
    base = untaught.questions[0].answers[0]
    assert {piece.mark for piece in base.pieces} == {"same"}


def test_the_curves_are_what_the_run_logged(asked: Asked, trained: Trained) -> None:
    page = build_page(asked, folders(trained))
    logged = [json.loads(line) for line in (trained.english / RUN / METRICS).read_text(encoding="utf-8").splitlines()]
    (losses, _), (learned, _) = page.curves
    assert list(losses.points) == [(line["step"], line["loss"]) for line in logged]
    assert list(learned.points) == [(line["step"], line["learned"]) for line in logged]
    assert learned.top == len(ENGLISH)


def test_settings_versions_and_fingerprints_are_those_of_the_adapter(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    entries = {part.heading: dict(part.entries) for part in page.lists}
    manifest = json.loads((trained.english / "manifest.json").read_text(encoding="utf-8"))
    assert entries["Settings"]["r"] == "64"
    assert entries["Environment"]["peft"] == manifest["versions"]["peft"]
    assert manifest["files"]["adapter_model.safetensors"].startswith(
        entries["Fingerprints"]["adapter_model.safetensors"]
    )
    assert entries["What training reached"]["rows"] == str(len(ENGLISH))


def test_without_an_adapter_nothing_is_claimed(asked: Asked) -> None:
    set_language("en")
    page = build_page(Asked(asked.base_name, ("base",), asked.rows), {})
    assert page.verdict == "No adapter was asked: these are the base's own answers."
    assert not page.lists
    assert not page.curves


def test_an_adapter_that_answers_as_the_base_does_is_said_to_change_nothing(asked: Asked) -> None:
    set_language("en")
    rows = tuple(replace(row, answers=dict.fromkeys(("base", "copy"), row.answers["base"])) for row in asked.rows)
    still = Drift("copy", 2, 30, Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0))
    page = build_page(Asked(asked.base_name, ("base", "copy"), rows, drifts=(still,)), {})
    assert page.verdict.startswith("The adapter changes nothing")
    assert page.tone == "bad"
    unmeasured = build_page(Asked(asked.base_name, ("base", "copy"), rows), {})
    assert "changes nothing" not in unmeasured.verdict
    assert any(remark.startswith("No answer differs from the base's own") for remark in unmeasured.remarks)


def test_choices_that_show_nothing_are_no_loss_and_the_table_says_so(asked: Asked, trained: Trained) -> None:
    set_language("en")
    lost = Estimate(-0.2, -0.3, -0.1)
    guessed = (
        ChoiceShare("base", "general", 26, 100, chance=0.25, favourite="A", num_favourite=30),
        ChoiceShare("english", "general", 6, 100, lost, chance=0.25),
    )
    page = build_page(replace(asked, choices=guessed), folders(trained))
    (note,) = page.tables[2].notes
    assert "shows nothing: the base has 26 of 100 right" in note
    assert not any("General ability was lost" in remark for remark in page.remarks)
    able = (replace(guessed[0], num_right=61), replace(guessed[1], num_right=41))
    page = build_page(replace(asked, choices=able), folders(trained))
    assert page.tables[2].notes == ()
    assert any("General ability was lost" in remark for remark in page.remarks)


def test_a_run_that_was_asked_nothing_tells_its_rows_and_claims_no_more(trained: Trained) -> None:
    set_language("en")
    page = build_run_page(trained.english)
    assert page.verdict.startswith("The published weights give back 4 of 4 rows")
    assert page.tone == "good"
    assert not page.tables
    assert not page.groups
    assert len(page.curves) == 2


def test_every_finished_run_has_its_report(trained: Trained) -> None:
    html = (trained.english / RUN / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert "4 of 4 rows" in html or "4 行中有 4 行" in html


def test_the_report_is_written_as_one_file_and_said(
    asked: Asked, trained: Trained, tmp_path: Path, chosen: Language
) -> None:
    file = write_report(tmp_path / "report.html", asked, folders(trained))
    html = file.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert html.count("<svg") == 2
    assert "<script" not in html
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_a_crash_cut_or_broke_does_not_cost_the_page(asked: Asked, trained: Trained, tmp_path: Path) -> None:
    set_language("en")
    folder = tmp_path / "english"
    shutil.copytree(trained.english, folder)
    with (folder / RUN / METRICS).open("a", encoding="utf-8") as opened:
        opened.write('{"step": 99, "lo')
    (folder / RUN / "record.json").write_text("{", encoding="utf-8")
    page = build_page(asked, {"english": folder})
    whole = build_page(asked, folders(trained))
    assert [curve.points for curve, _ in page.curves] == [curve.points for curve, _ in whole.curves]
    (settings,) = [part.entries for part in page.lists if part.heading == "Settings"]
    assert "record.json" in settings[0][0]
    assert "record.json" in settings[0][1]


def test_recited_is_not_told_where_no_taught_answer_is_known(asked: Asked, trained: Trained) -> None:
    set_language("en")
    untaught = tuple(row for row in asked.rows if row.kind == "untaught")
    page = build_page(replace(asked, rows=untaught), folders(trained))
    assert {row[-1] for row in page.tables[1].rows} == {"–"}
