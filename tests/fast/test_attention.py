"""Attention row by row: torch's own numbers, right gradients, and nobody sees another row."""

import pytest
import torch
from torch.autograd import gradcheck

from pangzhu.fast import attention
from pangzhu.fast.attention import Segment, attend, attend_densely, dense_mask, plan_blocks, plan_blocks_at

K, G, D = 2, 3, 4
SCALE = D**-0.5
PLAIN = (Segment(0, 3), Segment(3, 5), Segment(8, 1))
SHARED = (Segment(0, 4), Segment(4, 3, 0, 4), Segment(7, 2, 0, 4), Segment(9, 3))  # a prefix, two rows of it, one alone
LAYOUTS = {"rows": PLAIN, "a shared prefix": SHARED}


def random_qkv(num_queries: int, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    shapes = ((K, num_queries, G, D), (K, num_tokens, D), (K, num_tokens, D))
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return q, k, v


def num_tokens(segments: tuple[Segment, ...]) -> int:
    return sum(segment.length for segment in segments)


def outputs_and_gradients(compute: object, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    output = compute(*inputs)  # type: ignore[operator]
    weights = torch.arange(output.numel(), dtype=output.dtype).view_as(output).cos()
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("queries_a_block", [2, 256])
@pytest.mark.parametrize("most_kept", [0, 512])
def test_blocks_give_what_one_dense_mask_gives(
    layout: str, queries_a_block: int, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "QUERIES_A_BLOCK", queries_a_block)
    monkeypatch.setattr(attention, "MOST_KEPT_KEYS", most_kept)
    segments = LAYOUTS[layout]
    total = num_tokens(segments)
    inputs = random_qkv(total, total)
    blocks = plan_blocks(segments)
    mask = dense_mask(segments, total, None)
    ours = outputs_and_gradients(lambda q, k, v: attend(q, k, v, blocks=blocks, scale=SCALE), inputs)
    dense = outputs_and_gradients(lambda q, k, v: attend_densely(q, k, v, mask=mask, scale=SCALE), inputs)
    for mine, other in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("places", [[0], [2, 3, 7, 8], [5], list(range(9))])
def test_some_queries_get_what_they_get_among_all(layout: str, places: list[int]) -> None:
    segments = LAYOUTS[layout]
    total, chosen = num_tokens(segments), torch.tensor(places)
    q, k, v = random_qkv(total, total)
    everyone = attend(q, k, v, blocks=plan_blocks(segments), scale=SCALE)
    some = attend(q[:, chosen], k, v, blocks=plan_blocks_at(segments, chosen), scale=SCALE)
    torch.testing.assert_close(some, everyone[chosen])
    dense = attend_densely(q[:, chosen], k, v, mask=dense_mask(segments, total, chosen), scale=SCALE)
    torch.testing.assert_close(some, dense)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_right(layout: str) -> None:
    segments = LAYOUTS[layout]
    blocks = plan_blocks(segments)
    total = num_tokens(segments)
    assert gradcheck(lambda q, k, v: attend(q, k, v, blocks=blocks, scale=SCALE), random_qkv(total, total))


def test_a_row_sees_itself_up_to_each_token_and_its_prefix_and_nothing_else() -> None:
    mask = dense_mask(SHARED, 12, None)
    assert mask[5].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert mask[8].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 7, 8]
    assert mask[2].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert mask[10].nonzero()[:, 0].tolist() == [9, 10]


@pytest.mark.parametrize("num_tokens", [1, 255, 256, 257, 600])
def test_every_query_is_in_one_block(num_tokens: int) -> None:
    blocks = plan_blocks([Segment(0, num_tokens)])
    covered = [place for block in blocks for place in range(block.queries.start, block.queries.stop)]
    assert covered == list(range(num_tokens))
    assert blocks[-1].num_keys == num_tokens


def test_bf16_scores_are_computed_in_float32() -> None:
    """A score of 40 is known to 0.125 in bf16; the softmax of scores that are rounded so is off by a tenth."""
    q, k, v = (tensor.detach() * 6 for tensor in random_qkv(9, 9))
    exact = attend(q, k, v, blocks=plan_blocks(PLAIN), scale=SCALE)
    half = [tensor.to(torch.bfloat16) for tensor in (q, k, v)]
    rounded = attend(*half, blocks=plan_blocks(PLAIN), scale=SCALE)
    through_double = attend(*(tensor.double() for tensor in half), blocks=plan_blocks(PLAIN), scale=SCALE)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - through_double).abs().max() < 0.02 * exact.abs().max()
