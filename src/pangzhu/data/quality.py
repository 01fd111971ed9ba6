"""What is right in form and yet worth a look: repeated rows, contradictions, questions of the evaluation file, personal data.

Training accepts all of it, so these are warnings, each with its row. A row is given one of the first three at the most:
exact duplicate (every turn the same), near duplicate (question and answer the same but for case, width, white space and
punctuation, or both at least 80% alike: `pangzhu.data.similarity`), contradiction (the same question, another answer).

Rows may be on the disk and stay there: a pass keeps hashes of them, and reads again the few that it compares. Left to
others: what cannot be trained on (`pangzhu.data.findings`).

Try it: `[str(warning) for warning in find_warnings(load_dataset(Path("my.jsonl")).conversations)]`.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, compress

import numpy as np

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
    """Rows that repeat or contradict an earlier one; `are_first` says of every row whether it asks its question first."""

    warnings: tuple[RowWarning, ...]
    are_first: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Folded:
    """A row without what may differ by accident: everything before the answer, turn by turn, and the answer."""

    question: str
    answer: str

    @classmethod
    def of(cls, row: Conversation) -> "Folded":
        """A row, folded."""
        question = "\n".join(f"{turn.role}:{fold(turn.content)}" for turn in row.prompt)
        return cls(question, fold(row.answer or ""))


def find_warnings(conversations: Sequence[Conversation], asked: Sequence[Conversation] = ()) -> tuple[RowWarning, ...]:
    """All warnings about the rows of a dataset, by kind and then in the order of the file.

    Args:
        conversations: rows that end with an answer.
        asked: the rows of an evaluation file, whose questions should not be among them.
    """
    repeats = find_repeats(conversations)
    found = [
        *repeats.warnings,
        *_near_duplicates(conversations, repeats.are_first),
        *(find_overlaps(conversations, asked) if asked else ()),
        *(warning for conversation in conversations for warning in _personal(conversation)),
    ]
    return tuple(sorted(found, key=lambda warning: (KEYS.index(warning.key), warning.location.row)))


def find_repeats(conversations: Sequence[Conversation]) -> Repeats:
    """Rows that are the same as an earlier one, folded or as they stand, and rows that answer a question anew."""
    exact, folded, asked = array("Q"), array("Q"), array("Q")
    for conversation in conversations:
        row = Folded.of(conversation)
        exact.append(digest(*chain.from_iterable((turn.role, turn.content) for turn in conversation.turns)))
        folded.append(digest(row.question, row.answer))
        asked.append(digest(row.question))
    kinds = ((EXACT, _earliest(exact)), (NEAR, _earliest(folded)), (CONTRADICTION, _earliest(asked)))
    found = [
        next(((key, earliest[index]) for key, earliest in kinds if earliest[index] < index), None)
        for index in range(len(asked))
    ]
    warnings = (
        RowWarning(repeat[0], conversations[index].location, conversations[repeat[1]].location)
        for index, repeat in enumerate(found)
        if repeat
    )
    return Repeats(tuple(warnings), [repeat is None for repeat in found])


def digest(*texts: str) -> int:
    """Eight bytes in place of long texts: of 100,000 rows the texts themselves would take much memory."""
    hashed = blake2b(digest_size=8)
    for one in texts:
        encoded = one.encode("utf-8", errors="surrogatepass")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(hashed.digest(), "little")


def _earliest(digests: "array[int]") -> "array[int]":
    """For each digest the index of the first that is the same."""
    _, first, inverse = np.unique(np.array(digests, dtype=np.uint64), return_index=True, return_inverse=True)
    return array("q", first[inverse].astype(np.int64).tobytes())


def _near_duplicates(conversations: Sequence[Conversation], are_first: Sequence[bool]) -> Iterator[RowWarning]:
    """Rows of which question and answer are both alike those of an earlier one."""
    indices = array("q", compress(range(len(are_first)), are_first))

    @lru_cache(maxsize=64)
    def folded(place: int) -> Folded:
        return Folded.of(conversations[indices[place]])

    def is_pair(later: int, earlier: int) -> bool:
        one, other = folded(later), folded(earlier)
        return alike(one.answer, other.answer) and alike(one.question, other.question)

    rows = map(Folded.of, compress(conversations, are_first))
    texts = (f"{row.question}\n{row.answer}" for row in rows)
    for later, earlier in pair_up(texts, is_pair).items():
        one, other = conversations[indices[later]], conversations[indices[earlier]]
        yield RowWarning(NEAR, one.location, other.location)


def find_overlaps(conversations: Sequence[Conversation], asked: Sequence[Conversation]) -> Iterator[RowWarning]:
    """Rows one of whose questions is, folded or nearly, the question of an evaluation row.

    Args:
        conversations: rows that are trained.
        asked: rows that are only asked.
    """
    wanted = {fold(_last_question(row)): row.location for row in reversed(asked)}
    references = list(wanted)
    owners = array("q", [-1] * len(references))  # of each text that is compared, the row it stands in
    shared: dict[int, Location] = {}

    def texts() -> Iterator[str]:
        yield from references
        for index, conversation in enumerate(conversations):
            questions = _questions(conversation)
            if same := next((question for question in questions if question in wanted), None):
                shared[index] = wanted[same]
            else:
                owners.extend([index] * len(questions))
                yield from questions

    def is_pair(later: int, earlier: int) -> bool:
        owner = owners[later]
        return alike(_questions(conversations[owner])[later - bisect_left(owners, owner)], references[earlier])

    pairs = pair_up(texts(), is_pair, num_references=len(references))
    for later, earlier in pairs.items():
        shared.setdefault(owners[later], wanted[references[earlier]])
    for index, place in shared.items():
        yield RowWarning(OVERLAP, conversations[index].location, place)


def _personal(conversation: Conversation) -> Iterator[RowWarning]:
    """What looks like personal data, once a kind."""
    found: dict[str, str] = {}
    for turn in conversation.turns:
        for piece in find_personal(turn.content):
            found.setdefault(piece.key, piece.shown)
    return (RowWarning(key, conversation.location, shown=shown) for key, shown in found.items())


def _questions(conversation: Conversation) -> list[str]:
    return [fold(turn.content) for turn in conversation.turns if turn.role == "user"]


def _last_question(conversation: Conversation) -> str:
    return next((turn.content for turn in reversed(conversation.turns) if turn.role == "user"), "")
