"""Taking texts out of a row, and noting everything that is wrong with them on the way."""

from dataclasses import dataclass

from pangzhu.data.control_tokens import find_control_tokens
from pangzhu.data.conversation import Location, Role
from pangzhu.data.findings import Finding, visible, visible_value


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row must satisfy.

    Args:
        require_answer: it must end with an answer, as for training; a question file needs none.
        allow_control_tokens: answers may contain control tokens (as ordinary text).
    """

    require_answer: bool = True
    allow_control_tokens: bool = False


class RowCheck:
    """The findings of one row, collected while its texts are taken out."""

    def __init__(self, location: Location, rules: Rules) -> None:
        self.location = location
        self.rules = rules
        self.findings: list[Finding] = []
        self.control_tokens: set[str] = set()

    def report(self, finding: Finding) -> None:
        """Note what is wrong."""
        self.findings.append(finding)

    def report_type(self, name: str, value: object, *, wanted: str) -> None:
        """Note that a value is of the wrong type."""
        values: dict[str, object] = {"value": visible_value(value)}
        if wanted == "list":
            self.report(Finding("finding.not_list", self.location, name, values))
        else:
            self.report(Finding("finding.not_text", self.location, name, values))

    def text(self, name: str, value: object, *, role: Role, may_be_blank: bool = False) -> str:
        """The text of a field as it stands; what is wrong with it is noted.

        Args:
            name: the field, `messages[2].content`.
            value: what the file gives for it.
            role: who says it; control tokens weigh more in an answer.
            may_be_blank: an empty text is right.
        """
        if not isinstance(value, str):
            self.report_type(name, value, wanted="text")
            return ""
        if not value.strip() and not may_be_blank:
            self.report(Finding("finding.empty_text", self.location, name))
        self._check_replacement(name, value)
        self._check_control_tokens(name, value, role=role)
        return value

    def _check_replacement(self, name: str, value: str) -> None:
        position = value.find("\ufffd")
        if position >= 0:
            piece = visible(value[max(0, position - 12) : position + 12])
            self.report(Finding("finding.replacement_character", self.location, name, {"piece": piece}))

    def _check_control_tokens(self, name: str, value: str, *, role: Role) -> None:
        tokens = find_control_tokens(value)
        if tokens and role == "assistant" and not self.rules.allow_control_tokens:
            values: dict[str, object] = {"tokens": ", ".join(tokens)}
            self.report(Finding("finding.control_tokens", self.location, name, values))
        else:
            self.control_tokens.update(tokens)
