"""The chunked head: cross-entropy and its gradient, however the tokens fall into chunks; nothing fresh from step to step."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from pangzhu.fast import loss
from pangzhu.fast.loss import score, score_logits
from pangzhu.fast.workspace import Workspace

S, H, V = 22, 6, 50


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


@pytest.fixture(params=["one chunk", "many chunks and blocks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "one chunk":
        monkeypatch.setattr(loss, "BYTES_A_CHUNK", 1)  # as few tokens as there can be: 8
        monkeypatch.setattr(loss, "WORDS_A_BLOCK", 7)
    return str(request.param)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(S, H).to(dtype).requires_grad_(True)
    return hidden, torch.randn(V, H).to(dtype), torch.randint(V, (S,))


@pytest.mark.usefixtures("chunks")
def test_losses_and_gradient_are_those_of_cross_entropy() -> None:
    hidden, head, targets = inputs()
    ours = score(hidden, head, targets, Workspace())
    plain = cross_entropy(hidden @ head.T, targets, reduction="none")
    torch.testing.assert_close(ours.losses, plain.detach())
    torch.testing.assert_close(ours.loss_sum, plain.sum())
    [mine], [other] = (torch.autograd.grad(0.25 * value, hidden) for value in (ours.loss_sum, plain.sum()))
    torch.testing.assert_close(mine, other)


@pytest.mark.usefixtures("chunks")
def test_the_gradient_is_right() -> None:
    hidden, head, targets = inputs()
    assert gradcheck(lambda given: score(given, head, targets, Workspace()).loss_sum, [hidden])


@pytest.mark.usefixtures("chunks")
def test_leads_are_those_of_the_logits() -> None:
    hidden, head, targets = inputs()
    ours, plain = score(hidden, head, targets, Workspace()), score_logits(hidden @ head.T, targets)
    others = (hidden @ head.T).detach()
    right = others.gather(1, targets[:, None])[:, 0]
    best_other = others.scatter(1, targets[:, None], -torch.inf).amax(1)
    for scores in (ours, plain):
        torch.testing.assert_close(scores.right, right)
        torch.testing.assert_close(scores.leads, right - best_other)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_huge_and_tiny_logits_stay_finite(scale: float) -> None:
    hidden, head, targets = inputs(torch.float32)
    ours = score(hidden * scale, head, targets, Workspace())
    expected = cross_entropy(hidden * scale @ head.T, targets, reduction="none")
    torch.testing.assert_close(ours.losses, expected.detach(), rtol=1e-4, atol=1e-4)
    [gradient] = torch.autograd.grad(ours.loss_sum, hidden)
    assert gradient.isfinite().all()


def test_bf16_logits_are_summed_in_float32() -> None:
    hidden, head, targets = inputs(torch.bfloat16)
    ours = score(hidden, head, targets, Workspace())
    plain = cross_entropy((hidden @ head.T).float(), targets, reduction="none")
    assert ours.losses.dtype == ours.loss_sum.dtype == torch.float32
    torch.testing.assert_close(ours.losses, plain.detach(), rtol=1e-3, atol=1e-3)
    [mine], [other] = (torch.autograd.grad(value, hidden) for value in (ours.loss_sum, plain.sum()))
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, other, rtol=0.05, atol=0.02)


def test_without_gradients_none_is_made() -> None:
    hidden, head, targets = inputs()
    with torch.no_grad():
        scores = score(hidden, head, targets, Workspace())
    assert not scores.loss_sum.requires_grad
    torch.testing.assert_close(scores.losses, score(hidden, head, targets, Workspace()).losses)


@pytest.mark.parametrize("num_tokens", [8, 24, 32, 40, 504, 1024])
def test_chunks_hold_every_token_once_in_about_equal_parts(num_tokens: int) -> None:
    head = torch.empty(150_000, 1)
    chunks = loss._chunks(num_tokens, head)
    assert [place for chunk in chunks for place in range(chunk.start, chunk.stop)] == list(range(num_tokens))
    assert all((chunk.stop - chunk.start) * 150_000 * 4 <= loss.BYTES_A_CHUNK for chunk in chunks)
    assert all((chunk.stop - chunk.start) % loss.ALIGNMENT == 0 for chunk in chunks)


@pytest.mark.parametrize("num_words", [1, 7, 64, 96, 4480])
def test_the_largest_of_each_column_is_found_however_the_words_fold(num_words: int) -> None:
    logits = torch.randn(num_words, 24)
    torch.testing.assert_close(loss._largest(logits), logits.max(dim=0).values, rtol=0, atol=0)
