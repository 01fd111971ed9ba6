"""What is right in form and yet worth a look: repeated rows, contradictions, questions of the evaluation file, personal data.

Training accepts all of it, so these are warnings, each with its row. A row is given one of the first three at the most:
exact duplicate (every turn the same), near duplicate (question and answer the same but for case, width, white space and
punctuation, or both at least 80% alike: `pangzhu.data.similarity`), contradiction (the same question, another answer).

Left to others: what cannot be trained on (`pangzhu.data.findings`).

Try it: `[str(warning) for warning in find_warnings(load_dataset(Path("my.jsonl")).conversations)]`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from pangzhu.data.conversation import Conversation, Location
from pangzhu.data.personal import BANK_CARD, EMAIL, IDENTITY, PHONE, find_personal
from pangzhu.data.similarity import alike, fold, pair_up
from pangzhu.messages import text

EXACT = "warning.exact_duplicate"
NEAR = "warning.near_duplicate"
CONTRADICTION = "warning.contradiction"
OVERLAP = "warning.evaluation_overlap"
KEYS = (EXACT, NEAR, CONTRADICTION, OVERLAP, PHONE, IDENTITY, EMAIL, BANK_CARD)
PERSONAL = (PHONE, IDENTITY, EMAIL, BANK_CARD)


@dataclass(frozen=True, slots=True)
class RowWarning:
    """Something about one row that its owner should look at and that stops nothing.

    Args:
        key: catalogue key `warning.NAME`, a sentence about all rows of the kind; the remedy under `warning.NAME.fix`.
        location: the row.
        other: the row it repeats, contradicts or shares its question with.
        shown: what was found in it, masked.
    """

    key: str
    location: Location
    other: Location | None = None
    shown: str = ""

    @property
    def detail(self) -> str:
        """What there is to see: the other row's place, or what was found."""
        return text("warning.other", other=self.other) if self.other else self.shown

    def __str__(self) -> str:
        return text("warning.place", place=self.location, detail=self.detail)

    def as_json(self) -> dict[str, object]:
        """The warning as plain values."""
        return {
            "line": self.location.line,
            "row": self.location.row,
            "other": self.other and {"file": str(self.other.file), "line": self.other.line, "row": self.other.row},
            "shown": self.shown or None,
        }


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows that repeat or contradict an earlier one; `firsts` are those that ask a question first."""

    warnings: tuple[RowWarning, ...]
    firsts: tuple["Folded", ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """A row without what may differ by accident: everything before the answer, turn by turn, and the answer."""

    location: Location
    question: str
    answer: str

    @classmethod
    def of(cls, row: Conversation) -> "Folded":
        """A row, folded."""
        question = "\n".join(f"{turn.role}:{fold(turn.content)}" for turn in row.prompt)
        return cls(row.location, question, fold(row.answer or ""))


def find_warnings(conversations: Sequence[Conversation], asked: Sequence[Conversation] = ()) -> tuple[RowWarning, ...]:
    """All warnings about the rows of a dataset, by kind and then in the order of the file.

    Args:
        conversations: rows that end with an answer.
        asked: the rows of an evaluation file, whose questions should not be among them.
    """
    repeats = find_repeats(conversations)
    found = [
        *repeats.warnings,
        *_near_duplicates(repeats.firsts),
        *(find_overlaps(conversations, asked) if asked else ()),
        *(warning for conversation in conversations for warning in _personal(conversation)),
    ]
    return tuple(sorted(found, key=lambda warning: (KEYS.index(warning.key), warning.location.row)))


def find_repeats(conversations: Sequence[Conversation]) -> Repeats:
    """Rows that are the same as an earlier one, folded or as they stand, and rows that answer a question anew."""
    warnings: list[RowWarning] = []
    firsts: list[Folded] = []
    exact: dict[object, Location] = {}
    folded: dict[tuple[bytes, bytes], Location] = {}
    asked: dict[bytes, Location] = {}
    for conversation in conversations:
        row = Folded.of(conversation)
        question, answer = _digest(row.question), _digest(row.answer)
        earlier = (
            (EXACT, exact.setdefault(conversation.turns, row.location)),
            (NEAR, folded.setdefault((question, answer), row.location)),
            (CONTRADICTION, asked.setdefault(question, row.location)),
        )
        found = next(((key, other) for key, other in earlier if other is not row.location), None)
        if found:
            warnings.append(RowWarning(found[0], row.location, found[1]))
        else:
            firsts.append(row)
    return Repeats(tuple(warnings), tuple(firsts))


def _near_duplicates(rows: Sequence[Folded]) -> Iterator[RowWarning]:
    """Rows of which question and answer are both alike those of an earlier one."""

    def is_pair(later: int, earlier: int) -> bool:
        one, other = rows[later], rows[earlier]
        return alike(one.answer, other.answer) and alike(one.question, other.question)

    texts = (f"{row.question}\n{row.answer}" for row in rows)
    for later, earlier in pair_up(texts, is_pair).items():
        yield RowWarning(NEAR, rows[later].location, rows[earlier].location)


def find_overlaps(conversations: Sequence[Conversation], asked: Sequence[Conversation]) -> Iterator[RowWarning]:
    """Rows one of whose questions is, folded or nearly, the question of an evaluation row.

    Args:
        conversations: rows that are trained.
        asked: rows that are only asked.
    """
    wanted = {fold(_last_question(row)): row.location for row in reversed(asked)}
    shared: dict[int, Location] = {}
    texts, owners = list(wanted), [-1] * len(wanted)
    for index, conversation in enumerate(conversations):
        questions = [fold(turn.content) for turn in conversation.turns if turn.role == "user"]
        if same := next((question for question in questions if question in wanted), None):
            shared[index] = wanted[same]
        else:
            texts += questions
            owners += [index] * len(questions)
    pairs = pair_up(texts, lambda later, earlier: alike(texts[later], texts[earlier]), num_references=len(wanted))
    for later, earlier in pairs.items():
        shared.setdefault(owners[later], wanted[texts[earlier]])
    for index, place in shared.items():
        yield RowWarning(OVERLAP, conversations[index].location, place)


def _personal(conversation: Conversation) -> Iterator[RowWarning]:
    """What looks like personal data, once a kind."""
    found: dict[str, str] = {}
    for turn in conversation.turns:
        for piece in find_personal(turn.content):
            found.setdefault(piece.key, piece.shown)
    return (RowWarning(key, conversation.location, shown=shown) for key, shown in found.items())


def _digest(text: str) -> bytes:
    """Sixteen bytes in place of a long text: of 100,000 rows the texts themselves would take much memory."""
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


def _last_question(conversation: Conversation) -> str:
    return next((turn.content for turn in reversed(conversation.turns) if turn.role == "user"), "")
