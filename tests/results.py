"""What the long runs counted, in tests/results.json: README's "Tested by" is made of it (docs/tested_by.py).

`make torture` and `python -m tests.fuzz.campaign` write here, each with what it ran on; nothing is typed by hand.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pangzhu import storage
from pangzhu.machine import instruction_sets

RESULTS = Path(__file__).with_name("results.json")

Run = dict[str, Any]


def this_platform() -> dict[str, str]:
    """System, Python and instruction sets."""
    version = ".".join(platform.python_version_tuple()[:2])
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": version,
        "instruction_sets": " ".join(instruction_sets()),
    }


def keep_torture(counts: Mapping[str, int], file: Path = RESULTS) -> None:
    """Write what `make torture` counted, in place of an earlier run's on the same platform."""
    new = {"on": this_platform(), "counts": dict(sorted(counts.items()))}
    runs = _read(file)
    runs["torture"] = [*(old for old in runs["torture"] if old["on"] != new["on"]), new]
    _write(runs, file)


def keep_campaign(target: str, outcomes: Mapping[str, int], *, seeds: range, file: Path = RESULTS) -> None:
    """Write what came of a campaign's inputs.

    The same seeds give the same inputs: of campaigns that share any, the one with the most inputs stands.
    """
    new = {"on": this_platform(), "target": target, "seeds": [seeds[0], seeds[-1]]}
    new |= {"inputs": sum(outcomes.values()), "outcomes": dict(sorted(outcomes.items()))}
    runs = _read(file)
    same = [old for old in runs["fuzz"] if _shares_inputs(old, new)]
    if all(old["inputs"] <= new["inputs"] for old in same):
        runs["fuzz"] = [*(old for old in runs["fuzz"] if old not in same), new]
        _write(runs, file)


def _shares_inputs(old: Run, new: Run) -> bool:
    (first, last), (new_first, new_last) = old["seeds"], new["seeds"]
    return bool(old["target"] == new["target"] and first <= new_last and new_first <= last)


def _read(file: Path) -> dict[str, list[Run]]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {"torture": [], "fuzz": []} | found


def _write(runs: Mapping[str, list[Run]], file: Path) -> None:
    storage.write_atomically(file, json.dumps(runs, indent=2, ensure_ascii=False) + "\n")
