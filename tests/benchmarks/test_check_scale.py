"""The rows of the scale measurement are what they are said to be, and what is measured is the command."""

import json
import sys
from pathlib import Path

from benchmarks.check_scale import LONGEST, SHORTEST, measure, write_rows
from pangzhu.data import load_dataset
from pangzhu.data.quality import EXACT, find_warnings


def test_rows_are_good_of_the_lengths_promised_and_one_in_a_thousand_is_repeated(tmp_path: Path) -> None:
    dataset = load_dataset(write_rows(tmp_path / "rows.jsonl", num_rows=3000, seed=1))
    lengths = [sum(len(turn.content) for turn in row.turns) for row in dataset.conversations]
    assert (dataset.num_rows, min(lengths) >= SHORTEST, max(lengths) <= LONGEST) == (3000, True, True)
    assert [warning.location.row for warning in find_warnings(dataset.conversations) if warning.key == EXACT] == [
        1001,
        2001,
    ]


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / name, num_rows=50, seed=3) for name in ("a.jsonl", "b.jsonl")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_exit_code_and_counts_are_those_of_the_command(tmp_path: Path) -> None:
    result = json.dumps({"num_tokens": 7, "warnings": [{"num_rows": 2}, {"num_rows": 3}]})
    program = f"import sys; held = b'x' * 60_000_000; print({result!r}); sys.exit(3)"
    figures = measure([sys.executable, "-c", program], tmp_path / "result.json")
    assert (figures["exit_code"], figures["tokens"], figures["warnings"]) == (3, 7, 5)
    assert figures["peak_megabytes"] > 60
