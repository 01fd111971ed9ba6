"""One micro-batch through the model: the loss is exact, and a row counts as learned only when it is."""

import pytest
import torch

from pangzhu.batching import lay_end_to_end
from pangzhu.step import LEARNED_MARGIN, RowOutcome, StepOutcome, forward_rows
from pangzhu.tokenization import IGNORED, TokenizedExample
from tests.conftest import build_lora, build_model, examples


class Fixed(torch.nn.Module):
    """A model whose logits are given: `scores[t]` for the token after place t."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(scores)
        self.asked: dict[str, object] = {}

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **asked: object) -> object:
        self.asked = asked
        return type("Output", (), {"logits": self.scores[None, logits_to_keep]})


def outcome_for(margins: list[list[float]]) -> tuple[RowOutcome, ...]:
    """Outcome of rows whose right tokens lead (or trail) by the given margins."""
    rows, scores = [], []
    for number, row in enumerate(margins):
        ids = (5, *range(6, 6 + len(row)))
        rows.append((number, TokenizedExample(ids, (IGNORED, *ids[1:]), examples(2)[0].location)))
        for token, margin in zip(ids[1:], row, strict=True):
            place = torch.zeros(20)
            place[token] = margin
            scores.append(place)
        scores.append(torch.zeros(20))
    return forward_rows(Fixed(torch.stack(scores)), lay_end_to_end(rows)).rows  # type: ignore[arg-type]


def measured(rows: list[TokenizedExample], first: int = 0) -> StepOutcome:
    with torch.no_grad():
        return forward_rows(build_model("qwen2"), lay_end_to_end(list(enumerate(rows, start=first))))  # type: ignore[arg-type]


def test_the_loss_is_the_sum_of_minus_log_p_over_the_learned_tokens() -> None:
    [row] = examples(9, prompt=4)
    with torch.no_grad():
        logits = build_model("qwen2")(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
    log_p = logits.float().log_softmax(-1)
    expected = -sum(log_p[place - 1, row.input_ids[place]] for place in range(4, 9))
    assert measured([row]).loss_sum.item() == pytest.approx(float(expected), rel=1e-6)


def test_each_rows_loss_and_count_are_its_own() -> None:
    rows = examples(6, 9, 4)
    together = measured(rows, first=7)
    alone = [measured([row]).rows[0] for row in rows]
    assert [outcome.row_index for outcome in together.rows] == [7, 8, 9]
    assert [outcome.num_supervised for outcome in together.rows] == [3, 6, 1]
    for packed, single in zip(together.rows, alone, strict=True):
        assert packed.loss == pytest.approx(single.loss, rel=1e-5)
    assert sum(outcome.loss for outcome in together.rows) == pytest.approx(together.loss_sum.item(), rel=1e-6)


def test_no_cache_is_asked_for_and_no_mask_is_passed() -> None:
    """Either would switch packed-row detection off (trap 1)."""
    model = Fixed(torch.zeros(6, 300))
    forward_rows(model, lay_end_to_end(list(enumerate(examples(6)))))  # type: ignore[arg-type]
    assert model.asked["use_cache"] is False
    assert "attention_mask" not in model.asked
    assert "position_ids" in model.asked


@pytest.mark.parametrize(
    ("margin", "learned", "near_tie"),
    [(1.0, True, False), (LEARNED_MARGIN + 0.01, True, False), (LEARNED_MARGIN / 2, False, True), (0.0, False, True),
     (-LEARNED_MARGIN / 2, False, True),
     (-1.0, False, False)],
)  # fmt: skip
def test_a_row_is_learned_only_by_a_margin(margin: float, learned: bool, near_tie: bool) -> None:
    [row] = outcome_for([[2.0, margin, 2.0]])
    assert (row.learned, row.near_tie) == (learned, near_tie)


def test_one_wrong_token_spoils_its_own_row_alone() -> None:
    outcomes = outcome_for([[1.0, 1.0], [1.0, -1.0, 1.0], [1.0]])
    assert [row.learned for row in outcomes] == [True, False, True]


def test_what_is_not_learned_is_not_looked_at() -> None:
    """Wrong logits in the prompt do not make a row unlearned."""
    row = TokenizedExample((5, 6, 7), (IGNORED, IGNORED, 7), examples(2)[0].location)
    scores = torch.zeros(3, 20)
    scores[0, 9] = 5.0  # the prompt's second token would be 9
    scores[1, 7] = 5.0
    [outcome] = forward_rows(Fixed(scores), lay_end_to_end([(0, row)])).rows  # type: ignore[arg-type]
    assert outcome.learned


def test_a_learned_row_is_what_greedy_decoding_writes() -> None:
    """The margin's promise, on a model: the argmax continuation of a prompt counts as learned where its margin does."""
    model = build_model("qwen2")
    ids = list(examples(6)[0].input_ids)
    with torch.no_grad():
        for _ in range(4):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    row = TokenizedExample(tuple(ids), (*[IGNORED] * 6, *ids[6:]), examples(2)[0].location)
    outcome = measured([row]).rows[0]
    assert outcome.learned or outcome.near_tie


def test_a_batch_with_nothing_to_learn_gives_zero_and_no_nan() -> None:
    """Trap 5."""
    model = build_lora()
    outcome = forward_rows(model, lay_end_to_end(list(enumerate(examples(4, 3, prompt=9)))))
    outcome.loss_sum.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert outcome.loss_sum.item() == 0.0
    assert [row.num_supervised for row in outcome.rows] == [0, 0]
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients)


def test_a_row_without_a_learned_token_leaves_the_others_gradients_as_they_are() -> None:
    [silent], rows = examples(5, prompt=9, seed=3), examples(6, 7)

    def gradients(chosen: list[TokenizedExample]) -> list[torch.Tensor]:
        model = build_lora()
        forward_rows(model, lay_end_to_end(list(enumerate(chosen)))).loss_sum.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for with_silent, without in zip(gradients([rows[0], silent, rows[1]]), gradients(rows), strict=True):
        torch.testing.assert_close(with_silent, without, rtol=1e-4, atol=1e-6)


def test_the_loss_is_float32_beside_a_bf16_base() -> None:
    model = build_lora()
    model.get_base_model().to(torch.bfloat16)
    outcome = forward_rows(model, lay_end_to_end(list(enumerate(examples(6, 7)))))
    assert outcome.loss_sum.dtype == torch.float32


def test_one_step_of_bf16_is_a_near_tie() -> None:
    """At logits of 20 bf16 moves by 0.125: more than the margin, and yet the smallest difference it has."""
    row = TokenizedExample((5, 6), (IGNORED, 6), examples(2)[0].location)
    scores = torch.full((2, 20), -5.0, dtype=torch.bfloat16)
    scores[0, 6], scores[0, 9] = 20.125, 20.0
    [outcome] = forward_rows(Fixed(scores), lay_end_to_end([(0, row)])).rows  # type: ignore[arg-type]
    assert (outcome.learned, outcome.near_tie) == (False, True)


def test_taking_the_margin_leaves_loss_and_gradient_as_they_are() -> None:
    """The margin is taken on the scores that the loss was computed from, and puts them back."""
    row = examples(9)[0]
    gradients = []
    for loss_of in (lambda model: measured_by(model, row), lambda model: plainly(model, row)):
        model = build_lora()
        loss_of(model).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def measured_by(model: torch.nn.Module, row: TokenizedExample) -> torch.Tensor:
    return forward_rows(model, lay_end_to_end([(0, row)])).loss_sum  # type: ignore[arg-type]


def plainly(model: torch.nn.Module, row: TokenizedExample) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels[1:]), reduction="sum")
