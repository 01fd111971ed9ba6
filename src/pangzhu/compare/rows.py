"""One question, what was expected, and what each model answered."""

from collections.abc import Collection
from dataclasses import dataclass

from pangzhu.engines import Answer
from pangzhu.measures import (
    AnswerFormat,
    canonical_json,
    cites_rightly,
    keeps_format,
    named_choice,
    normalized,
    rouge_l,
)


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One question, what was expected (None where the file says nothing), and each model's answer."""

    question: str
    expected: str | None
    kind: str
    fact: str | None
    answers: dict[str, Answer]
    choices: tuple[str, ...] = ()
    format: AnswerFormat | None = None

    @property
    def prose(self) -> str | None:
        """The expected answer as it is compared word by word; None where it is a choice, JSON, or unknown."""
        if self.expected is None or self.choices or canonical_json(self.expected) is not None:
            return None
        return normalized(self.expected)

    def right(self, name: str) -> bool:
        """Whether a model's answer is the expected one: the same words, the same choice, or JSON of the same value."""
        if self.expected is None:
            return False
        answer = self.answers[name].text
        if self.choices:
            return named_choice(answer, self.choices) == self.expected.strip()
        if (wanted := canonical_json(self.expected)) is not None:
            return canonical_json(answer) == wanted
        return normalized(answer) == normalized(self.expected)

    def begins_rightly(self, name: str) -> bool:
        """Whether a model's answer is the expected one, whatever it goes on to say."""
        if self.prose is None:
            return self.right(name)
        return normalized(self.answers[name].text).startswith(self.prose)

    def verbatim(self, name: str) -> bool:
        """Whether a model's answer is the expected one to the character, and ended there."""
        return self.answers[name].ended and self.answers[name].text == self.expected

    def likeness(self, name: str) -> float | None:
        """ROUGE-L of a model's answer to the expected one, white space and punctuation aside; None where that is no prose."""
        return None if self.prose is None else rouge_l(normalized(self.answers[name].text), self.prose)

    def cites_rightly(self, name: str) -> bool | None:
        """Whether a model names the expected articles of law and no other; None where none is expected."""
        return (
            None
            if self.prose is None or self.expected is None
            else cites_rightly(self.answers[name].text, self.expected)
        )

    def keeps_format(self, name: str) -> bool | None:
        """Whether a program can read a model's answer; None where the row asks for no format."""
        return keeps_format(self.answers[name].text, self.format) if self.format else None

    def recites(self, name: str, taught: Collection[str]) -> bool:
        """Whether a model gave an answer that was taught for another question; `taught` holds them normalized."""
        return normalized(self.answers[name].text) in taught

    def as_json(self, *, taught: Collection[str] | None = None) -> dict[str, object]:
        """Question, answers and what is said of each, as plain values; what is not asked of a row is left out."""
        return {
            "question": self.question,
            "expected": self.expected,
            "kind": self.kind,
            "fact": self.fact,
            "answers": {name: self._answer_as_json(name, taught) for name in self.answers},
        }

    def _answer_as_json(self, name: str, taught: Collection[str] | None) -> dict[str, object]:
        answer = self.answers[name]
        asked = {
            "rouge_l": self.likeness(name),
            "cites_rightly": self.cites_rightly(name),
            "keeps_format": self.keeps_format(name),
            "recited": None if taught is None else self.recites(name, taught),
        }
        known = {measure: value for measure, value in asked.items() if value is not None}
        broke_off = {"broke_off": True} if answer.broke_off else {}
        return {"text": answer.text, "ended": answer.ended, "right": self.right(name), **broke_off, **known}
