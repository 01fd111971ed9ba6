"""The useful work of a step in floating-point operations, each counted as often as exact training needs it.

Forward and input gradient of the frozen body take 4 N a token, the adapters 6 P, the head 4 H a learned token, attention
7 L^2 D heads layers a row of L tokens (half of the square, 3.5 times forward for both passes). A prefix that rows share
counts once, and so does a token that no learned token depends on: not at all.

A forward pass alone takes half of that for the body, a third for the adapters, half for the head, and 2 L^2 D heads layers for
attention; in the last layer only the places that are asked need more than their key and value.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.data.conversation import Location
from pangzhu.fast.stream import Stream, lay_out
from pangzhu.tokenization import TokenizedExample


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens and operations of some rows."""

    num_tokens: int
    num_supervised: int
    num_computed: int
    flops: float


def work_of(model: Path, rows: Sequence[dict[str, list[int]]], rows_per_step: int, *, rank: int = 8) -> Work:
    """The useful work of all rows, step by step."""
    shape = _Shape.read(model, rank)
    parts = [_step(shape, rows[start : start + rows_per_step]) for start in range(0, len(rows), rows_per_step)]
    return _total(parts)


def forward_work(model: Path, pieces: Sequence[MicroBatch], *, rank: int = 0) -> Work:
    """The useful work of a forward pass over micro-batches, as they are packed.

    Args:
        model: folder of the base.
        pieces: what is computed at a time.
        rank: of the adapter on every linear layer; 0 for the base alone.
    """
    shape = _Shape.read(model, rank)
    parts = [_forward(shape, piece) for piece in pieces]
    return _total(parts)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Multiplications a token takes.

    Args:
        body: in one layer's frozen matrices.
        body_keys: of these, for keys and values.
        adapter: in one layer's adapters.
        adapter_keys: of these, for keys and values.
        head: in the head.
        width: of all queries together.
        num_layers: how often.
    """

    body: int
    body_keys: int
    adapter: int
    adapter_keys: int
    head: int
    width: int
    num_layers: int

    @classmethod
    def read(cls, model: Path, rank: int) -> "_Shape":
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
        return cls(
            body=hidden * (2 * queries + 2 * keys) + 3 * hidden * inner,
            body_keys=2 * hidden * keys,
            adapter=rank * (2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)),
            adapter_keys=rank * 2 * (hidden + keys),
            head=config["vocab_size"] * hidden,
            width=queries,
            num_layers=config["num_hidden_layers"],
        )


def _total(parts: Sequence[Work]) -> Work:
    return Work(
        sum(part.num_tokens for part in parts),
        sum(part.num_supervised for part in parts),
        sum(part.num_computed for part in parts),
        sum(part.flops for part in parts),
    )


def _step(shape: _Shape, rows: Sequence[dict[str, list[int]]]) -> Work:
    where = Location(Path("rows"), 1, 1)
    examples = [TokenizedExample(tuple(row["input_ids"]), tuple(row["labels"]), where) for row in rows]
    batch = lay_end_to_end(list(enumerate(examples)))
    stream = _stream(batch)
    supervised = batch.num_supervised
    attention = 14 * _pairs(stream) * shape.width * shape.num_layers
    flops = stream.num_tokens * shape.num_layers * (4 * shape.body + 6 * shape.adapter)
    return Work(batch.num_tokens, supervised, stream.num_tokens, flops + 4 * shape.head * supervised + attention)


def _forward(shape: _Shape, batch: MicroBatch) -> Work:
    stream = _stream(batch)
    num_places = len(stream.places)
    layer, keys = shape.body + shape.adapter, shape.body_keys + shape.adapter_keys
    products = stream.num_tokens * ((shape.num_layers - 1) * layer + keys) + num_places * (layer - keys + shape.head)
    last_pairs = int((stream.position_ids[stream.places] + 1).sum())
    attention = 4 * shape.width * ((shape.num_layers - 1) * _pairs(stream) + last_pairs)
    return Work(batch.num_tokens, batch.num_supervised, stream.num_tokens, 2 * products + attention)


def _stream(batch: MicroBatch) -> Stream:
    return lay_out(batch.input_ids[0], batch.shift_labels[0], batch.row_lengths)


def _pairs(stream: Stream) -> float:
    """Queries and the keys they see."""
    return sum(s.length * s.prefix_length + s.length * (s.length + 1) / 2 for s in stream.segments)
