"""The table below "Tested by" in README.md and README.zh-CN.md, made from tests/results.json.

`make torture` and `python -m tests.fuzz.campaign` write their counts there. `python docs/tested_by.py` writes the table between
the two marks of both pages: a row for each platform, a column for whatever was counted on one of them; tests/test_tested_by.py
fails where a page is stale.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from page_marks import Generated

from pangzhu.messages import Language

Results = dict[str, list[dict[str, Any]]]  # runs by their kind

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tests" / "results.json"
PAGES: dict[Language, Path] = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}
FUZZ_INPUTS = "inputs of campaigns"
COLUMNS: dict[str, dict[Language, str]] = {  # by what was counted
    "crash points, the same command ends with the same bytes": {"en": "crash points", "zh": "崩溃点"},
    "power losses, the same command ends with the same bytes": {"en": "power losses", "zh": "断电"},
    "kill -9 of a real run, ended with the same bytes": {"en": "`kill -9`", "zh": "`kill -9`"},
    "cases of damaged files": {"en": "damaged files", "zh": "损坏的文件"},
    "cases of faults": {"en": "faults, all kinds", "zh": "各种故障"},
    "hypothesis cases": {"en": "Hypothesis cases", "zh": "Hypothesis 用例"},
    FUZZ_INPUTS: {"en": "fuzz inputs", "zh": "模糊测试输入"},
}
PLATFORM: dict[Language, str] = {"en": "on", "zh": "平台"}


def counts_by_platform(results: Results) -> dict[str, Counter[str]]:
    """What was counted, by what it ran on; the inputs of all campaigns together."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in results.get("torture", ()):
        found[_platform(run["on"])].update(run["counts"])
    for run in results.get("fuzz", ()):
        found[_platform(run["on"])][FUZZ_INPUTS] += run["inputs"]
    return dict(found)


def counts_table(language: Language, results: Results | None = None) -> str:
    """Markdown: a row for each platform; nothing where nothing was run."""
    counts = counts_by_platform(_read() if results is None else results)
    columns = [name for name in COLUMNS if any(counted[name] for counted in counts.values())]
    if not columns:
        return ""
    head = _row([PLATFORM[language], *(COLUMNS[name][language] for name in columns)])
    rows = [
        _row([on, *(f"{counted[name]:,}" if counted[name] else "" for name in columns)])
        for on, counted in counts.items()
    ]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])


def _platform(on: dict[str, str]) -> str:
    return f"{on['system']}, Python {on['python']}, `{on['instruction_sets']}`"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read() -> Results:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


TABLE = Generated("tested", PAGES, counts_table)

if __name__ == "__main__":
    TABLE.write()
