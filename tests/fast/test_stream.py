"""The stream of a micro-batch: every learned token is predicted once, from its own row's tokens at their own positions."""

import pytest
import torch

from pangzhu.batching import lay_end_to_end
from pangzhu.fast.stream import ALIGNMENT, Stream, lay_out
from pangzhu.tokenization import IGNORED, TokenizedExample
from tests.conftest import examples

HEAD = tuple(range(10, 22))


def row(*ids: int, prompt: int) -> TokenizedExample:
    labels = tuple(IGNORED if place < prompt else token for place, token in enumerate(ids))
    return TokenizedExample(ids, labels, examples(2)[0].location)


ROWS = [
    row(*HEAD, 1, 2, 3, 4, prompt=14),
    row(*HEAD, 5, 6, prompt=12),  # its first learned token is predicted by the prefix's last
    row(7, 8, 9, 7, prompt=1),
    row(*HEAD, 1, 2, 3, prompt=12),
]


def stream_of(rows: list[TokenizedExample], **options: bool) -> Stream:
    batch = lay_end_to_end(list(enumerate(rows)))
    return lay_out(batch.input_ids[0], batch.shift_labels[0], batch.row_lengths, **options)


def seen_by(stream: Stream, place: int) -> tuple[list[int], list[int]]:
    """Tokens and positions that a place of the stream sees, itself included."""
    segment = next(s for s in stream.segments if s.start <= place < s.start + s.length)
    prefix = range(segment.prefix_start, segment.prefix_start + segment.prefix_length)
    places = [*prefix, *range(segment.start, place + 1)]
    return stream.input_ids[places].tolist(), stream.position_ids[places].tolist()


@pytest.mark.parametrize("share_prefixes", [False, True])
@pytest.mark.parametrize("drop_tails", [False, True])
def test_each_learned_token_is_predicted_once_from_what_stands_before_it(
    share_prefixes: bool, drop_tails: bool
) -> None:
    stream = stream_of(ROWS, share_prefixes=share_prefixes, drop_tails=drop_tails)
    found = []
    predictions = zip(stream.place_of.tolist(), stream.targets.tolist(), stream.row_numbers.tolist(), strict=True)
    for index, target, number in predictions:
        ids, positions = seen_by(stream, int(stream.places[index]))
        assert positions == list(range(len(ids)))
        assert tuple(ids) == ROWS[number].input_ids[: len(ids)]
        assert target == ROWS[number].input_ids[len(ids)]
        found.append((number, len(ids)))
    expected = [(n, p) for n, r in enumerate(ROWS) for p, label in enumerate(r.labels) if label != IGNORED]
    assert sorted(found) == expected


def test_the_supervised_count_is_the_sum_over_rows() -> None:
    assert stream_of(ROWS).targets.shape[0] == sum(row.num_supervised for row in ROWS)


def test_a_shared_prefix_stands_once() -> None:
    shared, apart = stream_of(ROWS), stream_of(ROWS, share_prefixes=False)
    assert apart.num_tokens - shared.num_tokens == 2 * len(HEAD)  # three rows have it
    assert shared.input_ids.tolist().count(HEAD[0]) == 1


def test_what_follows_the_last_learned_token_is_left_out_and_so_is_that_token() -> None:
    cut = TokenizedExample((1, 2, 3, 4, 5), (IGNORED, IGNORED, 3, IGNORED, IGNORED), examples(2)[0].location)
    assert stream_of([cut]).input_ids.tolist() == [1, 2]
    assert stream_of([cut], drop_tails=False).input_ids.tolist() == [1, 2, 3, 4, 5]


def test_a_row_without_a_learned_token_takes_no_place() -> None:
    stream = stream_of([row(1, 2, prompt=9), ROWS[2]])
    assert stream.input_ids.tolist() == [7, 8, 9]
    assert set(stream.row_numbers.tolist()) == {1}


def test_a_place_that_predicts_two_tokens_is_computed_once() -> None:
    stream = stream_of(ROWS)
    assert len(stream.places) < len(stream.targets)
    assert torch.equal(stream.places, stream.places.unique())


def test_the_whole_sequence_can_be_learned_over_a_shared_prefix() -> None:
    """`--train_on all`: every place of the prefix predicts the same token in every row, and counts in each."""
    rows = [row(*HEAD, 1, 2, prompt=1), row(*HEAD, 3, prompt=1)]
    stream = stream_of(rows)
    assert stream.num_tokens == len(HEAD) + 1  # the last token of a row predicts nothing
    assert len(stream.targets) == sum(r.num_supervised for r in rows)


def test_predictions_stand_in_the_order_of_their_places() -> None:
    """As many places as predictions does not mean one for each in the order of rows."""
    rows = [row(*HEAD, 1, 2, prompt=13), row(*HEAD, 3, 4, prompt=12)]
    stream = stream_of(rows)
    assert len(stream.places) == len(stream.targets)
    assert stream.place_of.tolist() == list(range(len(stream.targets)))
    assert stream.row_numbers.tolist() == [1, 0, 1]


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 9])
def test_an_aligned_stream_goes_on_after_the_last_row_and_learns_nothing_there(num_tokens: int) -> None:
    stream = stream_of([ROWS[0], row(*range(1, num_tokens + 2), prompt=1)], share_prefixes=False)
    filled = stream.aligned()
    assert filled.num_tokens % ALIGNMENT == 0
    assert 0 <= filled.num_tokens - stream.num_tokens < ALIGNMENT
    assert filled.input_ids[: stream.num_tokens].tolist() == stream.input_ids.tolist()
    assert filled.segments[:-1] == stream.segments[:-1]
    assert filled.segments[-1].start + filled.segments[-1].length == filled.num_tokens
    assert filled.position_ids.max() == stream.position_ids.max()
    assert filled.places is stream.places
