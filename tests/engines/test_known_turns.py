"""Keys and values that are used again: the answers are those of an engine that knows nothing, and only what is new is computed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import MistralForCausalLM

from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, known_turns
from pangzhu.engines.decoding import _NumbersOnly
from pangzhu.engines.known_turns import KnownTurns
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.fast.prefix import common_length
from tests.conftest import FAMILIES, build_model
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, ask, load

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

NAMES = (BASE, "english", "chinese")
LONG = "word " * 40


def as_new(engine: TransformersEngine) -> TransformersEngine:
    """The same models, nothing known of earlier answers."""
    return TransformersEngine(engine.model, engine._base, tuple(engine._adapters.values()))


@pytest.fixture
def talker(engine: TransformersEngine) -> TransformersEngine:
    return as_new(engine)


class Passes:
    """How many places each pass through a model computed."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.lengths: list[int] = []
        embedding = engine.model.get_input_embeddings()
        self.hook = embedding.register_forward_hook(lambda _, given, __: self.lengths.append(given[0].shape[1]))

    def of_prompt(self) -> int:
        """Of the last answer's prompt; its own tokens were computed one by one."""
        of_prompt, *of_answer = self.lengths
        assert set(of_answer) <= {1}
        self.lengths.clear()
        return of_prompt


@pytest.fixture
def watch() -> Iterator[Callable[[TransformersEngine], Passes]]:
    """Count what an engine computes while the test runs."""
    watched: list[Passes] = []

    def begin(engine: TransformersEngine) -> Passes:
        watched.append(Passes(engine))
        return watched[-1]

    yield begin
    for passes in watched:
        passes.hook.remove()


def num_new(prompt: list[int], before: list[int], answer: Answer) -> int:
    """Tokens of a prompt that come after what is known of an earlier prompt and its answer."""
    written = [*before, *answer.token_ids]  # and the end token, whose place nobody computed, else the last one's
    return len(prompt) - common_length([prompt[:-1], written if answer.ended else written[:-1]])


def conversation(engine: TransformersEngine, name: str, questions: Sequence[str]) -> Iterator[tuple[list[int], Answer]]:
    """Each question's prompt and answer, all of one conversation."""
    turns: list[Turn] = []
    for question in questions:
        turns.append(Turn("user", question))
        prompt = engine.prompt(turns, name)
        answer = engine.generate(prompt, name, GREEDY)
        yield prompt, answer
        turns.append(Turn("assistant", answer.text))


# --- the same answers --------------------------------------------------------------------------------------------


def test_turns_of_changing_models_are_answered_as_by_an_engine_that_knows_nothing(talker: TransformersEngine) -> None:
    turns: list[Turn] = []
    for number, name in enumerate(("english", "english", "chinese", BASE, "chinese", "english", BASE, "english")):
        turns.append(Turn("user", ("one?", "two?", "never asked 从未问过")[number % 3]))
        prompt = talker.prompt(turns, name)
        answer = talker.generate(prompt, name, GREEDY)
        assert answer == as_new(talker).generate(prompt, name, GREEDY)
        turns.append(Turn("assistant", answer.text))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_the_next_turn_as_if_it_were_the_first(
    model_folder: Callable[[str], Path], family: str
) -> None:
    engine = load(model_folder(family))
    for prompt, answer in conversation(engine, BASE, ["a?", "a longer question?", "b?"]):
        assert answer == as_new(engine).generate(prompt, BASE, GREEDY)


def test_an_answer_that_is_streamed_is_the_same(talker: TransformersEngine) -> None:
    for number, question in enumerate(("one?", "two?", "one?", "one?")):
        pieces: list[str] = []
        prompt = talker.prompt([Turn("user", question)], "chinese")
        answer = talker.generate(prompt, "chinese", GREEDY, write=pieces.append)
        assert "".join(pieces) == answer.text == CHINESE[(0, 1, 0, 0)[number]]


# --- only what is new --------------------------------------------------------------------------------------------


def test_a_turn_computes_what_came_after_the_last_answer(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    passes = watch(talker)
    turns = conversation(talker, "english", ["one?", LONG, "two?", "three?"])
    before, answer = next(turns)
    assert passes.of_prompt() == len(before)
    for prompt, following in turns:
        assert passes.of_prompt() == num_new(prompt, before, answer) < len(prompt) - len(before)
        before, answer = prompt, following


def test_the_same_question_again_computes_one_token(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    passes = watch(talker)
    lengths = []
    for _ in range(3):
        assert ask(talker, "english", "one?").text == ENGLISH[0]
        lengths.append(passes.of_prompt())
    assert lengths == [len(talker.prompt([Turn("user", "one?")], "english")), 1, 1]


def test_what_one_model_has_computed_no_other_uses_and_it_finds_its_own_again(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    passes, whole = watch(talker), len(talker.prompt([Turn("user", LONG)], BASE))
    lengths = []
    for name in (*NAMES, *NAMES):
        ask(talker, name, LONG)
        lengths.append(passes.of_prompt())
    assert lengths == [whole] * 3 + [1] * 3


def test_a_conversation_that_begins_leaves_the_longer_one_beside_it_alone(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    """They have the system text in common."""
    passes = watch(talker)
    longer = conversation(talker, "english", [LONG, "two?"])
    first, answer = next(longer)
    ask(talker, "english", "one?")
    passes.lengths.clear()
    second, _ = next(longer)
    assert passes.of_prompt() == num_new(second, first, answer) < 100


def test_a_conversation_that_takes_another_way_goes_back_to_where_they_part(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    passes = watch(talker)
    first = talker.prompt([Turn("user", LONG + "one?")], "english")
    other = talker.prompt([Turn("user", LONG + "two?")], "english")
    talker.generate(first, "english", GREEDY)
    passes.lengths.clear()
    assert talker.generate(other, "english", GREEDY) == as_new(talker).generate(other, "english", GREEDY)
    parting = next(place for place, (one, two) in enumerate(zip(first, other, strict=False)) if one != two)
    assert passes.lengths[0] == len(other) - parting


# --- what is kept ------------------------------------------------------------------------------------------------


def test_an_answer_that_was_given_up_leaves_nothing_behind(
    talker: TransformersEngine, watch: Callable[[TransformersEngine], Passes]
) -> None:
    def interrupt(_piece: str) -> None:
        raise KeyboardInterrupt

    prompt = talker.prompt([Turn("user", "one?")], "english")
    talker.generate(prompt, "english", GREEDY)
    with pytest.raises(KeyboardInterrupt):
        talker.generate(prompt, "english", GREEDY, write=interrupt)
    assert talker._turns.num_tokens == 0
    passes = watch(talker)
    assert talker.generate(prompt, "english", GREEDY).text == ENGLISH[0]
    assert passes.of_prompt() == len(prompt)


def test_keys_without_numbers_are_not_kept(talker: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    call = _NumbersOnly.__call__

    def losing(self: _NumbersOnly, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return call(self, input_ids, scores * torch.nan)

    with monkeypatch.context() as patched:
        patched.setattr(_NumbersOnly, "__call__", losing)
        assert ask(talker, "english", "one?").broke_off
    assert talker._turns.num_tokens == 0
    assert ask(talker, "english", "one?").text == ENGLISH[0]


def test_more_is_never_kept_than_a_batch_may_have_and_the_latest_stays(
    talker: TransformersEngine, monkeypatch: pytest.MonkeyPatch, watch: Callable[[TransformersEngine], Passes]
) -> None:
    monkeypatch.setattr(known_turns, "MAX_BATCH_TOKENS", 600)
    for number in range(12):
        ask(talker, NAMES[number % 3], f"{LONG}{number}")
        assert 200 < talker._turns.num_tokens <= 600
    passes = watch(talker)
    ask(talker, NAMES[11 % 3], f"{LONG}11")
    assert passes.of_prompt() == 1


def test_a_conversation_longer_than_that_is_kept_alone(
    talker: TransformersEngine, monkeypatch: pytest.MonkeyPatch, watch: Callable[[TransformersEngine], Passes]
) -> None:
    monkeypatch.setattr(known_turns, "MAX_BATCH_TOKENS", 100)
    passes = watch(talker)
    ask(talker, "chinese", "one?")
    ask(talker, "english", LONG)
    passes.lengths.clear()
    ask(talker, "english", LONG)
    assert passes.of_prompt() == 1
    assert [turn.name for turn in talker._turns._turns] == ["english"]


def test_keys_and_values_are_as_many_as_the_ids_they_are_of(talker: TransformersEngine) -> None:
    for max_new_tokens in (1, 2, 24):
        ask(talker, "english", "one?", GenerationOptions(max_new_tokens=max_new_tokens))
        ask(talker, "english", "two?", GenerationOptions(max_new_tokens=max_new_tokens))
        for turn in talker._turns._turns:
            assert {layer.keys.shape[-2] for layer in turn.keys_and_values.layers} == {len(turn.ids)}


# --- models that begin anew --------------------------------------------------------------------------------------


def test_a_window_begins_anew_each_time(
    model_folder: Callable[[str], Path], watch: Callable[[TransformersEngine], Passes]
) -> None:
    engine = load(model_folder("gemma3"))
    passes = watch(engine)
    for prompt, _ in conversation(engine, BASE, ["a?", "b?"]):
        assert passes.of_prompt() == len(prompt)


def begins_anew(model: torch.nn.Module) -> bool:
    return KnownTurns(model).begin(BASE, [1, 2, 3], 1) is None  # type: ignore[arg-type]


def test_so_does_a_mistral_with_a_window() -> None:
    plain = build_model("mistral")
    plain.config.sliding_window = 16
    assert begins_anew(MistralForCausalLM(plain.config))


@pytest.mark.parametrize(
    ("rope", "anew"),
    [
        ({"rope_type": "default"}, False),
        ({"rope_type": "yarn"}, False),
        ({"rope_type": "dynamic"}, True),
        ({"rope_type": "longrope"}, True),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "dynamic"}}, True),
    ],
)
def test_so_does_a_rotation_that_is_stretched_for_a_long_text(rope: dict[str, object], anew: bool) -> None:
    model = build_model("llama")
    model.config.rope_parameters = rope
    assert begins_anew(model) is anew
