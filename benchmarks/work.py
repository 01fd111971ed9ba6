"""The useful work of steps in floating-point operations (`pangzhu.estimate.useful_flops`).

A prefix that rows share counts once, and so does a token that no learned token depends on: not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pangzhu.batching import lay_end_to_end
from pangzhu.data.conversation import Location
from pangzhu.decisions import model_shape
from pangzhu.estimate import useful_flops
from pangzhu.fast.stream import lay_out
from pangzhu.plan import ModelShape
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
    shape = model_shape(model)
    parts = [_step(shape, rows[start : start + rows_per_step], rank) for start in range(0, len(rows), rows_per_step)]
    return Work(
        sum(part.num_tokens for part in parts),
        sum(part.num_supervised for part in parts),
        sum(part.num_computed for part in parts),
        sum(part.flops for part in parts),
    )


def _step(shape: ModelShape, rows: Sequence[dict[str, list[int]]], rank: int) -> Work:
    where = Location(Path("rows"), 1, 1)
    examples = [TokenizedExample(tuple(row["input_ids"]), tuple(row["labels"]), where) for row in rows]
    batch = lay_end_to_end(list(enumerate(examples)))
    stream = lay_out(batch.input_ids[0], batch.shift_labels[0], batch.row_lengths)
    flops = useful_flops(shape, stream, num_supervised=batch.num_supervised, num_trainable=shape.adapter_size(rank))
    return Work(batch.num_tokens, batch.num_supervised, stream.num_tokens, flops)
