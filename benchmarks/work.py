"""The useful work of a step in floating-point operations, each counted as often as exact training needs it.

Forward and input gradient of the frozen body take 4 N a token, the adapters 6 P, the head 4 H a learned token, attention
7 L^2 D heads layers a row of L tokens (half of the square, 3.5 times forward for both passes). A prefix that rows share
counts once, and so does a token that no learned token depends on: not at all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pangzhu.batching import lay_end_to_end
from pangzhu.data.conversation import Location
from pangzhu.fast.stream import lay_out
from pangzhu.tokenization import IGNORED, TokenizedExample


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens and operations of some rows."""

    num_tokens: int
    num_supervised: int
    num_computed: int
    flops: float


def work_of(model: Path, rows: Sequence[dict[str, list[int]]], rows_per_step: int, *, rank: int = 8) -> Work:
    """The useful work of all rows, step by step."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    parts = [_step(config, rows[start : start + rows_per_step], rank) for start in range(0, len(rows), rows_per_step)]
    return Work(
        sum(part.num_tokens for part in parts),
        sum(part.num_supervised for part in parts),
        sum(part.num_computed for part in parts),
        sum(part.flops for part in parts),
    )


def _step(config: dict[str, int], rows: Sequence[dict[str, list[int]]], rank: int) -> Work:
    where = Location(Path("rows"), 1, 1)
    examples = [TokenizedExample(tuple(row["input_ids"]), tuple(row["labels"]), where) for row in rows]
    batch = lay_end_to_end(list(enumerate(examples)))
    stream = lay_out(batch.input_ids[0], batch.shift_labels[0], batch.row_lengths)
    supervised = int((batch.shift_labels != IGNORED).sum())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
    body = layers * (hidden * (2 * queries + 2 * keys) + 3 * hidden * inner)
    adapter = layers * rank * (2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner))
    head = config["vocab_size"] * hidden
    pairs = sum(s.length * s.prefix_length + s.length * (s.length + 1) / 2 for s in stream.segments)
    attention = 14 * pairs * head_dim * heads * layers
    flops = stream.num_tokens * (4 * body + 6 * adapter) + 4 * head * supervised + attention
    return Work(batch.num_tokens, supervised, stream.num_tokens, flops)
