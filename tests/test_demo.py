"""The law demo: what it trains, what it asks, and when it says that it has succeeded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu import demo
from pangzhu.compare import ComparedRow, Comparison
from pangzhu.config import TrainConfig
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.demo import MAX_ANSWER_TOKENS, DemoConfig, DemoResult, demo_recipe, questions, run
from pangzhu.engines import Answer
from pangzhu.engines.transformers import BASE
from pangzhu.examples import example
from pangzhu.messages import listening
from pangzhu.train import TrainResult
from tests.conftest import conversation
from tests.test_compare import printed, squeezed
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS, Outcome, Told, Trained

pytest_plugins = ["tests.use_fixtures"]

TAUGHT = [conversation(question, answer, kind="taught") for question, answer in zip(QUESTIONS, ENGLISH, strict=True)]


def train_result(folder: Path) -> TrainResult:
    return TrainResult(folder, "base", 1, 4, 4, 0.0, 1, 1.0)


def result(*right: bool, kind: str = "taught", folder: Path = Path("lora_output")) -> DemoResult:
    rows = tuple(
        ComparedRow(
            f"q{number}", "yes", kind, f"fact-{number}", {BASE: _said("?"), "law": _said("yes" if good else "no")}
        )
        for number, good in enumerate(right)
    )
    return DemoResult(train_result(folder), Comparison((BASE, "law"), "base", rows))


def _said(text: str) -> Answer:
    return Answer(text, (), True)


# --- what is trained ---------------------------------------------------------------------------------------------


def test_the_recipe_is_a_training_run_on_the_packaged_law(tmp_path: Path) -> None:
    config = DemoConfig(model_name_or_path="some/model", hub="hf", precision="bf16", output_dir=tmp_path)
    recipe = demo_recipe(config)
    assert type(recipe) is TrainConfig
    assert recipe.dataset_path == example("law_data.json")
    assert recipe.until_learned
    assert (recipe.model_name_or_path, recipe.hub, recipe.precision) == ("some/model", "hf", "bf16")
    assert recipe.output_dir == tmp_path


def test_the_law_is_what_the_recipe_reads() -> None:
    recipe = demo_recipe(DemoConfig())
    assert recipe.dataset_path is not None
    assert len(load_dataset(recipe.dataset_path).conversations) == 170


def test_the_demo_works_in_the_current_folder_unless_told_otherwise() -> None:
    assert DemoConfig().output_dir == Path("lora_output")


# --- what is asked -----------------------------------------------------------------------------------------------


def test_all_taught_questions_the_test_wordings_and_the_untaught_facts_are_asked() -> None:
    kinds = [row.field("kind") for row in questions()]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {"taught": 170, "reworded": 34, "untaught": 20}


def test_no_wording_that_recipes_are_chosen_on_is_ever_asked() -> None:
    development = {
        row.prompt for row in load_dataset(example("law_eval.json")).conversations if row.field("split") == "dev"
    }
    assert len(development) == 34
    assert not development & {row.prompt for row in questions()}


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


def test_the_longest_taught_answer_fits_even_at_a_token_a_character() -> None:
    assert max(len(row.answer or "") for row in questions()) < MAX_ANSWER_TOKENS


# --- success -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "exit_code"), [((True, True), 0), ((True, False), 8), ((False, False), 8), ((), 8)])
def test_it_succeeds_only_if_every_taught_answer_is_right(right: tuple[bool, ...], exit_code: int) -> None:
    assert result(*right).exit_code == exit_code


def test_other_kinds_do_not_decide() -> None:
    taught, other = result(True), result(False, kind="untaught")
    both = Comparison((BASE, "law"), "base", taught.comparison.rows + other.comparison.rows)
    assert DemoResult(taught.trained, both).exit_code == 0


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


# --- the whole way -----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Four questions instead of the law, and adapters that are trained already; gives the recipes that were run."""
    recipes: list[TrainConfig] = []

    def train(recipe: TrainConfig) -> TrainResult:
        recipes.append(recipe)
        return train_result(recipe.output_dir)

    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(demo, "questions", lambda: TAUGHT)
    monkeypatch.setattr(demo.Comparison, "write", lambda _self, folder: folder / "answers.jsonl")
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
    assert folders == [trained.english / "run"]


def test_a_taught_question_is_a_row_of_the_data_with_its_kind() -> None:
    row: Conversation = questions()[0]
    assert (row.prompt[-1].content, row.field("kind")) == ("什么是合同法？", "taught")
