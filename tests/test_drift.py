"""Drift: nothing moved is no drift, the divergence is the textbook's, and no more logits are held than a chunk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Conversation
from pangzhu.drift import ANSWERS, measure_drift
from pangzhu.engines import Answer
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import DataError
from pangzhu.fast.path import PLACES_A_CHUNK
from tests.conftest import conversation
from tests.use_helpers import Trained, watch_places, with_system

pytestmark = pytest.mark.usefixtures("one_core", "said")

pytest_plugins = ["tests.use_fixtures"]

GENERAL = [conversation(question, "?", kind="general") for question in ("Hello!", "Name a colour.", "1 + 1", "你好")]


def test_an_adapter_that_changes_nothing_has_not_drifted(trained: Trained) -> None:
    engine = trained.engine(str(trained.english))
    with torch.no_grad():
        for name, parameter in engine.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    (found,) = measure_drift(engine, GENERAL)
    assert (found.agreement.value, found.agreement.low, found.agreement.high) == (1, 1, 1)
    assert found.kl.value == pytest.approx(0, abs=1e-7)


def test_an_adapter_trained_far_agrees_seldom(engine: TransformersEngine) -> None:
    for found in measure_drift(engine, GENERAL):
        assert found.agreement.value < 0.5
        assert found.kl.value > 1e-3  # the random base hardly prefers one token to another


def by_hand(engine: TransformersEngine, name: str, rows: Sequence[Conversation]) -> tuple[int, float, float]:
    """Tokens, share that agrees, mean divergence: one row at a time, every logit at once, sums as the textbook has them."""
    agreeing, divergences = [], []
    for row in rows:
        prompt = engine.prompt(row.prompt, BASE)
        answer = engine.generate(prompt, BASE, ANSWERS)
        ids = torch.tensor([[*prompt, *answer.token_ids]])
        end = ids.shape[1] if answer.ended else -1  # where it ended, the place that predicts the end counts too
        log_p = {}
        for model_name in (BASE, name):
            with engine.using(model_name) as model, torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[0].double()
            log_p[model_name] = logits[len(prompt) - 1 : end].log_softmax(-1)
        base, own = log_p[BASE], log_p[name]
        agreeing += (base.argmax(-1) == own.argmax(-1)).tolist()
        divergences += (base.exp() * (base - own)).sum(-1).tolist()
    return len(agreeing), sum(agreeing) / len(agreeing), sum(divergences) / len(divergences)


@pytest.mark.parametrize("name", ["english", "chinese"])
def test_agreement_and_divergence_are_those_of_every_logit(engine: TransformersEngine, name: str) -> None:
    found = next(drift for drift in measure_drift(engine, GENERAL) if drift.model == name)
    num_tokens, agreement, divergence = by_hand(engine, name, GENERAL)
    assert (found.num_rows, found.num_tokens) == (len(GENERAL), num_tokens)
    assert found.agreement.value == pytest.approx(agreement)
    assert found.kl.value == pytest.approx(divergence, rel=1e-3)
    assert found.kl.low is not None
    assert found.kl.high is not None
    assert found.kl.low <= found.kl.value <= found.kl.high


def test_the_place_that_predicts_the_end_of_an_answer_counts_too(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Answer("abc", tuple(engine.tokenizer("abc")["input_ids"]), ended=True)
    monkeypatch.setattr(engine, "generate", lambda *_: given)
    monkeypatch.setattr(engine, "generate_many", lambda prompts, *_: enumerate([given] * len(prompts)))
    found = measure_drift(engine, GENERAL)[0]
    num_tokens, agreement, divergence = by_hand(engine, "english", GENERAL)
    assert found.num_tokens == num_tokens == 4 * len(GENERAL)
    assert found.agreement.value == pytest.approx(agreement)
    assert found.kl.value == pytest.approx(divergence, rel=1e-3)


def test_the_budget_of_a_pass_and_the_size_of_a_chunk_change_nothing(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_drift(engine, GENERAL)
    monkeypatch.setattr("pangzhu.drift.MAX_TOKEN_BUDGET", 100)
    monkeypatch.setattr("pangzhu.fast.path.PLACES_A_CHUNK", 5)
    for split, once in zip(measure_drift(engine, GENERAL), whole, strict=True):
        assert split.agreement == once.agreement
        assert split.kl.value == pytest.approx(once.kl.value, rel=1e-4)


def test_no_more_logits_are_held_than_a_chunk_and_no_answer_is_longer_than_its_bound(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = watch_places(monkeypatch)
    found = measure_drift(engine, GENERAL)
    assert max(places) <= PLACES_A_CHUNK
    assert sum(places) == 2 * sum(drift.num_tokens for drift in found)
    assert found[0].num_tokens <= ANSWERS.max_new_tokens * len(GENERAL)


def test_the_base_answers_once_for_all_adapters(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []
    generate_many = engine.generate_many

    def watched(prompts: Sequence[Sequence[int]], name: str, options: GenerationOptions) -> object:
        asked.append((len(prompts), name))
        return generate_many(prompts, name, options)

    monkeypatch.setattr(engine, "generate_many", watched)
    assert [drift.model for drift in measure_drift(engine, GENERAL)] == ["english", "chinese"]
    assert asked == [(len(GENERAL), BASE)]


def test_adapters_beside_each_other_drift_as_they_do_alone(engine: TransformersEngine, trained: Trained) -> None:
    (alone,) = measure_drift(trained.engine(str(trained.chinese)), GENERAL)
    beside = measure_drift(engine, GENERAL)[1]
    assert (alone.model, alone.num_tokens, alone.agreement) == (beside.model, beside.num_tokens, beside.agreement)
    assert alone.kl.value == pytest.approx(beside.kl.value, rel=1e-4)


def test_an_adapter_with_a_system_text_of_its_own_is_measured_under_it(trained: Trained, tmp_path: Path) -> None:
    kind = with_system(Path(shutil.copytree(trained.english, tmp_path / "kind")), "Be very kind.")
    plain_drift, kind_drift = measure_drift(trained.engine(str(trained.english), str(kind)), GENERAL)
    assert [plain_drift.model, kind_drift.model] == ["english", "kind"]
    assert kind_drift.kl.value != pytest.approx(plain_drift.kl.value, rel=1e-3)


def test_no_more_questions_are_asked_than_the_bound_and_free_ones_first(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    generate_many = engine.generate_many

    def watched(prompts: Sequence[Sequence[int]], name: str, options: GenerationOptions) -> object:
        asked.extend(str(engine.tokenizer.decode(prompt)) for prompt in prompts)
        return generate_many(prompts, name, options)

    monkeypatch.setattr(engine, "generate_many", watched)
    monkeypatch.setattr("pangzhu.drift.MOST_ROWS", 3)
    lettered = [conversation(f"{number}?", "A", kind="general", choices="A,B") for number in range(3)]
    assert {drift.num_rows for drift in measure_drift(engine, [*lettered, *GENERAL[:2]])} == {3}
    assert [next(text for text in ("Hello!", "Name a colour.", "0?") if text in prompt) for prompt in asked] == [
        "Hello!",
        "Name a colour.",
        "0?",
    ]


def test_only_general_questions_are_asked_and_only_of_adapters(
    engine: TransformersEngine, plain: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked in (engine, plain):
        monkeypatch.setattr(asked, "generate_many", lambda *_: pytest.fail("generated"))
    assert measure_drift(engine, [conversation("one?", "answer 11.", kind="taught")]) == []
    assert measure_drift(plain, GENERAL) == []


def test_a_question_that_leaves_no_room_for_its_answer_is_refused_with_its_line(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "context_length", 100)
    with pytest.raises(DataError) as refused:
        measure_drift(engine, [conversation("long " * 20, kind="general", line=7)])
    assert refused.value.where == "rows.jsonl:7"
