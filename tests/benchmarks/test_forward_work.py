"""The useful work of a forward pass: every token once, and the last layer where it is asked."""

import json
from pathlib import Path

import pytest

from benchmarks.forward_work import forward_work
from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.data.conversation import Location
from pangzhu.tokenization import IGNORED, TokenizedExample

SIZES = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 50,
}  # fmt: skip
LAYER = 8 * (2 * 8 + 2 * 4) + 3 * 8 * 16
KEYS = 2 * 8 * 4
ADAPTER = 8 * (2 * 16 + 2 * 12 + 3 * 24)  # rank 8
ADAPTER_KEYS = 8 * 2 * 12


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SIZES), encoding="utf-8")
    return tmp_path


def batch(*rows: tuple[int, ...]) -> MicroBatch:
    """Rows whose last token is asked."""
    where = Location(Path("rows"), 1, 1)
    examples = [TokenizedExample(ids, (*[IGNORED] * (len(ids) - 1), ids[-1]), where) for ids in rows]
    return lay_end_to_end(list(enumerate(examples)))


def test_one_row_is_counted_by_the_formula(model: Path) -> None:
    """In the last layer every token gives its key and value, and the place that is asked goes on alone."""
    base = forward_work(model, [batch((1, 2, 3, 4))])
    attention = 4 * 8 * (2 * (3 * 4 / 2) + 3)
    assert (base.num_tokens, base.num_supervised, base.num_computed) == (4, 1, 3)
    assert base.flops == pytest.approx(2 * (3 * (2 * LAYER + KEYS) + (LAYER - KEYS) + 50 * 8) + attention)
    extra = 2 * (3 * (2 * ADAPTER + ADAPTER_KEYS) + (ADAPTER - ADAPTER_KEYS))
    assert forward_work(model, [batch((1, 2, 3, 4))], rank=8).flops - base.flops == pytest.approx(extra)


def test_pieces_add_up_and_a_shared_prefix_counts_once(model: Path) -> None:
    head = tuple(range(10, 30))
    one, two = batch((*head, 1, 2)), batch((*head, 3, 4, 5))
    apart = forward_work(model, [one, two])
    assert apart.flops == pytest.approx(sum(forward_work(model, [piece]).flops for piece in (one, two)))
    together = forward_work(model, [batch((*head, 1, 2), (*head, 3, 4, 5))])
    assert (apart.num_computed, together.num_computed) == (21 + 22, 20 + 1 + 2)
