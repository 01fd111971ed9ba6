"""The divergence is the textbook's, and so is its gradient; in chunks or at once."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from pangzhu.fast import divergence as module
from pangzhu.fast.divergence import divergence

NUM_PLACES, WIDTH, NUM_WORDS = 7, 6, 11


def states(seed: int) -> Tensor:
    return torch.randn((NUM_PLACES, WIDTH), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def head() -> Tensor:
    return torch.randn((NUM_WORDS, WIDTH), dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_the_book(hidden: Tensor, reference: Tensor, head: Tensor) -> Tensor:
    """KL(reference || hidden) of each place, by autograd."""
    adapter, base = ((given @ head.T).log_softmax(-1) for given in (hidden, reference))
    return kl_div(adapter, base, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("places", [1, 3, 64])
def test_divergence_and_gradient_are_the_textbooks(places: int, head: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES", places)
    hidden, other = states(1).requires_grad_(), states(1).requires_grad_()
    found = divergence(hidden, states(2), head)
    wanted = by_the_book(other, states(2), head)
    torch.testing.assert_close(found.each, wanted.detach())
    torch.testing.assert_close(found.total, wanted.sum())
    (2 * found.total).backward()
    (2 * wanted.sum()).backward()
    torch.testing.assert_close(hidden.grad, other.grad)


def test_where_nothing_moved_nothing_pulls(head: Tensor) -> None:
    hidden = states(1).requires_grad_()
    found = divergence(hidden, states(1), head)
    found.total.backward()
    torch.testing.assert_close(found.each, torch.zeros(NUM_PLACES, dtype=torch.float64))
    torch.testing.assert_close(hidden.grad, torch.zeros_like(hidden))
    assert found.agreeing.all()


def test_places_where_another_word_comes_first_do_not_agree(head: Tensor) -> None:
    turned = states(1)
    turned[2], turned[5] = -turned[2], -turned[5]
    found = divergence(states(1), turned, head)
    assert found.agreeing.tolist() == [place not in (2, 5) for place in range(NUM_PLACES)]


def test_in_bf16_the_divergence_is_that_of_its_own_logits(head: Tensor) -> None:
    narrow = [given.bfloat16() for given in (states(1), states(2), head)]
    found = divergence(*narrow)
    assert found.each.dtype == torch.float32
    torch.testing.assert_close(found.each, by_the_book(*(part.float() for part in narrow)), rtol=0.05, atol=0.02)
