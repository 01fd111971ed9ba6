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


def split_to_budget(batch: MicroBatch, token_budget: int, *, num_shared: int = 0) -> list[MicroBatch]:
    """Put the rows of a batch into few pieces of at most `token_budget` computed tokens; a longer row is a piece by itself.

    Each piece has its fixed cost (every weight is read twice), so the longest rows are placed first, each in the first
    piece that has room.

    Args:
        batch: stays as it is.
        token_budget: most tokens of a piece.
        num_shared: tokens all rows begin with alike, computed once a piece.
    """
    free: list[int] = []
    chosen: list[list[int]] = []
    for row in sorted(range(len(batch.row_lengths)), key=lambda row: -batch.row_lengths[row]):
        own = batch.row_lengths[row] - num_shared
        piece = next((number for number, room in enumerate(free) if own <= room), len(free))
        if piece == len(free):
            free.append(token_budget - num_shared)
            chosen.append([])
        free[piece] -= own
        chosen[piece].append(row)
    return [batch] if len(chosen) == 1 else [_take(batch, sorted(rows)) for rows in chosen]


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


def _take(batch: MicroBatch, rows: Sequence[int]) -> MicroBatch:
    def of_rows(tokens: torch.Tensor) -> torch.Tensor:
        by_row = torch.split(tokens, list(batch.row_lengths), dim=1)
        return torch.cat([by_row[row] for row in rows], dim=1)

    return MicroBatch(
        of_rows(batch.input_ids),
        of_rows(batch.position_ids),
        of_rows(batch.shift_labels),
        tuple(batch.row_lengths[row] for row in rows),
        tuple(batch.row_indices[row] for row in rows),
    )
