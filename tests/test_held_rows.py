"""Rows that are held to the base: their loss is the divergence, the others' is what it was, on either path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from pangzhu.batching import lay_end_to_end
from pangzhu.fast.path import FastPath
from pangzhu.fast.techniques import Techniques
from pangzhu.own_words import hold_to_base
from pangzhu.step import HeldToBase, StepOutcome, forward_rows
from pangzhu.tokenization import IGNORED, TokenizedDataset, TokenizedExample
from tests.conftest import FAMILIES, build_lora, examples

pytestmark = pytest.mark.usefixtures("one_core", "said")

WEIGHT = 3.0


def fast_path(model: Any) -> FastPath:
    return FastPath(model, Techniques(), longest=64)


every_family = pytest.mark.parametrize("family", FAMILIES)
on_either_path = pytest.mark.parametrize("path_of", [lambda _: None, fast_path], ids=["reference", "fast"])


def rows() -> TokenizedDataset:
    """Two to be learned, and two of the base's own words; the second of each begins like the others."""
    taught, own = examples(12, 20, prompt=4), examples(15, 9, prompt=5, seed=7)
    return TokenizedDataset((*taught, *own), (), num_replay=2, num_held=2)


def moved(family: str = "qwen2", by: float = 0.3) -> Any:
    """A model that its adapter moves."""
    model = build_lora(family).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def held_by(model: Any, fast: FastPath | None) -> HeldToBase:
    return hold_to_base(model, rows(), weight=WEIGHT, token_budget=30, fast=fast)


def outcome_of(model: Any, fast: FastPath | None, chosen: list[int], held: HeldToBase) -> StepOutcome:
    batch = lay_end_to_end([(index, rows().examples[index]) for index in chosen])
    return forward_rows(model, batch, fast, held)


def by_the_book(model: Any, row: TokenizedExample) -> float:
    """KL(base || adapter) over a row's supervised tokens, every logit at once."""
    places = [place - 1 for place, label in enumerate(row.labels) if label != IGNORED]
    log_p = []
    with torch.no_grad():
        for context in (model.disable_adapter(), torch.no_grad()):
            with context:
                logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, places]
            log_p.append(logits.log_softmax(-1))
    base, adapter = log_p
    return float(kl_div(adapter, base, reduction="sum", log_target=True))


@every_family
@on_either_path
def test_a_held_row_costs_its_weighted_divergence(family: str, path_of: Callable[[Any], FastPath | None]) -> None:
    model = moved(family).eval()
    fast = path_of(model)
    outcome = outcome_of(model, fast, [3, 2], held_by(model, fast))
    assert [row.row_index for row in outcome.rows] == [3, 2]
    for row in outcome.rows:
        wanted = WEIGHT * by_the_book(model, rows().examples[row.row_index])
        assert wanted > 0.1
        assert row.loss == pytest.approx(wanted, rel=1e-5)
    assert outcome.loss_sum.item() == pytest.approx(sum(row.loss for row in outcome.rows))


@on_either_path
def test_beside_held_rows_the_others_lose_what_they_lose_alone(path_of: Callable[[Any], FastPath | None]) -> None:
    model = moved().eval()
    fast = path_of(model)
    held = held_by(model, fast)
    together = outcome_of(model, fast, [2, 0, 3, 1], held)
    apart = [outcome_of(model, fast, chosen, held) for chosen in ([0, 1], [2, 3])]
    assert together.loss_sum.item() == pytest.approx(sum(part.loss_sum.item() for part in apart))
    losses = {row.row_index: (row.loss, row.num_supervised, row.learned) for part in apart for row in part.rows}
    for row in together.rows:
        loss, *rest = losses[row.row_index]
        assert row.loss == pytest.approx(loss)
        assert [row.num_supervised, row.learned] == rest


@every_family
def test_gradients_of_a_mixed_batch_are_the_reference_paths(family: str) -> None:
    model = moved(family)
    found = []
    for fast in (None, fast_path(model)):
        model.zero_grad()
        held = held_by(model, fast)
        model.train()
        outcome_of(model, fast, [0, 2, 3, 1], held).loss_sum.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    reference, ours = found
    for name, gradient in reference.items():
        assert gradient.any()
        assert (ours[name] - gradient).norm() < 1e-5 * gradient.norm(), name


@on_either_path
def test_an_adapter_that_moves_nothing_is_pulled_nowhere(path_of: Callable[[Any], FastPath | None]) -> None:
    model = moved(by=0)
    fast = path_of(model)
    held = held_by(model, fast)
    model.train()
    outcome = outcome_of(model, fast, [2, 3], held)
    outcome.loss_sum.backward()
    assert outcome.loss_sum.item() == pytest.approx(0, abs=1e-9)
    assert all(row.learned for row in outcome.rows)
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter.grad))


def test_the_bases_states_are_noted_with_the_adapter_switched_off() -> None:
    model = moved().eval()
    states = held_by(model, None).states
    with model.disable_adapter():
        unmoved = held_by(model, None).states
    assert states.keys() == {2, 3}
    for index, noted in states.items():
        assert len(noted) == rows().examples[index].num_supervised
        torch.testing.assert_close(noted, unmoved[index])


def test_steps_towards_the_base_bring_the_adapter_nearer_to_it() -> None:
    model = moved()
    fast = fast_path(model)
    held = held_by(model, fast)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = outcome_of(model, fast, [2, 3], held).loss_sum
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
