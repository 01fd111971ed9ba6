"""The prompts that show how far an adapter moves from its base: everyday, bilingual, and neither trained nor scored anywhere."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from pangzhu.examples import example
from tests.test_law_replay import folded, questions

FILE = example("general_prompts.jsonl")
PROMPTS = [json.loads(line)["instruction"] for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_is_a_question_without_an_answer() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "\\u" not in text
    assert all(json.loads(line).keys() == {"instruction", "kind"} for line in text.splitlines())
    assert {json.loads(line)["kind"] for line in text.splitlines()} == {"general"}


def test_sixty_prompts_are_chinese_and_forty_english() -> None:
    assert Counter("zh" if re.search("[一-鿿]", prompt) else "en" for prompt in PROMPTS) == {"zh": 60, "en": 40}


def test_prompts_are_short_and_all_different() -> None:
    assert not [prompt for prompt in PROMPTS if not 8 <= len(prompt) <= 100]
    assert len({folded(prompt) for prompt in PROMPTS}) == len(PROMPTS)


@pytest.mark.parametrize("name", ["law_data.json", "law_eval.json", "law_replay.json", "instruct_tiny.jsonl"])
def test_no_prompt_is_asked_elsewhere(name: str) -> None:
    assert {folded(prompt) for prompt in PROMPTS}.isdisjoint(questions(name))
