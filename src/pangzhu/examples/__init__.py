"""The packaged examples: instructions of the course, the law lesson's data, and general prompts.

Those that learners edit stand once in the repository, in the course (`第18_19周/`, `data/raw/`); a wheel carries copies beside
this module. The prompts that measure how far an adapter moves from its base (`general_prompts.jsonl`) stand here. `example`
finds all of them.
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
