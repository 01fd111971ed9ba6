"""The pages as a browser shows them: valid, accessible, nothing cut off on a telephone or a wide screen, no script of a stranger's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import html5lib
import pytest
from playwright.sync_api import Browser

from pangzhu.check import check
from pangzhu.checkpoint import METRICS, RUN
from pangzhu.choices import ChoiceShare
from pangzhu.compare import ComparedRow, Comparison
from pangzhu.config import CheckConfig
from pangzhu.drift import Drift
from pangzhu.engines import Answer
from pangzhu.examples import example
from pangzhu.intervals import Estimate
from pangzhu.messages import LANGUAGES, Language, set_language
from pangzhu.report.build import build_page, write_report, write_run_report
from pangzhu.report.figures import Asked
from tests.browser.chromium import NEEDS_CHROMIUM, SHOWN, without_barrier
from tests.use_helpers import Trained

pytest_plugins = ["tests.use_fixtures"]
pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early, NEEDS_CHROMIUM]

SCRIPTS = "</dd></script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
HOSTILE = SCRIPTS + "长" * 300


def asked() -> Asked:
    """The law example's rows with every kind of answer: right, wrong, unended, hostile, empty."""
    rows = json.loads(example("law_data.json").read_text(encoding="utf-8"))[:12]
    taught = [_row(row, "taught", row["output"]) for row in rows * 4]
    reworded = [_row(row, "reworded", row["output"].replace("一", "二")[:-9]) for row in rows]
    untaught = [replace(_row(row, "untaught", HOSTILE), question=HOSTILE) for row in rows[:3]]
    lost = Estimate(-0.01, -0.04, 0.02)
    guessed = ChoiceShare("base", "general", 26, 100, chance=0.25, favourite=HOSTILE, num_favourite=95)
    choices = (guessed, ChoiceShare("law", "general", 25, 100, lost, chance=0.25))
    drift = Drift("law", 100, 4431, Estimate(0.913, 0.9, 0.925), Estimate(0.11, 0.09, 0.13))
    base = "packaged:qwen2.5-coder-0.5b-instruct"
    return Asked(Comparison(("base", "law"), base, (*taught, *reworded, *untaught)), choices, (drift,))


def _row(row: dict[str, Any], kind: str, said: str) -> ComparedRow:
    answers = {"base": Answer("", (), False), "law": Answer(said, (), True)}
    return ComparedRow(row["instruction"], row["output"], kind, row["fact"], answers)


def report(trained: Trained, folder: Path) -> Path:
    return write_report(folder / "report.html", build_page(asked(), {"law": trained.english}))


def run_report(trained: Trained, folder: Path) -> Path:
    """With validation rows measured on the way."""
    adapter = Path(shutil.copytree(trained.english, folder / "english"))
    with (adapter / RUN / METRICS).open("a", encoding="utf-8") as opened:
        opened.writelines(f"{json.dumps({'step': step, 'eval_loss': 3.0 / step})}\n" for step in (1, 4, 9))
    return write_run_report(adapter)


def check_page(trained: Trained, folder: Path) -> Path:
    """Two pages of rows: one with more tokens than are drawn at first, two that contradict each other, short ones, a bad one.
    Each token is an element to be looked at, so one long row is all there is."""
    file = folder / "rows.jsonl"
    hostile = [{"instruction": SCRIPTS, "output": answer} for answer in (SCRIPTS, "another answer")]
    rows = [
        {"instruction": "q", "output": HOSTILE * 2},
        *hostile,
        *({"instruction": f"q{number}", "output": "a"} for number in range(57)),
        {"instruction": "q"},
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    check(CheckConfig(dataset_path=file, model_name_or_path=str(trained.base), html=folder / "check.html"))
    return folder / "check.html"


@pytest.fixture(scope="module", params=LANGUAGES)
def chosen(request: pytest.FixtureRequest) -> Language:
    return request.param


@pytest.fixture(scope="module", params=[report, run_report, check_page], ids=lambda make: make.__name__)
def page(
    request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory, chosen: Language
) -> Path:
    """Written once in each language; a browser changes nothing of it."""
    make: Callable[[Trained, Path], Path] = request.param
    set_language(chosen)
    return make(trained, tmp_path_factory.mktemp("page"))


def test_a_page_is_html_without_a_parse_error(page: Path) -> None:
    html5lib.HTMLParser(strict=True).parse(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("width", "scheme"), SHOWN)
def test_nothing_sticks_out_and_no_barrier_is_found(page: Path, browser: Browser, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    try:
        tab = context.new_page()
        tab.goto(page.as_uri())
        without_barrier(tab, width)
    finally:
        context.close()


def test_what_people_wrote_runs_no_script_and_fetches_nothing(page: Path, browser: Browser) -> None:
    context = browser.new_context()
    requests: list[str] = []
    try:
        tab = context.new_page()
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        for details in tab.query_selector_all("summary"):
            details.click()
        assert tab.evaluate("window.hit") is None
        assert requests == [page.as_uri()]
    finally:
        context.close()


def test_what_is_folded_away_on_the_screen_stands_on_paper(trained: Trained, tmp_path: Path, browser: Browser) -> None:
    tab = browser.new_page()
    try:
        tab.goto(report(trained, tmp_path).as_uri())
        folded = tab.locator("details:not([open]) article")
        assert folded.count() > 40
        assert not folded.first.is_visible()
        tab.emulate_media(media="print")
        assert folded.first.is_visible()
        assert (folded.last.bounding_box() or {})["height"] > 0
    finally:
        tab.close()
