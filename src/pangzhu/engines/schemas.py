"""JSON schemas that answers are to fit: which can be asked for, and whether an answer fits.

llama.cpp answers freely, without a word, where it can make no grammar of a schema. So schemas are looked at before, and answers
after.
"""

import json

from pangzhu.engines import Answer, Schema
from pangzhu.errors import UsageError

ENDS_TOO_SOON = ("Unterminated string", "Expecting")  # what Python says of JSON that is cut


def require_sound(schema: Schema) -> None:
    """Refuse what is no JSON schema.

    Raises:
        UsageError: with the reason.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as unsound:
        raise UsageError("error.engine.bad_schema", reason=unsound.message) from unsound


def require_fit(answer: Answer, schema: Schema) -> None:
    """Refuse an answer that came to its end and does not fit, or was cut and begins no JSON.

    Raises:
        UsageError: the schema was not kept.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator(schema).validate(json.loads(answer.text))
    except json.JSONDecodeError as broken:
        if answer.ended or not _is_cut(broken):
            raise UsageError("error.engine.bad_schema", reason=str(broken)) from broken
    except (ValidationError, Unresolvable) as unfit:
        raise UsageError("error.engine.bad_schema", reason=str(unfit).splitlines()[0]) from unfit


def _is_cut(broken: json.JSONDecodeError) -> bool:
    """Whether more text could make it JSON."""
    return broken.msg.startswith(ENDS_TOO_SOON) and (
        broken.msg.startswith(ENDS_TOO_SOON[0]) or broken.pos >= len(broken.doc.rstrip())
    )
