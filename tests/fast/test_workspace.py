"""Buffers that are written over and over: the same memory, the same numbers, and an error where they are gone."""

import pytest
import torch

from pangzhu.fast.workspace import Room, Workspace
from pangzhu.step import forward_rows
from tests.conftest import build_lora, examples
from tests.fast.test_path import batch_of, gradients, path_of

LIKE = torch.empty(0)


def test_a_buffer_is_lent_again_and_grows() -> None:
    workspace = Workspace()
    first = workspace.take("a", (4, 6), LIKE)
    assert workspace.take("a", (2, 6), LIKE).data_ptr() == first.data_ptr()
    assert workspace.take("b", (2, 6), LIKE).data_ptr() != first.data_ptr()
    assert workspace.take("a", (4, 9), LIKE).shape == (4, 9)
    assert workspace.take("a", (2, 2), LIKE.double()).dtype == torch.float64


def test_without_reuse_every_buffer_is_fresh() -> None:
    workspace = Workspace(reuses=False)
    assert workspace.take("a", (4, 6), LIKE).data_ptr() != workspace.take("a", (4, 6), LIKE).data_ptr()


def test_layers_keep_their_own_however_few_tokens_the_last_has() -> None:
    workspace = Workspace()
    rooms = [Room(workspace, number, 3) for number in range(3)]
    kept = [
        room.kept("a")((size,), LIKE).fill_(number)
        for number, (room, size) in enumerate(zip(rooms, (7, 7, 2), strict=True))
    ]
    assert [set(part.tolist()) for part in kept] == [{0.0}, {1.0}, {2.0}]
    assert rooms[0].scratch("b")((3,), LIKE).data_ptr() == rooms[1].scratch("b")((3,), LIKE).data_ptr()


def test_a_change_of_one_part_is_not_taken_for_another_parts() -> None:
    workspace = Workspace()
    first, second = (Room(workspace, number, 2).kept("a")((3,), LIKE) for number in range(2))
    before = first._version
    second.zero_()
    assert first._version == before


def test_micro_batches_of_any_size_after_each_other_give_what_each_gives_alone() -> None:
    model, sizes = build_lora(), [(9, 14, 7), (3, 2), (20, 21), (9, 14, 7)]
    path = path_of(model)
    for lengths in sizes:
        batch = batch_of(examples(*lengths))
        outcome, found = gradients(model, path, batch)
        alone, expected = gradients(model, path_of(model, "memory"), batch)
        torch.testing.assert_close(outcome.loss_sum, alone.loss_sum, rtol=0, atol=0)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)


def test_a_backward_pass_after_another_forward_pass_is_an_error() -> None:
    model = build_lora()
    path, batch = path_of(model), batch_of(examples(9, 14))
    first = forward_rows(model, batch, path)
    with torch.no_grad():
        forward_rows(model, batch, path)
    with pytest.raises(RuntimeError, match="second forward pass"):
        first.loss_sum.backward()
