"""Rows laid end to end: nothing lost, nothing joined."""

import pytest
import torch

from pangzhu.batching import MicroBatch, RowDataset, as_micro_batch, collate, lay_end_to_end, split_to_budget
from pangzhu.tokenization import IGNORED
from tests.conftest import examples


def batch_of(*lengths: int) -> MicroBatch:
    return lay_end_to_end(list(enumerate(examples(*lengths))))


def test_the_rows_stand_one_after_another_in_one_line_of_tokens() -> None:
    rows = examples(5, 7, 4)
    batch = lay_end_to_end([(9, rows[0]), (3, rows[1]), (4, rows[2])])
    assert batch.input_ids.shape == batch.position_ids.shape == batch.shift_labels.shape == (1, 16)
    assert batch.input_ids[0].tolist() == [token for row in rows for token in row.input_ids]
    assert (batch.row_lengths, batch.row_indices) == ((5, 7, 4), (9, 3, 4))


def test_positions_restart_with_each_row() -> None:
    assert batch_of(3, 1, 4).position_ids[0].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


def test_each_place_predicts_the_next_token_of_its_own_row() -> None:
    rows = examples(5, 6, prompt=2)
    labels = batch_of(5, 6).shift_labels[0].tolist()
    expected = [*rows[0].labels[1:], IGNORED, *rows[1].labels[1:], IGNORED]
    assert lay_end_to_end(list(enumerate(rows))).shift_labels[0].tolist() == expected
    assert labels[4] == labels[-1] == IGNORED


def test_a_rows_first_token_is_not_predicted_from_the_row_before() -> None:
    """Trap 2, with every token of every row learned."""
    rows = examples(4, 5, 6, prompt=0)
    batch = lay_end_to_end(list(enumerate(rows)))
    ends = torch.tensor(batch.row_lengths).cumsum(0) - 1
    assert (batch.shift_labels[0, ends] == IGNORED).all()


@pytest.mark.parametrize("prompt", [0, 1, 3])
def test_the_supervised_count_of_a_batch_is_the_sum_over_its_rows(prompt: int) -> None:
    rows = examples(4, 9, 5, 7, prompt=prompt)
    batch = lay_end_to_end(list(enumerate(rows)))
    assert batch.num_supervised == sum(row.num_supervised for row in rows)
    assert batch.num_supervised == sum(length - max(prompt, 1) for length in (4, 9, 5, 7))


@pytest.mark.parametrize("num_shared", [0, 2])
@pytest.mark.parametrize("budget", [1, 5, 8, 9, 12, 17, 100])
def test_a_split_batch_holds_the_same_rows_each_once_and_whole(budget: int, num_shared: int) -> None:
    batch = batch_of(4, 8, 5, 3, 9)
    whole = {index: rows_in(batch)[index] for index in range(5)}
    pieces = split_to_budget(batch, budget, num_shared=num_shared)
    assert sorted(index for piece in pieces for index in piece.row_indices) == list(range(5))
    for piece in pieces:
        assert all(torch.equal(row, whole[index]) for index, row in rows_in(piece).items())
        computed = piece.num_tokens - num_shared * (len(piece.row_lengths) - 1)
        assert computed <= budget or len(piece.row_lengths) == 1
        assert piece.num_tokens == piece.input_ids.shape[1]


def rows_in(batch: MicroBatch) -> dict[int, torch.Tensor]:
    """Each row's ids, positions and labels, by its index."""
    fields = torch.cat([batch.input_ids, batch.position_ids, batch.shift_labels])
    return dict(zip(batch.row_indices, fields.split(batch.row_lengths, dim=1), strict=True))


def test_rows_are_put_into_as_few_pieces_as_have_room() -> None:
    """One after another they would need five."""
    assert [piece.row_lengths for piece in split_to_budget(batch_of(4, 6, 4, 6, 2), 8)] == [(6, 2), (6,), (4, 4)]


def test_what_rows_begin_with_alike_counts_once_a_piece() -> None:
    assert len(split_to_budget(batch_of(6, 6, 6), 14)) == 2
    assert len(split_to_budget(batch_of(6, 6, 6), 14, num_shared=2)) == 1


def test_a_batch_within_the_budget_stays_one() -> None:
    assert len(split_to_budget(batch_of(4, 4), 8)) == 1


def test_moving_a_batch_to_a_device_keeps_its_rows() -> None:
    batch = batch_of(3, 4)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert (moved.row_lengths, moved.row_indices) == (batch.row_lengths, batch.row_indices)


def test_a_batch_survives_the_way_through_trainers_dictionary() -> None:
    rows = RowDataset(examples(5, 6, 7))
    chosen = [rows[2], rows[0]]
    collated, batch = collate(chosen), lay_end_to_end(chosen)
    again = as_micro_batch(collated)
    assert len(rows) == 3
    assert (again.row_lengths, again.row_indices) == (batch.row_lengths, batch.row_indices) == ((7, 5), (2, 0))
    assert torch.equal(again.input_ids, batch.input_ids)
    assert torch.equal(again.shift_labels, batch.shift_labels)


def test_every_entry_of_the_dictionary_is_a_tensor() -> None:
    """Trainer counts nothing, without a word, where labels are nested lists."""
    assert all(isinstance(value, torch.Tensor) for value in collate(list(enumerate(examples(5, 6)))).values())
