"""Many prompts at once: which go together, and that a row leaves the batch once it has ended."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache

from pangzhu.config import GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines.decoding import (
    MAX_BATCH_ROWS,
    MAX_BATCH_TOKENS,
    ROUND_TOKENS,
    SMALLEST_TURNED,
    _NumbersOnly,
    _quick_products,
    batches,
    write_in_rounds,
)
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.fast.prefix import common_length
from pangzhu.model import cache_name
from tests.conftest import FAMILIES
from tests.use_helpers import GREEDY, QUESTIONS, ask, load

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


class Watched(torch.nn.Module):
    """A model that remembers of which shape the ids were that it was asked to go on from."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.device = torch.device("cpu")
        self.config = model.config
        self.asked: list[torch.Tensor] = []
        self.known: list[int] = []  # tokens whose keys and values were there already

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(ids.shape) for ids in self.asked]

    def generate(self, **options: object) -> object:
        ids, cache = options["input_ids"], options.get(cache_name())
        assert isinstance(ids, torch.Tensor)
        assert cache is None or isinstance(cache, Cache)
        self.asked.append(ids)
        self.known.append(0 if cache is None else cache.get_seq_length())
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
    of_prefix, *of_rounds = [shape[0] for shape in watched.shapes]
    assert (of_prefix, of_rounds) == (1, still_writing)


def test_each_round_goes_on_where_the_last_one_stopped(plain: TransformersEngine) -> None:
    watched = write(plain, BASE, ["a?", "a much longer question?"], TWO_ROUNDS)
    _, (rows, width), second = watched.shapes
    assert second == (rows, width + ROUND_TOKENS)
    assert watched.known[-1] == width + ROUND_TOKENS - 1


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


def test_a_row_whose_scores_are_no_numbers_is_ended_and_the_others_go_on() -> None:
    numbers_only = _NumbersOnly(end_id=2)
    ids = torch.zeros((4, 5), dtype=torch.long)
    sound = torch.tensor([[0.1, 0.5, 0.2]] * 4)
    assert numbers_only(ids, sound) is sound
    lost = sound.clone()
    lost[1, 0], lost[2] = torch.nan, -torch.inf
    found = numbers_only(ids, lost)
    assert torch.equal(found[[0, 3]], sound[[0, 3]])
    assert found[[1, 2]].argmax(-1).tolist() == [2, 2]
    assert torch.equal(found[1:3].softmax(-1), torch.tensor([[0.0, 0.0, 1.0]] * 2))
    numbers_only(ids, torch.full_like(sound, torch.inf))
    assert [numbers_only.ended_at(place, 2) for place in range(4)] == [False, True, True, False]
    assert numbers_only.ended_at(3, 3)
    assert not numbers_only.ended_at(3, 1)  # it had ended by itself before


def test_an_answer_breaks_off_before_the_token_whose_scores_are_no_numbers(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of two loses its numbers at its tenth token, in the second round."""
    whole = [ask(engine, "english", question) for question in QUESTIONS[:2]]
    call = _NumbersOnly.__call__
    place = len(engine.prompt([Turn("user", QUESTIONS[0])], "english")) + 9

    def losing(self: _NumbersOnly, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == place:
            scores[0] = torch.nan
        return call(self, input_ids, scores)

    monkeypatch.setattr(_NumbersOnly, "__call__", losing)
    prompts = [engine.prompt([Turn("user", question)], "english") for question in QUESTIONS[:2]]
    cut, other = (answer for _, answer in sorted(engine.generate_many(prompts, "english", GREEDY)))
    assert (cut.broke_off, cut.ended, cut.token_ids) == (True, False, whole[0].token_ids[:9])
    assert other == whole[1]


# --- what prompts share ------------------------------------------------------------------------------------------


def test_what_all_prompts_begin_with_is_computed_once(plain: TransformersEngine) -> None:
    prompts = [plain.prompt([Turn("user", question)], BASE) for question in ("a?", "a much longer question?")]
    shared = common_length(prompts)
    watched = write(plain, BASE, ["a?", "a much longer question?"], TWO_ROUNDS)
    assert watched.shapes[0] == (1, shared)
    assert watched.known[:2] == [0, shared]


def test_equal_prompts_leave_a_token_to_go_on_from(plain: TransformersEngine) -> None:
    prompt = plain.prompt([Turn("user", "a?")], BASE)
    assert write(plain, BASE, ["a?", "a?"], TWO_ROUNDS).shapes[0] == (1, len(prompt) - 1)
    twice = dict(plain.generate_many([prompt, prompt], BASE, TWO_ROUNDS))
    assert twice[0] == twice[1] == plain.generate(prompt, BASE, TWO_ROUNDS)


def test_prompts_that_share_little_are_computed_apart(plain: TransformersEngine) -> None:
    prompts = [[1, 5, 9, 12], [1, 5, 10, 13, 14]]
    watched = Watched(plain.model)
    with torch.inference_mode():
        write_in_rounds(watched, prompts, plain.contract(BASE), TWO_ROUNDS)  # type: ignore[arg-type]
    assert (watched.shapes[0], watched.known[0]) == ((2, 5), 0)


def test_a_sliding_window_sees_no_padding_behind_a_shared_prefix(model_folder: Callable[[str], Path]) -> None:
    engine = load(model_folder("gemma3"))
    watched = write(engine, BASE, ["a?", "a much longer question?"], TWO_ROUNDS)
    assert watched.shapes[0][0] == 2  # nothing is computed for the prefix alone
    assert watched.known[0] == 0


# --- products the other way round --------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_turned_layer_gives_the_same_sums(bias: bool) -> None:
    linear = torch.nn.Linear(SMALLEST_TURNED, 2 * SMALLEST_TURNED, bias=bias)
    rows = torch.randn(3, 5, SMALLEST_TURNED)
    with torch.inference_mode():
        expected = linear(rows)
        with _quick_products(linear, num_rows=3):
            assert "forward" in vars(linear)
            turned = linear(rows)
        assert "forward" not in vars(linear)
    assert turned.shape == expected.shape
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize(
    ("linear", "num_rows"),
    [
        (torch.nn.Linear(SMALLEST_TURNED, SMALLEST_TURNED), 1),
        (torch.nn.Linear(SMALLEST_TURNED, SMALLEST_TURNED - 1), 3),
    ],
    ids=["one row", "a thin matrix"],
)
def test_what_gains_nothing_is_not_turned(linear: torch.nn.Linear, num_rows: int) -> None:
    with _quick_products(linear, num_rows=num_rows):
        assert "forward" not in vars(linear)


class Copying(TorchDispatchMode):
    """Remembers the largest matrix that a product was given, its copies for each row of a batch counted."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.largest = max(self.largest, *(matrix.numel() for matrix in args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
def test_in_bf16_no_row_of_a_batch_has_a_matrix_of_its_own(bias: bool) -> None:
    """Of a head of 150,000 words that would be gigabytes."""
    linear = torch.nn.Linear(32, 48, bias=bias).bfloat16().requires_grad_(False)
    last_places = torch.randn(3, 5, 32).bfloat16()[:, -1:]
    with torch.no_grad(), Copying() as copying:
        expected = linear(last_places)
        assert copying.largest == 3 * linear.weight.numel(), "torch does not do so any more: `_flat` can go"
        copying.largest = 0
        with _quick_products(linear, num_rows=3):
            found = linear(last_places)
    assert copying.largest == 0
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.02)  # with a bias torch rounds once less


def test_a_batch_is_written_without_a_head_for_each_row(plain: TransformersEngine) -> None:
    prompts = [plain.prompt([Turn("user", question)], BASE) for question in QUESTIONS]
    with plain.using(BASE) as model:
        in_bf16 = copy.deepcopy(model).bfloat16().requires_grad_(False)
    with torch.no_grad(), Copying() as copying:
        written = write_in_rounds(in_bf16, prompts, plain.contract(BASE), TWO_ROUNDS)
    assert len(written) == len(QUESTIONS)
    assert copying.largest < len(QUESTIONS) * in_bf16.get_output_embeddings().weight.numel()


def test_a_layer_that_somebody_else_has_changed_is_left_alone() -> None:
    linear = torch.nn.Linear(SMALLEST_TURNED, SMALLEST_TURNED)
    linear.forward = theirs = lambda rows: rows  # type: ignore[method-assign]
    with _quick_products(linear, num_rows=2):
        assert linear.forward is theirs
    assert linear.forward is theirs


def test_an_error_turns_the_layers_back() -> None:
    linear = torch.nn.Linear(SMALLEST_TURNED, SMALLEST_TURNED)
    with pytest.raises(RuntimeError, match="stop"), _quick_products(linear, num_rows=2):
        raise RuntimeError("stop")
    assert "forward" not in vars(linear)
