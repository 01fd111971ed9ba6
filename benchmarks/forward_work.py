"""The useful work of a forward pass alone in floating-point operations, each counted as often as exact scoring needs it.

The frozen body takes 2 N a token, the adapters 2 P, the head 2 H a place that is asked, attention 2 L^2 D heads layers a row of
L tokens (half of the square). A prefix that rows share counts once; in the last layer only the places that are asked need
more than their key and value.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.work import Work
from pangzhu.batching import MicroBatch
from pangzhu.fast.stream import lay_out


@dataclass(frozen=True, slots=True)
class Shape:
    """Multiplications that a token takes.

    Args:
        layer: in one layer's matrices, its adapters included.
        keys: of these, for keys and values.
        head: in the head.
        width: of all queries together.
        num_layers: how often.
    """

    layer: int
    keys: int
    head: int
    width: int
    num_layers: int

    @classmethod
    def read(cls, model: Path, *, rank: int) -> "Shape":
        """The shape of the model in a folder; `rank` is that of an adapter on every linear layer, 0 without one."""
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
        body = hidden * (2 * queries + 2 * keys) + 3 * hidden * inner
        adapter = rank * (2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner))
        return cls(
            layer=body + adapter,
            keys=2 * hidden * keys + 2 * rank * (hidden + keys),
            head=config["vocab_size"] * hidden,
            width=queries,
            num_layers=config["num_hidden_layers"],
        )


def forward_work(model: Path, pieces: Sequence[MicroBatch], *, rank: int = 0) -> Work:
    """The useful work of micro-batches, as they are packed.

    Args:
        model: folder of the base.
        pieces: what is computed at a time.
        rank: of the adapter on every linear layer; 0 for the base alone.
    """
    shape = Shape.read(model, rank=rank)
    parts = [_of_piece(shape, piece) for piece in pieces]
    return Work(
        sum(part.num_tokens for part in parts),
        sum(part.num_supervised for part in parts),
        sum(part.num_computed for part in parts),
        sum(part.flops for part in parts),
    )


def _of_piece(shape: Shape, batch: MicroBatch) -> Work:
    stream = lay_out(batch.input_ids[0], batch.shift_labels[0], batch.row_lengths)
    num_places, whole_layers = len(stream.places), shape.num_layers - 1
    products = stream.num_tokens * (whole_layers * shape.layer + shape.keys)
    products += num_places * (shape.layer - shape.keys + shape.head)
    pairs = sum(s.length * s.prefix_length + s.length * (s.length + 1) / 2 for s in stream.segments)
    last_pairs = int((stream.position_ids[stream.places] + 1).sum())  # each place sees itself and all before it
    attention = 4 * shape.width * (whole_layers * pairs + last_pairs)
    return Work(batch.num_tokens, batch.num_supervised, stream.num_tokens, 2 * products + attention)
