"""Loss and exact recall: the loss is the cross entropy, and exact is what greedy decoding would write."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from pangzhu import step
from pangzhu.choices import ChoiceShare
from pangzhu.compare import ask
from pangzhu.config import CompareConfig
from pangzhu.data.conversation import Conversation, Turn
from pangzhu.data.findings import BadRowsError
from pangzhu.drift import Drift
from pangzhu.engines import Answer
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import DataError, UsageError
from pangzhu.evaluate import Evaluation, Measured, evaluate, measure, measure_formats
from pangzhu.intervals import Estimate, Share
from pangzhu.messages import listening, set_language
from pangzhu.questions import kind_of
from tests.conftest import conversation
from tests.test_compare import printed, squeezed
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, QUESTIONS, Outcome, Told, Trained, rows_of, write_rows

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]


def rows(answers: Sequence[str], **fields: str) -> list[Conversation]:
    return [conversation(question, answer, **fields) for question, answer in zip(QUESTIONS, answers, strict=True)]


MIXED = [*rows(ENGLISH), *rows(CHINESE), *rows(("answer 11", "answer 22!", "Answer 33.", "answer 4."))]


def loss_by_hand(engine: TransformersEngine, name: str, row: Conversation) -> tuple[float, int]:
    """Sum of -log p over the answer and its end token, and their number: one row, no packing, plain log_softmax."""
    prompt = engine.prompt(row.prompt, name)
    answer = [*engine.tokenizer(row.answer)["input_ids"], engine.contract(name).end_of_turn_id]
    with engine.using(name) as model, torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0].float()
    log_p = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return -float(log_p[range(len(answer)), answer].sum()), len(answer)


# --- loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BASE, "english", "chinese"])
def test_the_loss_is_the_mean_cross_entropy_over_the_answers_tokens(engine: TransformersEngine, name: str) -> None:
    by_hand = [loss_by_hand(engine, name, row) for row in MIXED]
    (measured,) = measure(engine, name, MIXED)
    assert measured.loss == pytest.approx(sum(loss for loss, _ in by_hand) / sum(n for _, n in by_hand), rel=1e-4)
    assert measured.perplexity == pytest.approx(torch.tensor(measured.loss).exp().item(), rel=1e-4)


def test_only_the_last_answer_of_a_conversation_counts(engine: TransformersEngine) -> None:
    row = conversation("a?", "b", "one?", "answer 11.")
    loss, number = loss_by_hand(engine, "english", row)
    (measured,) = measure(engine, "english", [row])
    assert measured.loss == pytest.approx(loss / number, rel=1e-4)


def test_the_budget_of_a_pass_changes_nothing(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(engine, "english", MIXED)
    monkeypatch.setattr("pangzhu.evaluate.MAX_TOKEN_BUDGET", 60)
    (split,) = measure(engine, "english", MIXED)
    assert split.loss == pytest.approx(whole[0].loss, rel=1e-5)
    assert split.num_exact == whole[0].num_exact


# --- exact -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BASE, "english", "chinese"])
def test_exact_is_what_generating_every_row_gives(engine: TransformersEngine, name: str) -> None:
    found = ask(engine, MIXED, GREEDY, on_answer=lambda *_: None)
    written = [row.answers[name].ended and row.answers[name].text == row.expected for row in found.rows]
    (measured,) = measure(engine, name, MIXED)
    assert measured.num_exact == sum(written) == {BASE: 0, "english": 4, "chinese": 4}[name]


def test_what_is_learned_by_a_margin_is_not_generated(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate_many", lambda *_: pytest.fail("generated"))
    (measured,) = measure(engine, "english", rows(ENGLISH))
    assert (measured.num_exact, measured.num_generated) == (4, 0)


def test_near_ties_are_settled_by_generating(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "LEARNED_MARGIN", 1e6)
    (measured,) = measure(engine, "english", MIXED)
    assert (measured.num_exact, measured.num_generated) == (4, len(MIXED))


def test_a_near_tie_that_generating_decides_otherwise_is_not_exact(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "LEARNED_MARGIN", 1e6)
    generate_many = engine.generate_many

    def flipped(*asked: object) -> list[object]:
        answers = dict(generate_many(*asked))  # type: ignore[arg-type]
        return [(index, answers[0]) for index in answers]

    monkeypatch.setattr(engine, "generate_many", flipped)
    (measured,) = measure(engine, "english", rows(ENGLISH))
    assert (measured.num_exact, measured.num_generated) == (1, 4)


def test_a_near_tie_may_be_longer_than_any_usual_limit(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the longest answer's own length with its end token, whatever --max_new_tokens says."""
    monkeypatch.setattr(step, "LEARNED_MARGIN", 1e6)
    limits: list[int] = []
    generate_many = engine.generate_many

    def watched(prompts: object, name: str, options: object) -> object:
        limits.append(options.max_new_tokens)  # type: ignore[attr-defined]
        return generate_many(prompts, name, options)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "generate_many", watched)
    measure(engine, "english", rows(ENGLISH))
    assert limits == [len(ENGLISH[0]) + 1]


def test_a_near_tie_is_asked_with_the_row_s_own_prompt(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "LEARNED_MARGIN", 1e6)
    asked: list[list[int]] = []
    generate_many = engine.generate_many

    def watched(prompts: Sequence[Sequence[int]], *rest: object) -> object:
        asked.extend(map(list, prompts))
        return generate_many(prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "generate_many", watched)
    measure(engine, "english", rows(ENGLISH))
    assert asked == [engine.prompt([Turn("user", question)], "english") for question in QUESTIONS]


# --- kinds -------------------------------------------------------------------------------------------------------


def test_kinds_are_measured_apart_in_the_order_of_the_file(engine: TransformersEngine) -> None:
    mixed = [*rows(CHINESE, kind="untaught"), *rows(ENGLISH, kind="taught"), conversation("one?", ENGLISH[0])]
    measured = measure(engine, "english", mixed)
    assert [(part.kind, part.num_rows, part.num_exact) for part in measured] == [
        ("untaught", 4, 0),
        ("taught", 4, 4),
        ("all", 1, 1),
    ]
    assert kind_of(mixed[0]) == "untaught"
    (whole,) = measure(engine, "english", rows(ENGLISH))
    assert measured[1].loss == pytest.approx(whole.loss, rel=1e-5)


def test_rows_keep_their_kind_however_they_are_packed(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest rows are packed first, so pieces hold the rows in another order than the file."""
    long = [conversation("x" * (7 * number), "no", kind="untaught") for number in range(1, 6)]
    mixed = [
        row
        for pair in zip(long, [*rows(ENGLISH, kind="taught"), conversation("?", "!", kind="taught")], strict=True)
        for row in pair
    ]
    whole = measure(engine, "english", mixed)
    monkeypatch.setattr("pangzhu.evaluate.MAX_TOKEN_BUDGET", 90)
    for split, once in zip(measure(engine, "english", mixed), whole, strict=True):
        assert (split.kind, split.num_rows, split.num_exact, split.num_ended) == (
            once.kind,
            once.num_rows,
            once.num_exact,
            once.num_ended,
        )
        assert split.loss == pytest.approx(once.loss, rel=1e-4)
    assert [part.num_exact for part in whole] == [0, 4]


def test_an_answer_ends_where_its_end_token_is_the_most_probable_one(engine: TransformersEngine) -> None:
    ended = []
    for row in MIXED:
        prompt = engine.prompt(row.prompt, "english")
        answer = engine.tokenizer(row.answer)["input_ids"]
        with engine.using("english") as model, torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, -1]
        ended.append(int(logits.argmax()) == engine.contract("english").end_of_turn_id)
    (measured,) = measure(engine, "english", MIXED)
    assert measured.num_ended == sum(ended)
    assert 4 <= measured.num_ended < len(MIXED)


# --- formats -----------------------------------------------------------------------------------------------------


def test_formats_are_asked_of_generated_answers(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {BASE: ("no", "no"), "english": ("{}", '{"name": "f", "arguments": {}}'), "chinese": ("[]", "{}")}
    asked: list[tuple[str, int]] = []

    def generate_many(prompts: Sequence[object], name: str, _: object) -> list[tuple[int, Answer]]:
        asked.append((name, len(prompts)))
        return [(1, Answer(written[name][1], (), True)), (0, Answer(written[name][0], (), True))]

    monkeypatch.setattr(engine, "generate_many", generate_many)
    formatted = [conversation("a?", "{}", format="json"), conversation("b?", "{}", format="tool_call")]
    found = measure_formats(engine, [conversation("c?", "d"), *formatted], GREEDY)
    assert [(share.model, share.num_right, share.num_rows) for share in found] == [
        (BASE, 0, 2), ("english", 2, 2), ("chinese", 1, 2),
    ]  # fmt: skip
    assert asked == [(name, 2) for name in engine.names]


def test_without_a_format_nothing_is_generated(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "generate_many", lambda *_: pytest.fail("generated"))
    assert measure_formats(engine, rows(ENGLISH), GREEDY) == []


# --- the stage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(trained: Trained) -> Callable[..., CompareConfig]:
    def made(dataset: Path, **more: object) -> CompareConfig:
        given = {"adapter": (f"law={trained.english}",), "precision": "float32", "dataset_path": dataset}
        return CompareConfig.model_validate(given | more)

    return made


def test_base_and_adapters_are_measured(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    found = evaluate(config(write_rows(tmp_path / "rows.jsonl", rows_of(ENGLISH))))
    assert [(part.model, part.num_exact) for part in found.measured] == [(BASE, 0), ("law", 4)]
    assert found.measured[1].loss < found.measured[0].loss


def test_what_onednn_keeps_is_bounded_before_the_model_is_loaded(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def load(*_: object, **__: object) -> None:
        assert asked == [4]
        raise RuntimeError("loaded")

    monkeypatch.setattr("pangzhu.evaluate.bound_kernel_caches", asked.append)
    monkeypatch.setattr("pangzhu.evaluate.load_engine", load)
    with pytest.raises(RuntimeError, match="loaded"):
        evaluate(config(write_rows(tmp_path / "rows.jsonl", rows_of(ENGLISH))))


def test_only_as_many_rows_as_asked_for(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", rows_of(ENGLISH))
    assert {part.num_rows for part in evaluate(config(file, max_questions=3)).measured} == {3}


def test_a_row_without_an_answer_is_refused_with_its_line_before_any_model_is_loaded(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.evaluate.load_engine", lambda *_, **__: pytest.fail("loaded"))
    file = write_rows(tmp_path / "rows.jsonl", [*rows_of(ENGLISH), {"instruction": "five?"}])
    with pytest.raises(BadRowsError) as refused:
        evaluate(config(file))
    assert f"{file}:5" in str(refused.value)
    assert "no answer" in str(refused.value)


def test_a_row_longer_than_the_context_is_refused_with_its_line(
    plain: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "context_length", 80)
    with pytest.raises(BadRowsError) as refused:
        measure(plain, BASE, [conversation("a", "b"), conversation("a", "b" * 90, line=9)])
    assert "rows.jsonl:9" in str(refused.value)


def test_the_figures_are_written_where_a_folder_is_named(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    told = Told()
    with listening(told):
        found = evaluate(config(write_rows(tmp_path / "r.jsonl", rows_of(ENGLISH)), output_dir=tmp_path / "out"))
    written = tmp_path / "out" / "evaluation.json"
    assert json.loads(written.read_text(encoding="utf-8")) == found.as_json()
    assert str(written) in str(told)


def test_the_table_names_kinds_in_the_reader_s_language_and_interprets_nothing() -> None:
    set_language("zh")
    found = Evaluation(
        "[red]base", (Measured("[b]m", "taught", 3, 0.5, 2, 1, 3), Measured("m", "[x]", 1, 200.0, 0, 0, 0))
    )
    table = squeezed(printed(found.render(), 80))
    assert all(
        piece in table for piece in ("[red]base", "[b]m", "教过的", "[x]", "0.5000", "1.65", "2/3", "3/3", "0/1")
    )


def test_eval_on_the_command_line(trained: Trained, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    file = write_rows(tmp_path / "rows.jsonl", rows_of(ENGLISH, kind="taught"))
    words = ["eval", "--adapter", f"law={trained.english}", "--dataset_path", str(file), "--precision", "float32"]
    found = json.loads(command(*words, "--json").out)
    assert found["ok"] is True
    assert [(part["model"], part["kind"], part["num_exact"]) for part in found["measured"]] == [
        (BASE, "taught", 0),
        ("law", "taught", 4),
    ]
    file.write_text('{"instruction": "one?"}\n', encoding="utf-8")
    assert command(*words).exit_code == 3


EVERYTHING = [
    *rows_of(ENGLISH, kind="taught"),
    {"instruction": "Which?", "output": "B", "kind": "general", "choices": ["A", "B"]},
    {"instruction": "A list.", "output": "[]", "kind": "general", "format": "json"},
]


def test_choices_formats_and_drift_are_measured_for_every_adapter(
    trained: Trained, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", EVERYTHING)
    words = ["eval", "--adapter", f"law={trained.english}", "--adapter", f"tax={trained.chinese}"]
    words += ["--dataset_path", str(file), "--precision", "float32", "--max_new_tokens", "8"]
    outcome = command(*words, "--json")
    found = json.loads(outcome.out)
    assert "2 general questions" in outcome.err
    for part in ("choices", "formats"):
        assert [(share["model"], share["kind"], share["num_rows"]) for share in found[part]] == [
            (name, "general", 1) for name in (BASE, "law", "tax")
        ]
    free = [(part["kind"], part["num_rows"]) for part in found["measured"] if part["model"] == "law"]
    assert free == [("taught", 4), ("general", 1)]  # a row with choices is asked which, not for its loss
    assert [(drift["model"], drift["num_rows"]) for drift in found["drift"]] == [("law", 2), ("tax", 2)]
    assert all(0 <= drift["agreement"]["value"] <= 1 and drift["kl"]["value"] > 0 for drift in found["drift"])
    shown = command(*words, "--skip_drift")
    assert shown.exit_code == 0
    assert "Multiple choice" in shown.out
    assert "Drift" not in shown.out
    assert json.loads(command(*words, "--skip_drift", "--json").out)["drift"] == []


def test_what_falls_short_ends_with_8_after_the_figures_are_shown_and_written(
    trained: Trained, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", EVERYTHING)
    words = ["eval", "--adapter", f"law={trained.english}", "--dataset_path", str(file), "--precision", "float32"]
    words += ["--skip_drift", "--output_dir", str(tmp_path / "out"), "--max_new_tokens", "8"]
    assert command(*words, "--fail_under", "1.0").exit_code == 0
    failed = command(*words, "--fail_under", "taught=1", "--fail_under", "general=1")
    assert failed.exit_code == 8
    assert re.search(r"law, general: [01] of 2 \((0|50)\.0%\), not 100\.0%", failed.err)  # the list is never written
    assert "4/4" in failed.out
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    (shortfall,) = written["shortfalls"]
    assert (shortfall["model"], shortfall["kind"], shortfall["required"]) == ("law", "general", 1.0)
    letter = next(share for share in written["choices"] if share["model"] == "law")
    assert shortfall["share"] == letter["num_right"] / 2
    assert command(*words, "--fail_under", "reworded=0.5").exit_code == 2


@pytest.mark.parametrize("fault", [{"choices": ["A", "B"]}, {"format": "xml"}])
def test_bad_choices_and_formats_are_refused_before_any_model_is_loaded(
    fault: dict[str, object], config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.evaluate.load_engine", lambda *_, **__: pytest.fail("loaded"))
    file = write_rows(tmp_path / "rows.jsonl", [{"instruction": "?", "output": "C", **fault}])
    with pytest.raises(DataError) as refused:
        evaluate(config(file))
    assert f"{file}:1" in str(refused.value)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_figure_stands_whole_in_tables_of_eighty_columns(language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    lost = Estimate(-0.02, -0.05, 0.01)
    shares = (Share(BASE, "general", 40, 100), Share("law", "general", 38, 100, lost))
    guessed = (
        ChoiceShare(BASE, "general", 40, 100, chance=0.25, favourite="A", num_favourite=95),
        ChoiceShare("law", "general", 38, 100, lost, chance=0.25),
    )
    found = Evaluation(
        "base",
        tuple(Measured(name, "reworded", 68, 12.3456, 48, 2, 60) for name in (BASE, "law")),
        choices=guessed,
        formats=shares,
        drifts=(Drift("law", 130, 2345, Estimate(0.915, 0.89, 0.94), Estimate(0.123, 0.1, 0.15)),),
    )
    lines = printed(found.render(), 80).splitlines()
    assert max(map(len, lines)) <= 80
    cells = {piece.strip() for line in lines for piece in line.split("│")}
    assert {"48/68", "60/68", "71% [59–80]", "38/100", "38% [29–48]", "-2 [-5,1]"} <= cells
    assert {"2345", "91.5% [89.0–94.0]", "0.123 [0.100–0.150]"} <= cells


def test_multiple_choice_that_shows_nothing_is_told_below_its_table() -> None:
    lost = Estimate(0.0, -0.1, 0.1)
    base = ChoiceShare(BASE, "general", 24, 100, chance=0.25, favourite="C", num_favourite=40)
    guessing = Evaluation("base", (), choices=(base, ChoiceShare("law", "general", 24, 100, lost, chance=0.25)))
    (remark,) = guessing.remarks
    assert "(general) shows nothing: the base has 24 of 100 right, and guessing gives 25%" in remark
    assert squeezed(remark) in squeezed(printed(guessing.render(), 80))
    able = ChoiceShare(BASE, "general", 61, 100, chance=0.25, favourite="C", num_favourite=40)
    assert Evaluation("base", (), choices=(able,)).remarks == ()


def test_a_model_whose_figures_are_no_numbers_is_told_once() -> None:
    lost = Estimate(math.nan)
    found = Evaluation(
        "base",
        (Measured(BASE, "taught", 4, 0.5, 2, 0, 4), Measured("law", "taught", 4, math.nan, 0, 0, 0)),
        choices=(ChoiceShare("law", "general", 0, 9, finite=False), ChoiceShare("tax", "general", 0, 9, finite=False)),
        drifts=(Drift("law", 1, 9, Estimate(0.0), lost), Drift("odd", 1, 9, Estimate(0.0), lost)),
    )
    assert [remark.partition(":")[0] for remark in found.remarks] == ["law", "tax", "odd"]
    assert math.isnan(found.measured[1].perplexity)


def test_a_file_of_choices_alone_has_no_loss_and_its_bar_is_the_choices(
    config: Callable[..., CompareConfig], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.evaluate.forward_rows", lambda *_: pytest.fail("a second pass"))
    choices = [{**row, "choices": list(ENGLISH), "kind": "taught"} for row in rows_of(ENGLISH)]
    found = evaluate(config(write_rows(tmp_path / "rows.jsonl", choices), fail_under=("1.0",)))
    assert found.measured == ()
    assert [(share.model, share.num_rows) for share in found.choices] == [(BASE, 4), ("law", 4)]
    assert (found.choices[1].num_right, found.exit_code) == (4, 0)
    assert "Multiple choice" in printed(found.render(), 80)


def test_general_questions_may_go_without_an_answer_where_drift_is_measured(
    config: Callable[..., CompareConfig], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"instruction": "Hello!", "kind": "general"}])
    found = evaluate(config(file))
    assert (found.measured, found.choices, [drift.num_rows for drift in found.drifts]) == ((), (), [1])
    assert "Drift" in printed(found.render(), 80)
    monkeypatch.setattr("pangzhu.evaluate.load_engine", lambda *_, **__: pytest.fail("loaded"))
    for more in ({"skip_drift": True}, {"adapter": ()}):
        with pytest.raises(BadRowsError, match=r"rows\.jsonl:1"):
            evaluate(config(file, **more))
    with pytest.raises(UsageError) as refused:
        evaluate(config(file, fail_under=("general=0.5",)))
    assert refused.value.key == "error.gate.nothing_counted"


def test_a_question_that_leaves_no_room_for_its_answer_is_refused_with_its_line(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "context_length", 100)
    with pytest.raises(DataError) as refused:
        measure_formats(engine, [conversation("long " * 20, "{}", format="json", line=7)], GREEDY)
    assert refused.value.where == "rows.jsonl:7"
