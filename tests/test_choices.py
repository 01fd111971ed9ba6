"""Multiple choice: the log-probability of a choice is that of its tokens after the prompt, however rows are packed."""

import pytest
import torch

from pangzhu.choices import check_choices, choice_log_probs, measure_choices, spell_choices
from pangzhu.data.conversation import Conversation
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.transformers import BASE, TransformersEngine
from pangzhu.errors import DataError
from pangzhu.questions import choices_of
from tests.conftest import conversation
from tests.use_helpers import ENGLISH, QUESTIONS, watch_places

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

LETTERS = [
    conversation(f"{number}, {'long ' * number}?", "B", choices="A,B,C,D", fact=f"f{number}") for number in range(7)
]
WORDS = [
    conversation("对吗?", "不对", choices="对,不对,不知道"),
    conversation("Yes?", "no", choices="yes,no"),
    conversation("Same stem?", "abd", choices="abc,abd,ab"),
]


def log_prob_by_hand(engine: TransformersEngine, name: str, row: Conversation, choice: str) -> float:
    """Sum of log p over the choice's tokens: one row, no packing, every logit."""
    prompt = engine.prompt(row.prompt, name)
    ids = engine.tokenizer(choice)["input_ids"]
    with engine.using(name) as model, torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0].float()
    return float(logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(ids)), ids].sum())


@pytest.mark.parametrize("name", [BASE, "english"])
def test_the_log_probability_of_a_choice_is_that_of_its_tokens_after_the_prompt(
    engine: TransformersEngine, name: str
) -> None:
    rows = [*LETTERS, *WORDS]
    for row, found in zip(rows, choice_log_probs(engine, name, rows), strict=True):
        by_hand = [log_prob_by_hand(engine, name, row, choice) for choice in choices_of(row)]
        assert found == pytest.approx(by_hand, rel=1e-4, abs=1e-4)


def test_the_budget_of_a_pass_changes_nothing(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*LETTERS, *WORDS]
    whole = choice_log_probs(engine, "english", rows)
    monkeypatch.setattr("pangzhu.choices.MAX_TOKEN_BUDGET", 100)
    for split, once in zip(choice_log_probs(engine, "english", rows), whole, strict=True):
        assert split == pytest.approx(once, rel=1e-4, abs=1e-4)


def test_letters_are_asked_at_one_place_of_one_row(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    spellings = spell_choices(engine, BASE, LETTERS)
    assert [(it.question, it.choices, it.stem) for it in spellings] == [(n, (0, 1, 2, 3), ()) for n in range(7)]
    assert [it.example.num_supervised for it in spellings] == [1] * 7
    places = watch_places(monkeypatch)
    choice_log_probs(engine, BASE, LETTERS)
    assert sum(places) == len(LETTERS)


def test_choices_that_differ_in_their_last_token_share_a_row(engine: TransformersEngine) -> None:
    spellings = spell_choices(engine, BASE, WORDS[2:])
    assert [(it.choices, len(it.stem), len(it.last)) for it in spellings] == [((0, 1), 2, 2), ((2,), 1, 1)]


def test_what_is_taught_is_the_most_probable_choice(engine: TransformersEngine) -> None:
    rows = [
        conversation(question, answer, choices=",".join(ENGLISH), kind="taught", fact=answer)
        for question, answer in zip(QUESTIONS, ENGLISH, strict=True)
    ]
    base, english, chinese = measure_choices(engine, rows)
    assert (base.model, base.gain) == (BASE, None)
    assert (english.model, english.kind, english.num_right, english.num_rows) == ("english", "taught", 4, 4)
    assert english.gain is not None
    assert english.gain.value == pytest.approx(1 - base.value)
    assert chinese.num_right < 4


def test_rows_without_choices_are_not_asked(engine: TransformersEngine) -> None:
    assert measure_choices(engine, [conversation("one?", "answer 11.")]) == []
    assert measure_choices(engine, [*LETTERS, conversation("one?", "B")])[0].num_rows == len(LETTERS)


def test_a_tie_is_not_right(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [[-1.0, -1.0, -2.0, -3.0], [-2.0, -1.0, -3.0, -4.0]]
    monkeypatch.setattr("pangzhu.choices.choice_log_probs", lambda *_: found)
    assert measure_choices(engine, LETTERS[:2])[0].num_right == 1


@pytest.mark.parametrize(
    ("answer", "choices"), [("E", "A,B,C,D"), ("A", "A"), ("A", "A,A,B"), ("1,000", "1,000,2,000")]
)
def test_choices_that_cannot_be_told_right_are_refused_with_their_line(answer: str, choices: str) -> None:
    with pytest.raises(DataError) as refused:
        check_choices(conversation("?", answer, choices=choices, line=7))
    assert refused.value.where == "rows.jsonl:7"
    assert choices.replace(",", ", ") in str(refused.value)


def test_an_empty_choice_is_refused_with_its_line(plain: TransformersEngine) -> None:
    with pytest.raises(BadRowsError) as refused:
        measure_choices(plain, [conversation("?", "A", choices="A,", line=9)])
    assert "rows.jsonl:9" in str(refused.value)
