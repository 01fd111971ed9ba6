"""The items of the evaluation benchmark: as long as they say, the same each time, and countable."""

import pytest

from benchmarks.eval_speed import draw_items, work_of_items
from pangzhu.choices import check_choices
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from tests.use_helpers import Trained

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]


def test_items_are_seeded_multiple_choice_questions_of_the_length_asked_for(plain: TransformersEngine) -> None:
    items = draw_items(plain, 12, num_tokens=300)
    assert items == draw_items(plain, 12, num_tokens=300)
    assert len({item.prompt for item in items}) == 12
    for item in items:
        check_choices(item)
        assert 290 <= len(plain.prompt(item.prompt, BASE)) <= 300


def test_their_work_counts_each_prompt_once(plain: TransformersEngine, trained: Trained) -> None:
    items = draw_items(plain, 6, num_tokens=300)
    work = work_of_items(plain, trained.base, items, rank=0)
    assert work.num_supervised == 6
    assert work.num_tokens == sum(len(plain.prompt(item.prompt, BASE)) + 1 for item in items)
    assert work.num_computed < work.num_tokens - 6  # the template's head is shared
    assert work.flops < work_of_items(plain, trained.base, items, rank=8).flops
