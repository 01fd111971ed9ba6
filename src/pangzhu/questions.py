"""What a row of a question file says beside its text: its kind, its fact, its choices, the format it asks for."""

from pangzhu.data.conversation import Conversation
from pangzhu.errors import DataError, nearest
from pangzhu.measures import AnswerFormat
from pangzhu.messages import text

NO_KIND = "all"  # of rows that name no kind
TAUGHT = "taught"  # of rows that were trained
GENERAL = "general"  # the kind that shows what else moved
KIND_NAMES = {
    TAUGHT: "compare.kind.taught",
    "reworded": "compare.kind.reworded",
    "untaught": "compare.kind.untaught",
    GENERAL: "compare.kind.general",
    NO_KIND: "compare.kind.all",
}
FORMATS: dict[str, AnswerFormat] = {"json": "json", "tool_call": "tool_call"}


def kind_of(row: Conversation) -> str:
    """The kind of question a row is, as its file has it."""
    return row.field("kind") or NO_KIND


def kind_name(kind: str) -> str:
    """A kind of question for a reader."""
    return text(KIND_NAMES[kind]) if kind in KIND_NAMES else kind


def fact_of(row: Conversation) -> str:
    """The fact a row asks for; one that names none is a fact by itself."""
    return row.field("fact") or str(row.location)


def choices_of(row: Conversation) -> tuple[str, ...]:
    """What a multiple-choice question lets choose from; nothing for other questions."""
    choices = row.field("choices")
    return tuple(choices.split(",")) if choices else ()


def format_of(row: Conversation) -> AnswerFormat | None:
    """The format a row asks its answer to keep, None where it asks for none.

    Raises:
        DataError: a format nobody knows.
    """
    name = row.field("format")
    if name is not None and name not in FORMATS:
        known = ", ".join(FORMATS)
        raise DataError(
            "error.questions.no_such_format",
            where=str(row.location),
            name=name,
            known=known,
            hint=nearest(name, FORMATS),
        )
    return FORMATS[name] if name else None
