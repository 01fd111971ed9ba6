"""Examples -> padding-free micro-batches.

The rows of a batch are laid end to end in one line of tokens, `(1, T)`, positions restarting at 0 with each row: no
padding, no attention mask. From the restarts transformers builds a mask that keeps every row to itself, as long as no
`attention_mask` is passed and no cache is made. `shift_labels[t]` is the token to predict at place t: labels moved one
to the left within their own row, so no row's first token is predicted from the row before.

Trainer and its DataLoader know dictionaries alone: `collate` makes one of a batch, `as_micro_batch` the batch of it again.

Left to others: what happens to a micro-batch (`pangzhu.step`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from pangzhu.tokenization import IGNORED, TokenizedExample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows laid end to end.

    Args:
        input_ids: `(1, T)` int64.
        position_ids: `(1, T)` int64, restarting at 0 with each row.
        shift_labels: `(1, T)` int64, the next token of the same row where it is learned, else -100.
        row_lengths: tokens of each row, in order; they sum to T.
        row_indices: which row of the dataset each is.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    row_lengths: tuple[int, ...]
    row_indices: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(self.row_lengths)

    @property
    def num_supervised(self) -> int:
        """Labels that count in the loss."""
        return int((self.shift_labels != IGNORED).sum())

    def to(self, device: torch.device) -> "MicroBatch":
        """The same batch with its tensors on `device`."""
        return MicroBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.shift_labels.to(device),
            self.row_lengths,
            self.row_indices,
        )


def lay_end_to_end(rows: Sequence[tuple[int, TokenizedExample]]) -> MicroBatch:
    """One micro-batch of the given rows, each with its index in the dataset."""
    input_ids: list[int] = []
    position_ids: list[int] = []
    shift_labels: list[int] = []
    for _, row in rows:
        input_ids.extend(row.input_ids)
        position_ids.extend(range(len(row.input_ids)))
        shift_labels.extend((*row.labels[1:], IGNORED))
    return MicroBatch(
        torch.tensor([input_ids]),
        torch.tensor([position_ids]),
        torch.tensor([shift_labels]),
        tuple(len(row.input_ids) for _, row in rows),
        tuple(index for index, _ in rows),
    )


def split_to_budget(batch: MicroBatch, token_budget: int) -> list[MicroBatch]:
    """Cut a batch between rows into pieces of at most `token_budget` tokens; a longer row is a piece by itself."""
    pieces: list[MicroBatch] = []
    first = start = length = 0
    for row, row_length in enumerate(batch.row_lengths):
        if length and length + row_length > token_budget:
            pieces.append(_slice(batch, (first, row), (start, start + length)))
            first, start, length = row, start + length, 0
        length += row_length
    pieces.append(_slice(batch, (first, len(batch.row_lengths)), (start, start + length)))
    return pieces


class RowDataset(Dataset[tuple[int, TokenizedExample]]):
    """Rows with their index, as torch's DataLoader asks for them."""

    def __init__(self, examples: Sequence[TokenizedExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[int, TokenizedExample]:
        return index, self._examples[index]


def collate(rows: Sequence[tuple[int, TokenizedExample]]) -> dict[str, torch.Tensor]:
    """One DataLoader batch. `labels` is there because Trainer looks for the name; it counts `shift_labels`."""
    batch = lay_end_to_end(rows)
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "labels": batch.shift_labels,
        "shift_labels": batch.shift_labels,
        "row_lengths": torch.tensor(batch.row_lengths),
        "row_indices": torch.tensor(batch.row_indices),
    }


def as_micro_batch(inputs: Mapping[str, torch.Tensor]) -> MicroBatch:
    """What `collate` gave, as a micro-batch again."""
    return MicroBatch(
        inputs["input_ids"],
        inputs["position_ids"],
        inputs["shift_labels"],
        tuple(inputs["row_lengths"].tolist()),
        tuple(inputs["row_indices"].tolist()),
    )


def _slice(batch: MicroBatch, rows: tuple[int, int], tokens: tuple[int, int]) -> MicroBatch:
    row_slice, token_slice = slice(*rows), slice(*tokens)
    return MicroBatch(
        batch.input_ids[:, token_slice],
        batch.position_ids[:, token_slice],
        batch.shift_labels[:, token_slice],
        batch.row_lengths[row_slice],
        batch.row_indices[row_slice],
    )
