"""Readers fed with damaged and made-up inputs: rows, findings, or an error with its remedy, and nothing else.

A few hundred inputs each, the same ones every time; `python -m tests.fuzz.campaign --num 200000` takes as many as one likes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.campaign import run_round
from tests.fuzz.oracle import NotStrictError, strict
from tests.fuzz.targets import TARGETS, Target, make_folder, remove_folder

pytestmark = pytest.mark.untraced

BY_NAME = {target.name: target for target in TARGETS}
FEW = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a whole adapter."""
    made = make_folder()
    yield made
    remove_folder(made)


@pytest.fixture
def fresh() -> Iterator[Path]:
    """One that only this test has."""
    made = make_folder()
    yield made
    remove_folder(made)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_valid_inputs_are_accepted(target: Target, fresh: Path) -> None:
    """Else everything would be refused, and nothing shown."""
    assert [target.run(seed, fresh) for seed in target.seeds] == ["accepted"] * len(target.seeds)


@pytest.mark.fault("C5")
@FEW
@given(BY_NAME["reader"].inputs)
def test_whatever_a_dataset_holds_ends_in_rows_findings_or_an_error_with_its_remedy(
    folder: Path, content: bytes
) -> None:
    BY_NAME["reader"].run(content, folder)


@pytest.mark.fault("B3")
@FEW
@given(BY_NAME["adapter_config"].inputs)
def test_an_adapter_config_is_plain_lora_to_peft_too_or_refused(folder: Path, content: bytes) -> None:
    BY_NAME["adapter_config"].run(content, folder)


@pytest.mark.fault("B2")
@FEW
@given(BY_NAME["weights"].inputs)
def test_weights_are_finite_and_of_their_rank_or_refused(fresh: Path, content: bytes) -> None:
    BY_NAME["weights"].run(content, fresh)


@FEW
@given(BY_NAME["manifest"].inputs)
def test_a_manifest_is_what_its_json_says_or_refused(fresh: Path, content: bytes) -> None:
    BY_NAME["manifest"].run(content, fresh)


@FEW
@given(BY_NAME["prompt"].inputs)
def test_a_prompt_contract_is_what_its_json_says_or_refused(folder: Path, content: bytes) -> None:
    BY_NAME["prompt"].run(content, folder)


def test_a_round_counts_every_input_once() -> None:
    outcomes = run_round(BY_NAME["reader"], seed=1, num=60)
    assert outcomes.total() >= 60
    assert {"accepted", "findings"} & set(outcomes)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", '"\\ud800"', "{", ""])
def test_the_oracle_refuses_what_is_not_strict(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of json or of the oracle
        strict(text)
    assert issubclass(NotStrictError, ValueError)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab\u4e2d"), lambda inner: st.lists(inner, max_size=3)
    )
)
@settings(max_examples=30, database=None, derandomize=True)
def test_the_oracle_reads_what_json_wrote(value: object) -> None:
    import json

    assert strict(json.dumps(value)) == value
