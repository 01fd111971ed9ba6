"""The rows of a large file as tokens on the disk: made once, in pieces, and read a row at a time.

A piece holds the rows of some thousand conversations and what was counted of them; it is whole or it is nothing
(`pangzhu.sealed`). A run that ends in the midst of it leaves the pieces before, and the next one goes on behind them. Two
runs that want the same rows make them one after the other: the second finds them made. All of it may be deleted at any time.

In a piece's `tokens` stand the ids of all its rows, those that are learned as their complement (`~id`, which is negative):
ids and labels are one array. Its `table` has a line for each row: where its tokens end, how many are learned, its row and
line in the file. Left to others: the labels and their proof (`pangzhu.tokenization`), what the key of a store is made of
(`pangzhu.preparation`).
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pangzhu import sealed, storage
from pangzhu.data.conversation import Conversation, Location
from pangzhu.data.counts import RowCounts
from pangzhu.errors import ResourceError
from pangzhu.measured_rows import JoinedRows, MeasuredRows
from pangzhu.messages import say
from pangzhu.row_index import findings_as_json, findings_from_json
from pangzhu.sources.cache import disk_errors, locked, read_stamp, write_stamp
from pangzhu.tokenization import IGNORED, TokenizedDataset, TokenizedExample, joined

FORMAT = 1  # of a piece, where pieces are cut, and the version of what labelling does
PIECE_TOKENS = 1 << 21  # from which on a piece is written: 8 MB

Batch = tuple[Sequence[Conversation], TokenizedDataset]
Label = Callable[[Sequence[Conversation]], Iterator[Batch]]


class StoredPiece(MeasuredRows[TokenizedExample]):
    """Rows of one piece.

    Args:
        folder: where it is.
        file: what the rows were read from.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder = folder
        self._file = file
        self._table: NDArray[np.int32] = np.array(sealed.load(folder, "table"))

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[TokenizedExample]:
        tokens = self._tokens()
        return (self._example(tokens, index) for index in range(len(self)))

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each."""
        lengths: list[int] = np.diff(self._table[:, 0], prepend=0).tolist()
        return lengths

    @property
    def supervised(self) -> Sequence[int]:
        """Learned tokens of each."""
        supervised: list[int] = self._table[:, 1].tolist()
        return supervised

    def row(self, index: int) -> TokenizedExample:
        """The row at an index from 0 on."""
        return self._example(self._tokens(), index)

    def _tokens(self) -> NDArray[np.int32]:
        """All tokens, mapped anew: what is looked at counts as this process's memory only as long as it is."""
        try:
            return sealed.load(self._folder, "tokens")
        except OSError as gone:
            raise ResourceError("error.tokens.gone", where=str(self._folder), reason=str(gone.strerror)) from gone

    def _example(self, tokens: NDArray[np.int32], index: int) -> TokenizedExample:
        start = int(self._table[index - 1, 0]) if index else 0
        end, _, row, line = self._table[index].tolist()
        kept = np.array(tokens[start:end])
        ids = np.where(kept < 0, ~kept, kept)
        labels = np.where(kept < 0, ids, IGNORED)
        return TokenizedExample(tuple(ids.tolist()), tuple(labels.tolist()), Location(self._file, line or None, row))


class StoredRows(JoinedRows[TokenizedExample]):
    """Rows of all pieces, with their fingerprint."""

    def __init__(self, pieces: Sequence[StoredPiece], sha256: str) -> None:
        super().__init__(pieces)
        self._sha256 = sha256

    @property
    def sha256(self) -> str:
        """The fingerprint of their ids and labels."""
        return self._sha256


def kept_or_made(
    folder: Path, conversations: Sequence[Conversation], label: Label, *, file: Path
) -> tuple[TokenizedDataset, RowCounts]:
    """The rows of a file as tokens, and what was counted of them: found in the cache as far as they are there, else made.

    Args:
        folder: where they are kept (`sealed.folder_for`).
        conversations: all rows.
        label: tokenizes some of them, a few hundred at a time.
        file: what they were read from.

    Raises:
        DataError: the file was changed meanwhile.
        ResourceError: the cache cannot be written.
    """
    with locked(folder.name, waiting="tokens.waiting"), disk_errors(folder):
        stamp = read_stamp(folder)
        whole = list(_whole_pieces(folder))
        num_done = sum(about["num_conversations"] for about in whole)
        if stamp is None or num_done < len(conversations):
            _say_beginning(folder, stamp is not None, num_done, len(conversations))
            for part in _pieces(conversations[num_done:], label):
                whole.append(part.seal(_piece_folder(folder, len(whole)), first=num_done))
                num_done += part.num_conversations
            stamp = _finish(folder, [StoredPiece(_piece_folder(folder, number), file) for number in range(len(whole))])
        else:
            say("tokens.found", folder=folder)
    return _put_together(folder, whole, str(stamp["sha256"]), file)


class _NewPiece:
    """A piece that is being made, in memory."""

    def __init__(self) -> None:
        self.tokens, self.table = array("i"), array("i")
        self.counts = RowCounts()
        self.tokenized = TokenizedDataset((), ())
        self.num_conversations = 0

    def add(self, conversations: Sequence[Conversation], tokenized: TokenizedDataset) -> None:
        """Take some rows in."""
        for row in tokenized.examples:
            ids, labels = np.array(row.input_ids, dtype=np.int32), np.array(row.labels, dtype=np.int32)
            self.tokens.frombytes(np.where(labels == IGNORED, ids, ~ids).astype(np.int32).tobytes())
            self.table.extend((len(self.tokens), row.num_supervised, row.location.row, row.location.line or 0))
        self.tokenized = joined([self.tokenized, replace(tokenized, examples=())])
        self.counts.add(conversations)
        self.num_conversations += len(conversations)

    def seal(self, folder: Path, *, first: int) -> dict[str, Any]:
        """Write it; gives what the arrays do not hold.

        Args:
            folder: where it belongs.
            first: conversations in the pieces before it.
        """
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.array(self.tokens, dtype=np.int32),
            "table": np.array(self.table, dtype=np.int32).reshape(-1, 4),
            "counted": np.array([self.counts.asked, self.counts.said], dtype=np.uint64),
        }
        about = {
            "first": first,
            "num_conversations": self.num_conversations,
            "findings": findings_as_json(self.tokenized.findings),
            "num_dropped": self.tokenized.num_dropped,
            "num_truncated": self.tokenized.num_truncated,
            "kinds": dict(self.counts.kinds),
            "facts": sorted(self.counts.facts),
        }
        sealed.seal(folder, arrays, about)
        return about


def _pieces(conversations: Sequence[Conversation], label: Label) -> Iterator[_NewPiece]:
    piece = _NewPiece()
    for batch, tokenized in label(conversations):
        piece.add(batch, tokenized)
        if len(piece.tokens) >= PIECE_TOKENS:
            yield piece
            piece = _NewPiece()
    if piece.num_conversations:
        yield piece


def _whole_pieces(folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of each piece, up to the first that is not whole or does not begin where the one before it ends."""
    number = num_done = 0
    while (about := sealed.unseal(_piece_folder(folder, number))) is not None and about["first"] == num_done:
        yield about
        number, num_done = number + 1, num_done + about["num_conversations"]


def _say_beginning(folder: Path, was_finished: bool, num_done: int, num_rows: int) -> None:
    if was_finished:
        say("tokens.damaged", folder=folder)
    if num_done:
        say("tokens.going_on", num_done=num_done, num_rows=num_rows)
    else:
        say("tokens.making", num_rows=num_rows, folder=folder)


def _finish(folder: Path, pieces: Sequence[StoredPiece]) -> dict[str, object]:
    """Declare the store whole."""
    about: dict[str, object] = {"sha256": TokenizedDataset(JoinedRows(pieces), ()).sha256}
    storage.make_folder(folder)
    write_stamp(folder, about)
    return about


def _put_together(
    folder: Path, whole: Sequence[dict[str, Any]], sha256: str, file: Path
) -> tuple[TokenizedDataset, RowCounts]:
    pieces = [StoredPiece(_piece_folder(folder, number), file) for number in range(len(whole))]
    counts = RowCounts()
    for number, about in enumerate(whole):
        asked, said = sealed.load(_piece_folder(folder, number), "counted")
        kinds, facts = Counter(about["kinds"]), set(about["facts"])
        counts.merge(RowCounts(array("Q", asked.tobytes()), array("Q", said.tobytes()), kinds, facts))
    tokenized = TokenizedDataset(
        StoredRows(pieces, sha256),
        tuple(found for about in whole for found in findings_from_json(about["findings"], file)),
        sum(about["num_dropped"] for about in whole),
        sum(about["num_truncated"] for about in whole),
    )
    return tokenized, counts


def _piece_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:05}"
