"""JSON schemas that answers are to fit: which can be asked for, and whether an answer fits.

llama.cpp answers freely, without a word, where it can make no grammar of a schema. So schemas are looked at before, and answers
after.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pangzhu.engines import Answer, Schema
from pangzhu.errors import UsageError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MOST_REFERENCES = 10_000  # followed in one answer: each may lead to two that lead to two more
ENDS_TOO_SOON = ("Unterminated string", "Expecting")  # what Python says of JSON that is cut


def require_sound(schema: Schema) -> None:
    """Refuse what is no JSON schema, and one whose answers could not be checked in bounded time. Python's regular expressions
    may take for ever, and no other thread has its turn meanwhile.

    Raises:
        UsageError: with the reason.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if unchecked := _unchecked(schema):
        raise UsageError("error.engine.bad_schema", reason=unchecked)
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as unsound:
        raise UsageError("error.engine.bad_schema", reason=str(unsound).splitlines()[0]) from unsound


def require_fit(answer: Answer, schema: Schema) -> None:
    """Refuse an answer that came to its end and does not fit, or was cut and begins no JSON. No reference is followed out of
    the schema.

    Raises:
        UsageError: the schema was not kept.
    """
    from jsonschema.exceptions import ValidationError
    from referencing.exceptions import Unresolvable

    try:
        _validator(schema).validate(json.loads(answer.text))
    except json.JSONDecodeError as broken:
        if answer.ended or not _is_cut(broken):
            raise UsageError("error.engine.bad_schema", reason=str(broken)) from broken
    except (ValidationError, Unresolvable, RecursionError) as unfit:
        raise UsageError("error.engine.bad_schema", reason=str(unfit).splitlines()[0]) from unfit


def _validator(schema: Schema) -> "Validator":
    """Draft 2020-12, which fetches nothing (jsonschema's own registry asks the network, and opens files), and follows so many
    references. At a `$schema` jsonschema would take another validator, which does not count."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    num_followed = 0

    def follow(validator: "Validator", reference: str, instance: Any, part: Schema) -> Iterator[Any]:
        nonlocal num_followed
        num_followed += 1
        if num_followed > MOST_REFERENCES:
            raise RecursionError("$ref")
        yield from Draft202012Validator.VALIDATORS["$ref"](validator, reference, instance, part)

    bounded = extend(Draft202012Validator, {"$ref": follow, "$dynamicRef": follow})
    own_rules = {keyword: part for keyword, part in schema.items() if keyword != "$schema"}
    found: Validator = bounded(own_rules, registry=Registry())
    return found


def _unchecked(schema: Schema) -> str | None:
    """The keyword of a regular expression, or of a part with rules of its own, for which `_validator` would not be asked; None
    where there is neither."""
    left: list[object] = [schema]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("pattern"), str):
                return "pattern"
            if isinstance(part.get("patternProperties"), Mapping):
                return "patternProperties"
            if part is not schema and isinstance(part.get("$schema"), str):
                return "$schema"
            left += part.values()
        elif isinstance(part, list):
            left += part
    return None


def _is_cut(broken: json.JSONDecodeError) -> bool:
    """Whether more text could make it JSON."""
    return broken.msg.startswith(ENDS_TOO_SOON) and (
        broken.msg.startswith(ENDS_TOO_SOON[0]) or broken.pos >= len(broken.doc.rstrip())
    )
