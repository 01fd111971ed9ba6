"""Answers that are to fit a JSON schema: what is no schema is refused, and so is an answer that does not fit."""

import pytest

from pangzhu.engines import Answer
from pangzhu.engines.schemas import require_fit, require_sound
from pangzhu.errors import UsageError

NUMBERED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"enum": "a"}, {"properties": []}, {"minimum": "1"}])
def test_what_is_no_schema_is_refused_before_anything_is_asked(schema: dict[str, object]) -> None:
    with pytest.raises(UsageError) as refused:
        require_sound(schema)
    assert refused.value.key == "error.engine.bad_schema"


@pytest.mark.parametrize("text", ["", "2022-01-01", '{"n": "1"}', "{}", '{"n": 1', "Sure: {}", '{"n": 1} and more'])
def test_an_answer_that_ended_and_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        require_fit(Answer(text, (), ended=True), NUMBERED)


@pytest.mark.parametrize("text", ['{"n": 1}', ' {"n": 2, "more": []}\n'])
def test_an_answer_that_fits_is_given(text: str) -> None:
    require_fit(Answer(text, (), ended=True), NUMBERED)


@pytest.mark.parametrize("text", ["", "{", '{"n', '{"n": ', '{"n": 1', '{"n": 1, "more": ["a'])
def test_a_cut_answer_may_be_the_beginning_of_json(text: str) -> None:
    require_fit(Answer(text, (), ended=False), NUMBERED)


@pytest.mark.parametrize("text", ["2022-01", "Sure", '{"n": 1} and', "{n: 1"])
def test_a_cut_answer_that_begins_no_json_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        require_fit(Answer(text, (), ended=False), NUMBERED)


def test_a_reference_that_leads_nowhere_is_refused_and_nobody_is_asked() -> None:
    with pytest.raises(UsageError):
        require_fit(Answer("1", (), ended=True), {"$ref": "https://example.org/schema.json"})
