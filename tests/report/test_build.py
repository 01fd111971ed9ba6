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
from pangzhu.compare import Comparison, ask
from pangzhu.data import load_dataset
from pangzhu.drift import Drift
from pangzhu.engines import visible
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import ModelError
from pangzhu.intervals import Estimate
from pangzhu.messages import LANGUAGES, Language, set_language, text
from pangzhu.report.build import MOST_OPEN, build_page, build_run_page, write_report, write_run_report
from pangzhu.report.figures import Asked
from pangzhu.report.page import Entries, Page, Table
from pangzhu.report.run_facts import RunFacts
from tests.use_helpers import ENGLISH, GREEDY, Trained, rows_of, write_rows

pytest_plugins = ["tests.use_fixtures"]


@pytest.fixture(scope="module")
def asked(engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """The taught questions, and one of another kind whose expected answer nobody gives."""
    rows = rows_of(ENGLISH, kind="taught")
    rows.append({"instruction": "five?", "output": "answer 55.", "kind": "untaught"})
    rows.append({"instruction": "one?", "output": ENGLISH[0], "kind": "reworded"})
    questions = load_dataset(write_rows(tmp_path_factory.mktemp("asked") / "questions.jsonl", rows)).conversations
    return Asked(ask(engine, questions, GREEDY))


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
        rows = [row for row in asked.comparison.rows if row.kind == kind]
        for model in asked.comparison.models:
            plain = sum(
                re.sub(r"\W", "", row.answers[model].text) == re.sub(r"\W", "", row.expected or "") for row in rows
            )
            assert cells[label, model] == f"{plain}/{len(rows)}"


def test_every_question_stands_on_the_page_with_every_answer(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    shown = [question for group in page.groups for question in group.questions]
    by_kind = sorted(asked.comparison.rows, key=lambda row: asked.comparison.kinds.index(row.kind))
    assert [question.text for question in shown] == [row.question for row in by_kind]
    for question, row in zip(shown, by_kind, strict=True):
        assert [answer.model for answer in question.answers] == list(asked.comparison.models)
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


def test_the_loss_of_validation_rows_is_drawn_beside_that_of_training(
    trained: Trained, tmp_path: Path, chosen: Language
) -> None:
    folder = tmp_path / "english"
    shutil.copytree(trained.english, folder)
    measured = [{"step": step, "eval_loss": loss, "eval_learned": 0} for step, loss in ((1, 5.5), (20, 4.25))]
    with (folder / RUN / METRICS).open("a", encoding="utf-8") as opened:
        opened.writelines(f"{json.dumps(line)}\n" for line in measured)
    page, before = build_run_page(RunFacts.read(folder)), build_run_page(RunFacts.read(trained.english))
    (both, caption), learned = page.curves
    assert both.beside is not None
    assert list(both.beside.points) == [(1, 5.5), (20, 4.25)]
    assert both.points == before.curves[0][0].points
    assert learned == before.curves[1]
    assert caption == both.title == text("report.curves.both")
    html = write_run_report(folder).read_text(encoding="utf-8")
    assert html.count("<polyline") == 3
    assert both.name in html
    assert both.beside.name in html


def test_what_validation_rows_said_of_the_published_weights_is_among_the_results(
    trained: Trained, tmp_path: Path
) -> None:
    set_language("en")
    folder = tmp_path / "english"
    shutil.copytree(trained.english, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["metrics"] |= {
        "published_step": 12,
        "validation_loss": 0.25,
        "validation_learned": 0,
        "num_validation_rows": 3,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    results = dict(build_run_page(RunFacts.read(folder)).facts[0].entries)
    assert results["step whose weights are published"] == "12"
    assert results["their validation loss"] == "0.2500"
    assert (results["validation rows learned by them"], results["validation rows"]) == ("0", "3")
    assert "validation rows" not in dict(build_run_page(RunFacts.read(trained.english)).facts[0].entries)


def test_settings_versions_and_fingerprints_are_those_of_the_adapter(asked: Asked, trained: Trained) -> None:
    set_language("en")
    page = build_page(asked, folders(trained))
    entries = {part.heading: dict(part.entries) for part in page.facts if isinstance(part, Entries)}
    manifest = json.loads((trained.english / "manifest.json").read_text(encoding="utf-8"))
    assert entries["Settings"]["r"] == "64"
    assert entries["Environment"]["peft"] == manifest["versions"]["peft"]
    assert manifest["files"]["adapter_model.safetensors"].startswith(
        entries["Fingerprints"]["adapter_model.safetensors"]
    )
    assert entries["What training reached"]["rows"] == str(len(ENGLISH))
    assert entries["Fingerprints"]["its tokenizer"] == manifest["base"]["fingerprint"]["tokenizer"]
    assert "README.md" not in entries["Fingerprints"]


def table(page: Page, heading: str) -> Table:
    (found,) = [part for part in page.facts if isinstance(part, Table) and part.heading == heading]
    return found


def test_what_was_planned_stands_beside_what_was_taken(trained: Trained) -> None:
    set_language("en")
    account = table(build_run_page(RunFacts.read(trained.english)), "Plan against actual")
    record = json.loads((trained.english / RUN / "record.json").read_text(encoding="utf-8"))
    cells = {row[0]: row[1:] for row in account.rows}
    planned, taken = record["planned"]["num_steps"], record["taken"]["num_steps"]
    assert planned > taken > 0
    assert cells["optimizer steps"] == (f"{planned:,}", f"{taken:,}", f"{100 * taken / planned:.0f}%")
    assert cells["tokens read"][1] == f"{record['taken']['num_tokens']:,}"
    assert cells["peak memory, GB"][1] == f"{record['taken']['memory'] / 1e9:.2f}"


def test_what_no_record_knows_is_a_dash_and_no_invented_figure(trained: Trained) -> None:
    set_language("en")
    run = RunFacts.read(trained.english)
    assert run.record is not None
    old = replace(run, record=replace(run.record, planned={}))
    assert {row[1::2] for row in table(build_run_page(old), "Plan against actual").rows} == {("–", "–")}
    older = build_run_page(replace(run, record=replace(run.record, taken={}, environment={})))
    assert "Plan against actual" not in [part.heading for part in older.facts]


def test_the_data_is_told_in_figures_that_its_rows_give(trained: Trained) -> None:
    set_language("en")
    page = build_run_page(RunFacts.read(trained.english))
    (data,) = [dict(part.entries) for part in page.facts if part.heading == "Data" and isinstance(part, Entries)]
    assert data["file"].startswith("english.jsonl, 4 rows, sha256 ")
    assert data["rows trained"] == "4"
    assert not {"of these, replay", "different facts"} & data.keys()
    lengths = table(page, "How long the rows are")
    assert sum(int(row[1]) for row in lengths.rows) == 4


def test_an_adapter_without_a_summary_of_its_data_has_a_page_without_one(trained: Trained) -> None:
    set_language("en")
    run = RunFacts.read(trained.english)
    page = build_run_page(replace(run, manifest=replace(run.manifest, data={})))
    assert not {"Data", "How long the rows are"} & {part.heading for part in page.facts}


@pytest.mark.parametrize("broken", [{"file": 1}, {"file": {}}, {"lengths": {"histogram": 3}}])
def test_a_summary_that_was_changed_is_refused_by_name(trained: Trained, broken: dict[str, object]) -> None:
    run = RunFacts.read(trained.english)
    with pytest.raises(ModelError) as refused:
        build_run_page(replace(run, manifest=replace(run.manifest, data=run.manifest.data | broken)))
    assert refused.value.key == "error.adapter.manifest_broken"


def test_the_way_to_a_base_on_this_computer_is_not_told(trained: Trained) -> None:
    set_language("en")
    page = build_run_page(RunFacts.read(trained.english))
    assert trained.base.name in page.title
    assert str(trained.base.parent) not in repr((page.title, page.facts))


@pytest.mark.parametrize(("num", "is_open"), [(MOST_OPEN, True), (MOST_OPEN + 1, False)])
def test_a_kind_of_many_questions_is_folded_away_and_its_counts_are_told(asked: Asked, num: int, is_open: bool) -> None:
    set_language("en")
    row = next(row for row in asked.comparison.rows if row.kind == "taught")
    (group,) = build_page(Asked(replace(asked.comparison, rows=(row,) * num)), {}).groups
    assert group.is_open is is_open
    assert group.counts == f"right: base 0/{num} · english {num}/{num} · chinese 0/{num}"


def test_without_an_adapter_nothing_is_claimed(asked: Asked) -> None:
    set_language("en")
    page = build_page(Asked(replace(asked.comparison, models=("base",))), {})
    assert page.verdict == "No adapter was asked: these are the base's own answers."
    assert not page.facts
    assert not page.curves


def test_an_adapter_that_answers_as_the_base_does_is_said_to_change_nothing(asked: Asked) -> None:
    set_language("en")
    rows = tuple(
        replace(row, answers=dict.fromkeys(("base", "copy"), row.answers["base"])) for row in asked.comparison.rows
    )
    still = Drift("copy", 2, 30, Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0))
    copied = Comparison(("base", "copy"), asked.comparison.base_name, rows)
    page = build_page(Asked(copied, drifts=(still,)), {})
    assert page.verdict.startswith("The adapter changes nothing")
    assert page.tone == "bad"
    unmeasured = build_page(Asked(copied), {})
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
    page = build_run_page(RunFacts.read(trained.english))
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
    file = write_report(tmp_path / "report.html", build_page(asked, folders(trained)))
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
    (settings,) = [part.entries for part in page.facts if isinstance(part, Entries) and part.heading == "Settings"]
    assert "record.json" in settings[0][0]
    assert "record.json" in settings[0][1]


def test_recited_is_not_told_where_no_taught_answer_is_known(asked: Asked, trained: Trained) -> None:
    set_language("en")
    untaught = tuple(row for row in asked.comparison.rows if row.kind == "untaught")
    page = build_page(Asked(replace(asked.comparison, rows=untaught)), folders(trained))
    assert {row[-1] for row in page.tables[1].rows} == {"–"}
