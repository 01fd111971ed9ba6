"""What is counted of rows while they pass by: repeats, contradictions, facts and kinds, without keeping a text.

Of each row two hashes stay, that of its question and that of question and answer, folded (`pangzhu.data.quality`): who has as
many different ones as rows repeats nothing.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pangzhu.data.conversation import Conversation
from pangzhu.data.quality import Folded, digest


@dataclass(slots=True)
class RowCounts:
    """Rows that were counted.

    Args:
        asked: a hash for each row's question.
        said: a hash for each row's question and answer.
        kinds: rows of each kind that rows name.
        facts: those that rows name.
    """

    asked: "array[int]" = field(default_factory=lambda: array("Q"))
    said: "array[int]" = field(default_factory=lambda: array("Q"))
    kinds: Counter[str] = field(default_factory=Counter)
    facts: set[str] = field(default_factory=set)

    def add(self, conversations: Iterable[Conversation]) -> None:
        """Count rows in."""
        for row in conversations:
            folded = Folded.of(row)
            self.asked.append(digest(folded.question))
            self.said.append(digest(folded.question, folded.answer))
            self.kinds.update(filter(None, [row.field("kind")]))
            self.facts.update(fact for fact in [row.field("fact")] if fact is not None)

    def merge(self, others: "RowCounts") -> None:
        """Count in what was counted elsewhere."""
        self.asked += others.asked
        self.said += others.said
        self.kinds += others.kinds
        self.facts |= others.facts

    @property
    def num_duplicates(self) -> int:
        """Rows that repeat an earlier one's question and answer."""
        return len(self.said) - _num_different(self.said)

    @property
    def num_contradictions(self) -> int:
        """Rows that answer an earlier one's question otherwise."""
        return _num_different(self.said) - _num_different(self.asked)


def _num_different(digests: "array[int]") -> int:
    return len(np.unique(np.array(digests, dtype=np.uint64)))
