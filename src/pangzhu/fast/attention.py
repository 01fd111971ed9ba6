"""Causal attention within each row of a padding-free stream, by plain batched products.

torch's fused kernel for CPUs serves a head at a time in tiles; rows of a hundred tokens make tens of thousands of tiny
products, and its backward pass costs ten times their arithmetic. Here a row is one product for each key-value head: the
G query heads that share its keys stand below each other, `(G L, D) x (D, L)`, so keys are never repeated and their
gradients add up inside the product. A long row is cut into blocks of queries, each of which sees the keys up to its end.

Scores and softmax are float32 (a score of 40 rounded to bf16 may be off by 0.1); probabilities are kept for the
backward pass in the model's format while rows are short, and computed again where they are long.

A row may begin with a prefix that it shares with others (`pangzhu.fast.prefix`): its queries see the prefix's keys and
its own. The prefix's gradients add up in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pangzhu.fast.workspace import ROOM, Room

QUERIES_A_BLOCK = 256  # scores of a block of 14 heads and 1,024 keys: 15 MB
MOST_KEPT_KEYS = 128  # probabilities of a block with more keys are computed again in the backward pass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of the stream that attend to themselves and, before that, to a prefix.

    Args:
        start: first token in the stream.
        length: number of tokens.
        prefix_start: first token of the prefix in the stream.
        prefix_length: 0 without a prefix.
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Queries that are computed together.

    Args:
        queries: where they are in the stream of queries.
        keys: where the keys that any of them sees are in the stream of tokens, one slice or prefix and own.
        bias: `(num_queries, m)`, 0 or -inf: what each query sees of the last m keys; those before them, all see.
    """

    queries: slice
    keys: tuple[slice, ...]
    bias: Tensor

    @property
    def num_keys(self) -> int:
        """Keys of all slices."""
        return sum(keys.stop - keys.start for keys in self.keys)


def plan_blocks(segments: Sequence[Segment]) -> list[Block]:
    """Blocks for a stream in which every token is a query."""
    blocks = []
    for segment in segments:
        for first in range(0, segment.length, QUERIES_A_BLOCK):
            last = min(segment.length, first + QUERIES_A_BLOCK)
            offsets = torch.arange(first, last)
            blocks.append(_block(segment, slice(segment.start + first, segment.start + last), offsets))
    return blocks


def plan_blocks_at(segments: Sequence[Segment], places: Tensor) -> list[Block]:
    """Blocks for a stream of queries that holds the tokens at `places` alone, `(S,)`, in ascending order."""
    blocks: list[Block] = []
    for segment in segments:
        start, end = torch.searchsorted(places, torch.tensor([segment.start, segment.start + segment.length])).tolist()
        for first in range(start, end, QUERIES_A_BLOCK):
            last = min(end, first + QUERIES_A_BLOCK)
            blocks.append(_block(segment, slice(first, last), places[first:last] - segment.start))
    return blocks


def attend(q: Tensor, k: Tensor, v: Tensor, *, blocks: Sequence[Block], scale: float, room: Room = ROOM) -> Tensor:
    """Attention of each block's queries over its keys.

    Args:
        q: `(K, S, G, D)`: K key-value heads, G query heads to each, S queries.
        k: `(K, T, D)`, contiguous.
        v: `(K, T, D)`.
        blocks: together they hold every query once.
        scale: factor of the scores.
        room: lends the places of the result and of a copy of `v`, which may be part of a wider tensor.

    Returns:
        `(S, K * G * D)`.
    """
    output: Tensor = _Attend.apply(q, k, v, _Way(tuple(blocks), scale, room))
    return output


def dense_mask(segments: Sequence[Segment], num_tokens: int, places: Tensor | None) -> Tensor:
    """`(S, T)`, true where the token at a place (None: every token) sees another: the whole stream as one square."""
    mask = torch.zeros((num_tokens, num_tokens), dtype=torch.bool)
    for segment in segments:
        own = slice(segment.start, segment.start + segment.length)
        mask[own, own] = torch.ones((segment.length, segment.length), dtype=torch.bool).tril_()
        mask[own, segment.prefix_start : segment.prefix_start + segment.prefix_length] = True
    return mask if places is None else mask[places]


def attend_densely(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor, scale: float) -> Tensor:
    """As `attend`, by torch's own attention under a `dense_mask`."""
    by_head = q.transpose(1, 2).flatten(0, 1)  # (K * G, S, D)
    attended = scaled_dot_product_attention(by_head[None], k[None], v[None], mask, scale=scale, enable_gqa=True)
    return attended[0].transpose(0, 1).flatten(1)


def _block(segment: Segment, queries: slice, offsets: Tensor) -> Block:
    """Queries at `offsets` (ascending) within a segment; all see its keys up to the first offset, then one more each."""
    first, last = int(offsets[0]), int(offsets[-1])
    own = slice(segment.start, segment.start + last + 1)
    prefix = slice(segment.prefix_start, segment.prefix_start + segment.prefix_length)
    joined = prefix.stop == own.start
    together = (slice(prefix.start, own.stop),) if joined else (prefix, own)
    keys = together if segment.prefix_length else (own,)
    hidden = torch.arange(first, last + 1) > offsets[:, None]
    bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    return Block(queries, keys, bias)


def _take(x: Tensor, keys: tuple[slice, ...]) -> Tensor:
    """`(K, T, D)` to the block's keys `(K, M, D)`."""
    return x[:, keys[0]] if len(keys) == 1 else torch.cat([x[:, part] for part in keys], dim=1)


def _rows_of(x: Tensor, queries: slice) -> Tensor:
    """`(K, S, G, D)` to the block's queries below each other, `(K, L * G, D)`."""
    return x[:, queries].flatten(1, 2)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Softmax of the scores, `(K, L * G, M)`, in the format of `q`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(q.to(wide).mul_(scale) if q.dtype != wide else q * scale, k.to(wide).transpose(1, 2))
    num_queries, num_biased = bias.shape
    by_query = scores.view(scores.shape[0], num_queries, -1, scores.shape[-1])
    by_query[..., -num_biased:] += bias[:, None]
    return torch.softmax(scores, dim=-1).to(q.dtype)


@dataclass(frozen=True, slots=True)
class _Way:
    """What `attend` was asked for, beside tensors."""

    blocks: tuple[Block, ...]
    scale: float
    room: Room


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, way: _Way) -> Tensor:
        num_heads, num_queries, num_groups, head_dim = q.shape
        v = way.room.kept("values")(v.shape, v).copy_(v)
        output = way.room.kept("attended")((num_queries, num_heads, num_groups, head_dim), q)
        kept: list[Tensor | None] = []
        for block in way.blocks:
            queries, keys = _rows_of(q, block.queries), _take(k, block.keys)
            probabilities = _probabilities(queries, keys, block.bias, way.scale)
            attended = torch.bmm(probabilities, _take(v, block.keys))
            length = block.queries.stop - block.queries.start
            by_query = attended.view(num_heads, length, num_groups, head_dim)
            output[block.queries] = by_query.permute(1, 0, 2, 3)
            kept.append(probabilities if block.num_keys <= MOST_KEPT_KEYS else None)
        ctx.way = way
        ctx.save_for_backward(q, k, v, *kept)
        return output.view(num_queries, -1)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        num_heads, num_queries, num_groups, head_dim = q.shape
        d_rows = d_output.view(num_queries, num_heads, num_groups, head_dim).permute(1, 0, 2, 3).contiguous()
        d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        wide = torch.promote_types(q.dtype, torch.float32)
        d_k = torch.zeros(k.shape, dtype=wide, device=k.device)
        d_v = torch.zeros(v.shape, dtype=wide, device=v.device)
        for block, known in zip(ctx.way.blocks, kept, strict=True):
            queries, keys = _rows_of(q, block.queries), _take(k, block.keys)
            probabilities = _probabilities(queries, keys, block.bias, ctx.way.scale) if known is None else known
            d_attended = _rows_of(d_rows, block.queries)
            d_probabilities = torch.bmm(d_attended, _take(v, block.keys).transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, q.dtype)
            d_q[:, block.queries] = torch.bmm(d_scores, keys).view(num_heads, -1, num_groups, head_dim)
            _add_to(d_k, block.keys, torch.bmm(d_scores.transpose(1, 2), queries))
            _add_to(d_v, block.keys, torch.bmm(probabilities.transpose(1, 2), d_attended))
        return d_q.mul_(ctx.way.scale), d_k.mul_(ctx.way.scale).to(k.dtype), d_v.to(v.dtype), None


def _add_to(target: Tensor, keys: tuple[slice, ...], gradient: Tensor) -> None:
    """Add `(K, M, D)` at the block's keys."""
    first = 0
    for part in keys:
        length = part.stop - part.start
        target[:, part] += gradient[:, first : first + length]
        first += length
