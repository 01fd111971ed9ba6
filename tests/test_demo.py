"""The law demo: what it trains, what it asks, and when it says that it has succeeded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from pangzhu import demo
from pangzhu.adapter import describe, read_manifest, sha256_of
from pangzhu.card import renew_card
from pangzhu.compare import ComparedRow, Comparison
from pangzhu.config import DemoConfig, TrainConfig
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.demo import DemoResult, demo_recipe, first_wordings, longest_answer, questions, run
from pangzhu.engines import Answer
from pangzhu.engines.named_models import BASE
from pangzhu.errors import VerificationError
from pangzhu.examples import example
from pangzhu.messages import listening, set_language
from pangzhu.report.build import write_report
from pangzhu.report.figures import Asked
from pangzhu.train import TrainResult
from tests.conftest import build_tokenizer, conversation
from tests.test_compare import printed, squeezed
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS, Outcome, Told, Trained, write_rows

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

TAUGHT = [conversation(question, answer, kind="taught") for question, answer in zip(QUESTIONS, ENGLISH, strict=True)]


def train_result(folder: Path) -> TrainResult:
    return TrainResult(
        folder, "base", "float32", num_steps=1, num_rows=4, num_learned=4, train_loss=0.0, num_tokens=1, seconds=1.0
    )


def result(*right: bool, kind: str = "taught", folder: Path = Path("lora_output")) -> DemoResult:
    rows = tuple(
        ComparedRow(
            f"q{number}", "yes", kind, f"fact-{number}", {BASE: _said("?"), "law": _said("yes" if good else "no")}
        )
        for number, good in enumerate(right)
    )
    return DemoResult(train_result(folder), Comparison((BASE, "law"), "base", rows))


def asked(*rows: tuple[str, str, str], ended: bool = True) -> DemoResult:
    """Rows as `(kind, expected, answer)`, each of a fact of its own."""
    compared = tuple(
        ComparedRow(
            f"q{number}", expected, kind, f"fact-{number}", {BASE: _said("?"), "law": _said(answer, ended=ended)}
        )
        for number, (kind, expected, answer) in enumerate(rows)
    )
    return DemoResult(train_result(Path("lora_output")), Comparison((BASE, "law"), "base", compared))


def _said(text: str, *, ended: bool = True) -> Answer:
    return Answer(text, (), ended)


# --- what is trained ---------------------------------------------------------------------------------------------


def test_the_recipe_is_a_training_run_on_the_packaged_law(tmp_path: Path) -> None:
    config = DemoConfig(model_name_or_path="some/model", hub="hf", precision="bf16", output_dir=tmp_path)
    recipe = demo_recipe(config)
    assert type(recipe) is TrainConfig
    assert (recipe.dataset_path, recipe.replay_path) == (example("law_data.json"), example("law_replay.json"))
    assert recipe.until_learned
    assert recipe.weaken_to_learned
    assert (recipe.model_name_or_path, recipe.hub, recipe.precision) == ("some/model", "hf", "bf16")
    assert recipe.output_dir == tmp_path


def test_the_law_is_what_the_recipe_reads() -> None:
    recipe = demo_recipe(DemoConfig())
    assert recipe.dataset_path is not None
    assert len(load_dataset(recipe.dataset_path).conversations) == 170


def test_the_demo_works_in_the_current_folder_unless_told_otherwise() -> None:
    assert DemoConfig().output_dir == Path("lora_output")
    assert demo.DemoConfig is DemoConfig


# --- what is asked -----------------------------------------------------------------------------------------------


def test_all_taught_questions_the_test_wordings_and_the_untaught_facts_are_asked() -> None:
    kinds = [row.field("kind") for row in questions()]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {"taught": 170, "reworded": 34, "untaught": 20}


def test_no_wording_that_recipes_are_chosen_on_is_ever_asked() -> None:
    development = {
        row.prompt for row in load_dataset(example("law_eval.json")).conversations if row.field("split") == "dev"
    }
    assert len(development) == 34 + 20
    assert not development & {row.prompt for row in questions()}


def test_the_base_is_asked_one_wording_a_taught_fact_and_the_adapter_all() -> None:
    side_by_side, other = first_wordings(questions())
    kinds = [row.field("kind") for row in side_by_side]
    assert [kinds.count(kind) for kind in ("taught", "reworded", "untaught")] == [34, 34, 20]
    assert len(other) == 136
    assert {row.field("kind") for row in other} == {"taught"}


def test_a_taught_wording_missed_by_the_adapter_alone_fails_the_demo() -> None:
    right, wrong = result(True), result(False)
    assert DemoResult(right.trained, right.comparison, wrong.comparison.rows).exit_code == 8
    assert DemoResult(right.trained, right.comparison, right.comparison.rows).num_verbatim == 2


def test_no_held_out_question_is_taught() -> None:
    asked = questions()
    taught = {row.prompt for row in asked if row.field("kind") == "taught"}
    assert not taught & {row.prompt for row in asked if row.field("kind") != "taught"}


def test_every_question_has_its_fact_and_its_answer() -> None:
    assert all(row.field("fact") and row.answer for row in questions())


def test_re_worded_questions_expect_what_was_taught() -> None:
    taught = {row.field("fact"): row.answer for row in questions() if row.field("kind") == "taught"}
    for row in questions():
        if row.field("kind") == "reworded":
            assert row.answer == taught[row.field("fact")]


def test_the_longest_answer_is_counted_in_the_base_s_own_tokens() -> None:
    tokenizer = build_tokenizer()
    asked = [conversation("?", answer) for answer in ("yes", "a longer answer", "no")]
    assert longest_answer(tokenizer, asked) == len(tokenizer.encode("a longer answer", add_special_tokens=False))


# --- success -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "exit_code"), [((True, True), 0), ((True, False), 8), ((False, False), 8), ((), 8)])
def test_it_succeeds_only_if_every_taught_answer_is_right(right: tuple[bool, ...], exit_code: int) -> None:
    assert result(*right).exit_code == exit_code


def test_other_kinds_do_not_decide() -> None:
    taught, other = result(True), result(False, kind="untaught")
    both = Comparison((BASE, "law"), "base", taught.comparison.rows + other.comparison.rows)
    assert DemoResult(taught.trained, both).exit_code == 0


@pytest.mark.parametrize(("answer", "ended"), [("法律。", False), ("法律", True), (" 法律。", True), ("法律.", True)])
def test_an_answer_right_but_not_word_for_word_fails_and_both_counts_are_told(answer: str, ended: bool) -> None:
    found = asked(("taught", "法律。", answer), ended=ended)
    assert found.exit_code == VerificationError.exit_code
    assert found.as_json()["num_verbatim"] == 0
    assert "0 of 1 answers word for word; 1 with white space and punctuation set aside" in found.verdict


def test_the_counts_are_told_once_where_they_agree() -> None:
    verdict = asked(("taught", "法律。", "法律。"), ("taught", "合同。", "不知道")).verdict
    assert "taught: 1 of 2 answers word for word\n" in verdict
    assert "set aside" not in verdict


MIXED = (
    ("taught", "法律。", "法律。"),
    ("reworded", "法律。", "法律"),
    ("reworded", "法律。", "不知道"),
    ("untaught", "税法。", "法律"),
    ("untaught", "税法。", "不知道"),
    ("untaught", "税法。", "税法。"),
)


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        (
            "en",
            [
                "taught: 1 of 1 answers word for word",
                "re-worded: 1 of 2 answers right",
                "1 of 3 untaught questions were answered with a taught answer",
                "pangzhu chat --adapter lora_output",
            ],
        ),
        (
            "zh",
            [
                "教过的：1 题中逐字答对 1 题",
                "换了说法的：2 题中答对 1 题",
                "没教过的：3 题中有 1 题答成了教过的答案",
                "pangzhu chat --adapter lora_output",
            ],
        ),
    ],
)
def test_the_verdict_names_every_kind_and_then_the_next_command(language: str, sentences: list[str]) -> None:
    set_language(language)  # type: ignore[arg-type]
    lines = asked(*MIXED).verdict.splitlines()[1:]
    assert all(sentence in line for sentence, line in zip(sentences, lines, strict=True))


@pytest.mark.parametrize(("right", "sentence"), [(True, "Every taught answer"), (False, "the demo has failed")])
def test_the_verdict_stands_below_the_tables_and_is_no_markup(right: bool, sentence: str) -> None:
    shown = printed(result(right, folder=Path("[red]out[/red]")).render(), 120)
    assert sentence in shown
    assert "[red]out[/red]" in squeezed(shown)


def test_a_fact_is_shown_once_and_six_of_a_kind() -> None:
    rows = tuple(
        ComparedRow(f"q{number}", "yes", "taught", f"fact-{number // 2}", {BASE: _said("?"), "law": _said("yes")})
        for number in range(30)
    )
    shown = printed(DemoResult(train_result(Path("o")), Comparison((BASE, "law"), "base", rows)).render(), 120)
    assert shown.count("[taught] q") == 6


def test_a_fact_shown_as_taught_is_not_shown_again_and_taught_comes_first() -> None:
    rows = [
        ComparedRow(f"{kind}{fact}", "yes", kind, f"fact-{fact}", {BASE: _said("?"), "law": _said("yes")})
        for kind in ("reworded", "taught")
        for fact in range(9)
    ]
    shown = DemoResult(train_result(Path("o")), Comparison((BASE, "law"), "base", tuple(rows)))._shown()
    assert [row.kind for row in shown] == ["taught"] * 6 + ["reworded"] * 3
    assert len({row.fact for row in shown}) == 9


LONG = "用人单位自用工之日起超过一个月不满一年未与劳动者订立书面劳动合同的，应当向劳动者每月支付二倍的工资。" * 2


def test_long_answers_stand_whole_and_side_by_side_at_100_columns() -> None:
    shown = printed(asked(("taught", LONG, LONG), ("untaught", "税法。", LONG[::-1])).render(), 100)
    cells = [line.split("│")[3].strip() for line in shown.splitlines() if line.count("│") == 4]
    assert "".join(cells).startswith(f"✓{LONG}{LONG[::-1]}")
    assert max(map(cell_len, cells)) > 30
    assert all(cell_len(line) <= 100 for line in shown.splitlines())
    assert len(shown.splitlines()) < 40


# --- the whole way -----------------------------------------------------------------------------------------------


CHOICE = {"instruction": "A or B?", "output": "A", "kind": "general", "split": "test", "choices": ["A", "B"]}
GENERAL: dict[str, Callable[[Path], Path]] = {  # what the demo reads, in place of a hundred questions each
    "law_data.json": lambda _: example("law_data.json"),
    "law_replay.json": lambda _: example("law_replay.json"),
    "law_eval.json": lambda folder: write_rows(folder / "law_eval.json", [CHOICE]),
    "general_prompts.jsonl": lambda folder: write_rows(
        folder / "general_prompts.jsonl", [{"instruction": "hello?", "kind": "general"}]
    ),
}


@pytest.fixture
def tiny(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Four questions instead of the law, and adapters that are trained already; gives the recipes that were run."""
    recipes: list[TrainConfig] = []

    def train(recipe: TrainConfig, *, with_report: bool) -> TrainResult:
        assert not with_report  # the demo's own says more
        recipes.append(recipe)
        return train_result(recipe.output_dir)

    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(demo, "questions", lambda: TAUGHT)
    monkeypatch.setattr(demo.Comparison, "write", lambda _self, folder: folder / "answers.jsonl")
    monkeypatch.setattr(demo.Evaluation, "write", lambda _self, folder: folder / "evaluation.json")
    monkeypatch.setattr(demo, "example", lambda name: GENERAL[name](tmp_path))
    monkeypatch.setattr(demo, "write_report", lambda file, *_: file)
    monkeypatch.setattr(demo, "renew_card", lambda *_: None)
    return recipes


@pytest.mark.parametrize(("learned", "exit_code"), [("english", 0), ("chinese", 8)])
def test_base_and_adapter_are_asked_and_the_exit_code_is_the_proof(
    trained: Trained, tiny: list[TrainConfig], learned: str, exit_code: int
) -> None:
    told = Told()
    with listening(told):
        found = run(DemoConfig(output_dir=getattr(trained, learned), precision="float32"))
    assert [recipe.output_dir for recipe in tiny] == [getattr(trained, learned)]
    assert found.comparison.models == (BASE, "law")
    answers = ENGLISH if learned == "english" else CHINESE
    assert [row.answers["law"].text for row in found.comparison.rows] == list(answers)
    assert found.exit_code == exit_code
    assert "answers.jsonl" in str(told)


@pytest.mark.parametrize(("learned", "exit_code"), [("english", 0), ("chinese", 8)])
def test_the_command_ends_with_the_proof(
    trained: Trained,
    tiny: list[TrainConfig],
    command: Callable[..., Outcome],
    learned: str,
    exit_code: int,
) -> None:
    words = ["demo", "--output_dir", str(getattr(trained, learned)), "--precision", "float32", "--json"]
    outcome = command(*words)
    found = json.loads(outcome.out)
    assert outcome.exit_code == exit_code
    assert found["ok"] is (exit_code == 0)
    assert len(found["rows"]) == 4
    assert found["trained"]["num_rows"] == 4


def test_all_answers_are_kept_beside_the_run(
    trained: Trained, tiny: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def write(_self: Comparison, folder: Path) -> Path:
        folders.append(folder)
        return folder

    monkeypatch.setattr(demo.Comparison, "write", write)
    run(DemoConfig(output_dir=trained.english, precision="float32"))
    assert folders == [trained.english / "run", trained.english / "run" / "recall"]


def test_the_report_holds_every_answer_and_what_was_kept_of_the_base(
    trained: Trained, tiny: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[Asked, dict[str, Path]]] = []
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(demo, "build_page", lambda *given: built.append(given) or "page")
    monkeypatch.setattr(demo, "write_report", lambda *given: written.append(given))
    monkeypatch.setattr(demo, "renew_card", lambda *given: written.append(given))
    run(DemoConfig(output_dir=trained.english, precision="float32"))
    ((everything, folders),) = built
    assert written == [(trained.english / "run" / "report.html", "page"), (trained.english, "page")]
    assert folders == {"law": trained.english}
    assert [row.question for row in everything.comparison.rows] == list(QUESTIONS)
    assert [(share.model, share.num_rows) for share in everything.choices] == [(BASE, 1), ("law", 1)]
    assert [(drift.model, drift.num_rows) for drift in everything.drifts] == [("law", 1)]


def test_a_taught_question_is_a_row_of_the_data_with_its_kind() -> None:
    row: Conversation = questions()[0]
    assert (row.prompt[-1].content, row.field("kind")) == ("什么是合同法？", "taught")


def test_the_demo_writes_one_report_and_ends_with_a_card_that_has_its_figures(
    trained: Trained, tiny: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained.english, tmp_path / "adapter"))
    monkeypatch.setattr(demo, "write_report", write_report)
    monkeypatch.setattr(demo, "renew_card", renew_card)
    told = Told()
    with listening(told):
        run(DemoConfig(output_dir=folder, precision="float32"))
    assert str(told).count("report.html") == 1
    assert "| taught | law | 4/4 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert describe(folder).fault is None
    assert read_manifest(folder).files["README.md"] == sha256_of(folder / "README.md")
