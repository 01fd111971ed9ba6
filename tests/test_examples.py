"""Each example file stands once in the repository, is found there, and is carried by the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pangzhu import examples
from pangzhu.examples import _IN_REPOSITORY, example

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", [*_IN_REPOSITORY, "general_prompts.jsonl"])
def test_an_example_is_found_in_the_checkout_and_stands_once(name: str) -> None:
    copies = [ROOT / folder / name for folder in (*_IN_REPOSITORY.values(), "src/pangzhu/examples")]
    assert {file for file in copies if file.exists()} == {example(name)}


def test_the_wheel_carries_every_example_beside_its_module() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    carried = {f"{folder}/{name}": f"pangzhu/examples/{name}" for name, folder in _IN_REPOSITORY.items()}
    carried["requirements.txt"] = "pangzhu/doctor/tested.txt"  # see tests/test_doctor.py
    assert targets["wheel"]["force-include"] == carried
    assert any(Path(examples.__file__).is_relative_to(ROOT / package) for package in targets["wheel"]["packages"])
