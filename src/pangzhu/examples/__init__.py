"""The packaged examples: instructions of the course and the law lesson's data.

The files stand once in the repository (`第18_19周/`, `data/raw/`), where learners edit them; a wheel carries copies beside
this module. `example` finds either.
"""

from pathlib import Path

_IN_REPOSITORY = {
    "law_data.json": "第18_19周",
    "law_eval.json": "第18_19周",
    "law_replay.json": "第18_19周",
    "instruct_tiny.jsonl": "data/raw",
}


def example(name: str) -> Path:
    """The path of a packaged example file: in the installed wheel, or in the checkout this module stands in."""
    here = Path(__file__).resolve().parent
    installed = here / name
    return installed if installed.exists() else here.parents[2] / _IN_REPOSITORY[name] / name
