"""The table of exports: what the gate left in a folder, one row for each base, adapter and kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parity_table
from benchmarks.parity_table import figures, main, table


def export(folder: Path, kind: str, *, kept: int = 3) -> Path:
    """What an export leaves of its figures."""
    folder.mkdir()
    part: dict[str, Any] = {
        "num_questions": 4,
        "num_taught": 3,
        "num_kept": kept,
        "num_same": 2,
        "num_tokens": 9,
        "mean": 0.01,
    }
    parts = [{"kind": "taught", **part}, {"kind": "general", **part, "mean": 0.02}]
    parity = {"compared": parts, "bound": 0.05, "num_prompts": 4, "num_prompts_same": 4}
    (folder / "parity.json").write_text(json.dumps(parity), encoding="utf-8")
    (folder / "manifest.json").write_text(
        json.dumps({"base": "B", "adapter_sha256": "a", "kind": kind}), encoding="utf-8"
    )
    return folder


def test_a_row_tells_taught_answers_and_both_means(tmp_path: Path) -> None:
    line = table([figures(export(tmp_path / "x", "merged"))]).splitlines()[-1]
    assert line == "| B | merged | 3/3 | 0.0100 / 0.0200 | 0.05 | 2/4 | 4/4 |"


def test_the_same_export_again_takes_its_rows_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"en": tmp_path / "page.md"}
    pages["en"].write_text("a\n<!-- exports:start -->\n<!-- exports:end -->\nb\n", encoding="utf-8")
    monkeypatch.setattr(parity_table, "PAGES", pages)
    monkeypatch.setattr(parity_table, "CSV", tmp_path / "exports.csv")
    for number, (kind, kept) in enumerate([("merged", 2), ("gguf", 3), ("merged", 3)]):
        monkeypatch.setattr("sys.argv", ["", str(export(tmp_path / str(number), kind, kept=kept))])
        main()
    lines = pages["en"].read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| B")] == [
        "| B | gguf | 3/3 | 0.0100 / 0.0200 | 0.05 | 2/4 | 4/4 |",
        "| B | merged | 3/3 | 0.0100 / 0.0200 | 0.05 | 2/4 | 4/4 |",
    ]
