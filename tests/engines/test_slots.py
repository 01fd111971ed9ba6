"""Places in llama.cpp: an adapter's keys and values are its own, and nobody is given more room than there is."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from pangzhu.engines.slots import Slots


def take(slots: Slots, owner: str, num_tokens: int = 1) -> tuple[int, bool]:
    with slots.taken(owner, num_tokens) as given:
        return given


def test_a_place_is_used_again_by_whom_it_belongs_to() -> None:
    slots = Slots(2, 10)
    assert [take(slots, owner) for owner in ("a", "a", "b", "a", "b")] == [
        (0, False),
        (0, True),
        (1, False),
        (0, True),
        (1, True),
    ]


def test_who_takes_over_a_place_finds_nothing_of_use_in_it() -> None:
    slots = Slots(1, 10)
    assert [take(slots, owner)[1] for owner in ("a", "b", "b", "a")] == [False, False, True, False]


def test_the_place_unused_for_longest_is_taken_over() -> None:
    slots = Slots(2, 10)
    for owner in ("a", "b", "a", "c"):
        take(slots, owner)
    assert take(slots, "a") == (0, True)
    assert take(slots, "b") == (1, False)


def test_those_at_work_are_counted() -> None:
    slots = Slots(3, 10)
    with slots.taken("a", 1), slots.taken("b", 1):
        assert slots.num_busy == 2
    assert slots.num_busy == 0


def test_of_two_places_of_its_own_the_latest_is_used_again() -> None:
    slots = Slots(3, 10)
    with slots.taken("a", 1), slots.taken("a", 1):
        pass
    assert take(slots, "a") == (1, True)


def test_an_answer_that_failed_in_another_s_place_leaves_it_to_nobody() -> None:
    """How much of it was overwritten is not known."""
    slots = Slots(1, 10)
    take(slots, "a")
    with pytest.raises(RuntimeError), slots.taken("b", 1):
        raise RuntimeError
    assert take(slots, "b") == (0, False)
    with pytest.raises(RuntimeError), slots.taken("b", 1):
        raise RuntimeError
    assert take(slots, "b") == (0, True)


@pytest.mark.parametrize(("num_slots", "num_tokens"), [(1, 100), (2, 15)])
def test_who_finds_no_place_or_no_room_waits(num_slots: int, num_tokens: int) -> None:
    slots, started = Slots(num_slots, num_tokens), Event()

    def second() -> tuple[int, bool]:
        started.set()
        return take(slots, "b", 10)

    with ThreadPoolExecutor(1) as pool:
        with slots.taken("a", 10):
            waiting = pool.submit(second)
            started.wait()
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.05)
        assert waiting.result(timeout=10)[1] is False


def test_a_place_is_never_given_twice_at_once() -> None:
    slots = Slots(3, 30)
    with slots.taken("a", 1) as first, slots.taken("a", 1) as second, slots.taken("a", 1) as third:
        assert {first[0], second[0], third[0]} == {0, 1, 2}
