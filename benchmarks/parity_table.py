"""`python -m benchmarks.parity_table FOLDER…`: what the gate found of exports, kept in a CSV and shown in docs/export.md.

Reads the `parity.json` and `manifest.json` that `pangzhu merge` and `pangzhu export` leave in each folder; a row of the same
base, adapter and kind is replaced.
"""

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import HERE, read_csv
from benchmarks.summary import put_into
from pangzhu.adapter import MANIFEST
from pangzhu.export.staging import PARITY
from pangzhu.messages import Language

CSV = HERE / "results" / "exports.csv"
KEY = ("base", "adapter_sha256", "kind")
FIGURES = (
    "taught",
    "kept",
    "own_tokens",
    "own_mean",
    "general",
    "general_same",
    "general_mean",
    "bound",
    "prompts_same",
)
PAGES: dict[Language, Path] = {
    "en": HERE.parent / "docs" / "export.md",
    "zh": HERE.parent / "docs" / "export.zh-CN.md",
}
HEADS: dict[Language, str] = {
    "en": "| base | export | taught answers, word for word | mean difference of log-probability, own / general answers "
    "| allowed | general answers, the same | prompts, the same |\n",
    "zh": "| 基座 | 导出 | 教过的回答，一字不差 | 对数概率平均差：自己的 / 一般的回答 | 允许 | 一般回答相同 | 提示相同 |\n",
}


def main() -> None:
    """Add the folders' figures, then write the table into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    new = [figures(folder) for folder in parser.parse_args().folders]
    replaced = {tuple(row[name] for name in KEY) for row in new}
    rows = [row for row in read_csv(CSV) if tuple(row[name] for name in KEY) not in replaced] + new
    with CSV.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, ("when", *KEY, *FIGURES))
        writer.writeheader()
        writer.writerows(rows)
    for language, page in PAGES.items():
        put_into(page, table(rows, language), mark="exports")


def figures(folder: Path) -> dict[str, Any]:
    """The row of an export."""
    parity = json.loads((folder / PARITY).read_text(encoding="utf-8"))
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    kinds = {part["kind"]: part for part in parity["compared"]}
    own, general = kinds["taught"], kinds["general"]
    written = (folder / MANIFEST).stat().st_mtime
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written)),
        **{name: manifest[name] for name in KEY},
        "taught": own["num_taught"],
        "kept": own["num_kept"],
        "own_tokens": own["num_tokens"],
        "own_mean": round(own["mean"], 5),
        "general": general["num_questions"],
        "general_same": general["num_same"],
        "general_mean": round(general["mean"], 5),
        "bound": parity["bound"],
        "prompts_same": f"{parity['num_prompts_same']}/{parity['num_prompts']}",
    }


def table(rows: Sequence[dict[str, Any]], language: Language = "en") -> str:
    """Markdown: a row for each export."""
    lines = ("".join(f"| {cell} " for cell in _cells(row)) + "|\n" for row in rows)
    return f"{HEADS[language]}|---|---|---|---|---|---|---|\n{''.join(lines)}"


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    means = f"{float(row['own_mean']):.4f} / {float(row['general_mean']):.4f}"
    general = f"{row['general_same']}/{row['general']}"
    return row["base"], row["kind"], f"{row['kept']}/{row['taught']}", means, row["bound"], general, row["prompts_same"]


if __name__ == "__main__":
    main()
