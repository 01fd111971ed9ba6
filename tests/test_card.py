"""The model card says what the report says, is read by model hubs, and stays its owner's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from pangzhu.adapter import BaseRecord, describe, read_manifest, sha256_of
from pangzhu.card import model_card, renew_card, write_card
from pangzhu.errors import ModelError
from pangzhu.messages import LANGUAGES, Language, listening, set_language
from pangzhu.model import BaseFingerprint
from pangzhu.report.build import build_run_page
from pangzhu.report.page import Entries, Page, Table
from pangzhu.report.run_facts import RunFacts
from tests.use_helpers import Told, Trained

pytest_plugins = ["tests.use_fixtures"]
pytestmark = pytest.mark.usefixtures("one_core")

BASE = BaseRecord("models/mine", "Qwen/Qwen2.5-0.5B-Instruct", None, BaseFingerprint("c", "t", "k"))
FIGURES = Table("figures", ("kind", "right"), (("taught", "170/170 [98–100]"), ("untaught", "–")), "intro", ("note",))
PAGE = Page(
    "law on qwen", "Learned: 170 of 170.", "good", ("remark",), (FIGURES,), facts=(Entries("Data", (("a", "b"),)),)
)


@pytest.fixture(params=LANGUAGES)
def chosen(request: pytest.FixtureRequest) -> Language:
    set_language(request.param)
    return request.param


def card(page: Page = PAGE, base: BaseRecord = BASE, folder: Path = Path("law-lora")) -> str:
    return model_card(page, base, folder)


def test_the_front_matter_is_what_model_hubs_read() -> None:
    assert ModelCard(card()).data.to_dict() == {
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "pangzhu"],
    }


def test_a_base_that_no_hub_has_is_not_named_to_hubs() -> None:
    local = replace(BASE, public_id=None)
    assert "base_model" not in yaml.safe_load(card(base=local).split("---\n", 2)[1])


def test_every_word_and_figure_of_the_page_stands_in_the_card(chosen: Language) -> None:
    lines = card().splitlines()
    assert {"# law on qwen", "**Learned: 170 of 170.**", "remark", "## figures", "intro", "note", "## Data"} <= set(
        lines
    )
    assert {"| kind | right |", "| taught | 170/170 [98–100] |", "| untaught | – |", "| a | b |"} <= set(lines)


def test_the_published_card_says_what_the_report_of_the_run_says(trained: Trained) -> None:
    text = (trained.english / "README.md").read_text(encoding="utf-8")
    set_language("zh" if "怎么用" in text else "en")
    page = build_run_page(RunFacts.read(trained.english))
    assert f"**{page.verdict}**" in text
    for section in page.facts:
        for cells in section.entries if isinstance(section, Entries) else section.rows:
            assert f"| {' | '.join(cells)} |" in text


def test_a_folder_called_by_a_dot_is_named_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"from_pretrained('{tmp_path.name}')" in card(folder=Path())
    assert f'pangzhu chat --adapter "{tmp_path.name}"' in card(folder=Path())


@pytest.mark.parametrize(
    "words", ["a|b", "**bold**", "<script>", "[x](http://y)", "`code`", "two\nlines", "back\\slash"]
)
def test_what_people_wrote_is_no_markup_and_breaks_no_table(words: str) -> None:
    page = replace(PAGE, facts=(Entries("Data", ((words, "b"),)),))
    (line,) = [line for line in card(page).splitlines() if line.endswith("| b |")]
    written = line.removeprefix("| ").removesuffix(" | b |")
    unescaped = written.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\").replace("<br>", "\n")
    assert unescaped == words
    assert all(f"\\{char}" in written for char in "|*<`" if char in words)


def copied(trained: Trained, folder: Path) -> Path:
    return Path(shutil.copytree(trained.english, folder / "adapter"))


def test_a_renewed_card_is_the_one_its_manifest_names(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    before = read_manifest(folder)
    renew_card(folder, PAGE)
    after = read_manifest(folder)
    assert "Learned: 170 of 170." in (folder / "README.md").read_text(encoding="utf-8")
    assert after.files["README.md"] == sha256_of(folder / "README.md") != before.files["README.md"]
    assert replace(after, files=before.files) == before
    assert describe(folder).fault is None


def test_a_card_can_be_renewed_again_and_again(trained: Trained, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    renew_card(folder, PAGE)
    renew_card(folder, replace(PAGE, verdict="Better still."))
    assert "Better still." in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("deleted", [True, False])
def test_a_card_that_its_owner_edited_or_deleted_is_left_alone_and_that_is_said(
    deleted: bool, trained: Trained, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    card_file, manifest = folder / "README.md", (folder / "manifest.json").read_bytes()
    card_file.unlink() if deleted else card_file.write_text("mine", encoding="utf-8")
    told = Told()
    with listening(told):
        renew_card(folder, PAGE)
    assert not card_file.exists() if deleted else card_file.read_text(encoding="utf-8") == "mine"
    assert (folder / "manifest.json").read_bytes() == manifest
    assert str(card_file) in str(told)


def test_a_card_written_elsewhere_leaves_the_adapter_as_it_is(trained: Trained, tmp_path: Path) -> None:
    before = {file: sha256_of(trained.english / file) for file in ("README.md", "manifest.json")}
    write_card(tmp_path / "README.md", PAGE, trained.english)
    assert "Learned: 170 of 170." in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert {file: sha256_of(trained.english / file) for file in before} == before


def test_what_is_no_adapter_has_no_card(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"base": 1}), encoding="utf-8")
    with pytest.raises(ModelError):
        renew_card(tmp_path, PAGE)
