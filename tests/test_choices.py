"""Multiple choice: the log-probability of a choice is that of its tokens after the prompt, however rows are packed."""

import math

import pytest
import torch

from pangzhu.choices import (
    ChoiceShare,
    check_choices,
    choice_log_probs,
    measure_choices,
    nothing_shown,
    spell_choices,
)
from pangzhu.data.conversation import Conversation
from pangzhu.data.findings import BadRowsError
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
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


def counted(monkeypatch: pytest.MonkeyPatch, engine: TransformersEngine, picks: dict[str, str]) -> list[ChoiceShare]:
    """What comes of it where each model picks these letters, one a question; of as many questions, B is right."""

    def log_probs(_engine: object, name: str, rows: list[Conversation]) -> list[list[float]]:
        return [
            [0.0 if choice == pick else -5.0 for choice in choices_of(row)]
            for row, pick in zip(rows, picks[name], strict=True)
        ]

    monkeypatch.setattr("pangzhu.choices.choice_log_probs", log_probs)
    rows = [
        conversation(f"{n}?", "B", choices="A,B,C,D", fact=f"f{n}", kind="general") for n in range(len(picks[BASE]))
    ]
    return measure_choices(engine, rows)


def test_a_base_at_chance_leaves_nothing_to_lose_and_that_is_said(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = counted(monkeypatch, engine, {BASE: "ABCD" * 5, "english": "ABCD" * 5, "chinese": "CCDD" * 5})
    base = found[0]
    assert (base.chance, base.num_right, base.favourite, base.num_favourite) == (0.25, 5, "A", 5)
    assert (base.at_chance, base.has_one_choice, base.says_nothing) == (True, False, True)
    (sentence,) = nothing_shown(found)
    assert "the base has 5 of 20 right, and guessing gives 25%" in sentence


def test_a_base_that_picks_one_choice_whatever_is_asked_shows_nothing_even_where_it_is_the_right_one(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = {BASE: "B" * 19 + "A", "english": "B" * 20, "chinese": "A" * 20}
    found = counted(monkeypatch, engine, letters)
    assert (found[0].at_chance, found[0].has_one_choice) == (False, True)
    (sentence,) = nothing_shown(found)
    assert "picks “B” in 19 of 20 questions" in sentence


def test_what_shows_something_is_not_remarked_on(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    able = "BBBBBBBBBBBBBBCDAACD"
    assert nothing_shown(counted(monkeypatch, engine, {BASE: able, "english": "C" * 20, "chinese": able})) == []
    guessing = "ABCD" * 5
    assert nothing_shown(counted(monkeypatch, engine, {BASE: guessing, "english": able, "chinese": able})) == []
    assert nothing_shown(counted(monkeypatch, engine, {BASE: guessing, "english": able, "chinese": guessing})) != []


def test_log_probabilities_that_are_no_numbers_are_known(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.choices.choice_log_probs", lambda *_: [[math.nan] * 4] * 2)
    share = measure_choices(engine, LETTERS[:2])[0]
    assert (share.finite, share.num_right, share.num_favourite) == (False, 0, 0)


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
