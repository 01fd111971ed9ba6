"""Many prompts at once: which go together, and that a row leaves the batch once it has ended."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines.decoding import MAX_BATCH_ROWS, MAX_BATCH_TOKENS, ROUND_TOKENS, batches, write_in_rounds
from pangzhu.engines.transformers import BASE, TransformersEngine
from tests.conftest import FAMILIES
from tests.use_helpers import QUESTIONS, ask, load

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

TWO_ROUNDS = GenerationOptions(max_new_tokens=ROUND_TOKENS + 3)


# --- which go together -------------------------------------------------------------------------------------------


def test_prompts_of_like_length_go_together() -> None:
    lengths = [9, 1] * MAX_BATCH_ROWS
    first, second = batches(lengths, max_new_tokens=1)
    assert {lengths[index] for index in first} == {1}
    assert {lengths[index] for index in second} == {9}


@pytest.mark.parametrize("max_new_tokens", [1, 100, MAX_BATCH_TOKENS])
def test_a_batch_keeps_to_its_rows_and_its_places(max_new_tokens: int) -> None:
    lengths = [7 * number % 901 + 1 for number in range(500)]
    made = list(batches(lengths, max_new_tokens))
    assert sorted(index for batch in made for index in batch) == list(range(500))
    for batch in made:
        places = len(batch) * (max(lengths[index] for index in batch) + max_new_tokens)
        assert len(batch) == 1 or (len(batch) <= MAX_BATCH_ROWS and places <= MAX_BATCH_TOKENS)


def test_no_prompts_make_no_batch() -> None:
    assert list(batches([], max_new_tokens=8)) == []


# --- rounds ------------------------------------------------------------------------------------------------------


class Watched:
    """A model that remembers of which shape the ids were that it was asked to go on from."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.device = torch.device("cpu")
        self.shapes: list[tuple[int, ...]] = []

    def generate(self, **options: object) -> object:
        ids = options["input_ids"]
        assert isinstance(ids, torch.Tensor)
        self.shapes.append(tuple(ids.shape))
        return self.model.generate(**options)  # type: ignore[operator]


def write(engine: TransformersEngine, name: str, questions: Sequence[str], options: GenerationOptions) -> Watched:
    """Answer `questions`, and say in which shapes the model was asked."""
    prompts = [engine.prompt([Turn("user", question)], name) for question in questions]
    with engine.using(name) as model, torch.inference_mode():
        watched = Watched(model)
        write_in_rounds(watched, prompts, engine.contract(name), options)  # type: ignore[arg-type]
    return watched


def test_a_row_that_has_ended_leaves_the_batch(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pangzhu.engines.decoding.ROUND_TOKENS", 1)
    lengths = [len(ask(engine, "chinese", question).token_ids) + 1 for question in QUESTIONS]  # the stop token included
    watched = write(engine, "chinese", QUESTIONS, GenerationOptions(max_new_tokens=max(lengths)))
    still_writing = [sum(length > done for length in lengths) for done in range(max(lengths))]
    assert min(lengths) < max(lengths)
    assert [shape[0] for shape in watched.shapes] == still_writing


def test_each_round_goes_on_where_the_last_one_stopped(plain: TransformersEngine) -> None:
    watched = write(plain, BASE, ["a?", "a much longer question?"], TWO_ROUNDS)
    (rows, width), second = watched.shapes
    assert second == (rows, width + ROUND_TOKENS)


def test_a_single_prompt_is_written_in_one_round(plain: TransformersEngine) -> None:
    assert len(write(plain, BASE, ["a?"], TWO_ROUNDS).shapes) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_rounds_write_what_one_round_writes(
    model_folder: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(model_folder(family))
    prompts = [engine.prompt([Turn("user", question)], BASE) for question in ("a?", "longer?", "the longest question?")]
    in_rounds = dict(engine.generate_many(prompts, BASE, TWO_ROUNDS))
    monkeypatch.setattr("pangzhu.engines.decoding.ROUND_TOKENS", TWO_ROUNDS.max_new_tokens)
    assert in_rounds == dict(engine.generate_many(prompts, BASE, TWO_ROUNDS))
