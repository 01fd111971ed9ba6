"""The bar of --fail_under: what is held against it, and how it is said."""

from pathlib import Path

import pytest

from pangzhu import gate
from pangzhu.config import CompareConfig, load_config
from pangzhu.errors import UsageError
from pangzhu.intervals import Share


def config(*bars: object) -> CompareConfig:
    return CompareConfig.model_validate({"dataset_path": "rows.jsonl", "fail_under": list(bars)})


def test_a_share_alone_is_that_of_the_taught_questions() -> None:
    assert config("0.8").thresholds == {"taught": 0.8}
    assert config("1", "reworded=0.8").thresholds == {"taught": 1.0, "reworded": 0.8}
    assert config().thresholds == {}


@pytest.mark.parametrize("content", ["fail_under: 0.8", "fail_under: [0.8]", "fail_under: taught=0.8"])
def test_a_file_may_give_one_bar_or_several(content: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content, encoding="utf-8")
    found = load_config(CompareConfig, {"dataset_path": "rows.jsonl"}, config_file=file)
    assert found.thresholds == {"taught": 0.8}


@pytest.mark.parametrize("given", ["80", "-0.1", "taught", "taught=", "taught=x", "nan", "inf", ""])
def test_what_is_no_share_is_refused(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        config(given)
    assert refused.value.exit_code == 2
    assert f"“{given}”" in str(refused.value)


def test_two_bars_for_one_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="two bars"):
        config("0.8", "taught=0.9")


SHARES = [
    Share("base", "taught", 0, 4),
    Share("law", "taught", 4, 5),
    Share("tax", "taught", 3, 5),
    Share("law", "untaught", 0, 9),
]


def test_every_adapter_is_held_against_the_bar_of_its_kind_and_the_base_is_not() -> None:
    found = gate.find_shortfalls({"taught": 0.8}, SHARES, base="base")
    assert [shortfall.share.model for shortfall in found] == ["tax"]
    assert gate.exit_code(found) == 8
    assert gate.exit_code(gate.find_shortfalls({"taught": 0.6}, SHARES, base="base")) == 0


def test_the_base_is_held_against_it_where_it_is_alone() -> None:
    (found,) = gate.find_shortfalls({"taught": 0.1}, SHARES[:1], base="base")
    assert found.as_json() == {"model": "base", "kind": "taught", "share": 0.0, "required": 0.1}


def test_what_falls_short_is_said_with_its_kind_and_its_counts(said: list[str]) -> None:
    gate.report(gate.find_shortfalls({"taught": 1.0, "untaught": 0.5}, SHARES, base="base"))
    (sentence,) = said
    assert "law, taught: 4 of 5 (80.0%), not 100.0%" in sentence
    assert "tax, taught: 3 of 5 (60.0%), not 100.0%" in sentence
    assert "law, untaught: 0 of 9 (0.0%), not 50.0%" in sentence
    gate.report(())
    assert len(said) == 1


def test_a_kind_that_the_file_has_not_is_refused_with_those_it_has() -> None:
    gate.require_kinds({"taught": 1.0}, ["taught", "general"], answered=["taught"])
    with pytest.raises(UsageError) as refused:
        gate.require_kinds({"reworded": 1.0}, ["taught", "general"], answered=["taught", "general"])
    assert "taught, general" in str(refused.value)


@pytest.mark.parametrize(("answered", "known"), [(["taught"], "taught"), ([], "–")])
def test_a_kind_without_answers_is_refused_with_those_that_have_some(answered: list[str], known: str) -> None:
    with pytest.raises(UsageError) as refused:
        gate.require_kinds({"general": 0.5}, ["taught", "general"], answered=answered)
    assert refused.value.exit_code == 2
    assert "“general” give no answers" in refused.value.what
    assert refused.value.fix.endswith(f"a kind that has some: {known}.")
