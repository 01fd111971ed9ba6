"""The useful work that rates are quoted in: every token once, and only those that something learned depends on."""

import json
from pathlib import Path

import pytest

from benchmarks.contestants import CONTESTANTS
from benchmarks.work import work_of
from benchmarks.workloads import WORKLOADS
from pangzhu.fast.techniques import Techniques

SIZES = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 50,
}  # fmt: skip
BODY = 3 * (8 * (2 * 8 + 2 * 4) + 3 * 8 * 16)
ADAPTER = 3 * 8 * (2 * 16 + 2 * 12 + 3 * 24)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SIZES), encoding="utf-8")
    return tmp_path


def row(*ids: int, prompt: int) -> dict[str, list[int]]:
    return {"input_ids": list(ids), "labels": [-100] * prompt + list(ids[prompt:])}


def test_one_row_is_counted_by_the_formula(model: Path) -> None:
    work = work_of(model, [row(1, 2, 3, 4, prompt=2)], 1)
    attention = 14 * (3 * 4 / 2) * 4 * 2 * 3
    assert (work.num_tokens, work.num_supervised, work.num_computed) == (4, 2, 3)  # the last token predicts nothing
    assert work.flops == pytest.approx(3 * (4 * BODY + 6 * ADAPTER) + 4 * 50 * 8 * 2 + attention)


def test_a_shared_prefix_counts_once(model: Path) -> None:
    head = list(range(10, 30))
    rows = [row(*head, 1, 2, prompt=20), row(*head, 3, 4, prompt=20)]
    assert work_of(model, rows, 2).num_computed == 20 + 1 + 1
    assert work_of(model, rows, 1).num_computed == 2 * 21  # in steps of one row there is nothing to share


def test_the_contestants_leave_out_each_technique_in_turn() -> None:
    left_out = {name for contestant in CONTESTANTS.values() for name in contestant.options.get("without", [])}
    assert left_out == set(Techniques.__slots__)
    assert set(WORKLOADS) == {"short", "mixed", "long", "law"}
