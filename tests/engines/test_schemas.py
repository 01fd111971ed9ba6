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


@pytest.mark.parametrize("reference", ["https://example.org/schema.json", "http://127.0.0.1:1/x", "file:///dev/zero"])
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_no_reference_is_followed_out_of_a_schema(
    monkeypatch: pytest.MonkeyPatch, keyword: str, reference: str
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_given, **_named: pytest.fail("something was fetched"))
    with pytest.raises(UsageError):
        require_fit(Answer("1", (), ended=True), {keyword: reference})


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"properties": {"a": {"items": {"pattern": "x"}}}},
        {"anyOf": [{"patternProperties": {"^(a+)+$": {}}}]},
        {"$defs": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}},
    ],
)
def test_what_could_be_checked_for_ever_is_refused_before(schema: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        require_sound(schema)


def test_a_property_may_be_called_pattern() -> None:
    require_sound(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"pattern": {"type": "string"}}}
    )


def test_references_that_double_each_time_end() -> None:
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": {**doubling, "d40": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    with pytest.raises(UsageError):
        require_fit(Answer("1", (), ended=True), schema)
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    beneath = {**draft, "$defs": schema["$defs"], "properties": {"a": {"$ref": "#"}}, "allOf": [{"$ref": "#/$defs/d0"}]}
    with pytest.raises(UsageError):
        require_fit(Answer('{"a": 1}', (), ended=True), beneath)
    require_fit(Answer('{"n": 1}', (), ended=True), {"$defs": {"n": NUMBERED}, "$ref": "#/$defs/n"})


def test_a_schema_that_leads_to_itself_is_refused() -> None:
    with pytest.raises(UsageError):
        require_fit(Answer("1", (), ended=True), {"$ref": "#"})


def test_a_reference_that_leads_nowhere_is_refused_and_nobody_is_asked() -> None:
    with pytest.raises(UsageError):
        require_fit(Answer("1", (), ended=True), {"$ref": "https://example.org/schema.json"})
