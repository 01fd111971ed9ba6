"""What an answer is worth: right, near, citing the right article, readable for a program; by hand and by invariant."""

import json
import random
from collections.abc import Callable
from statistics import fmean

import pytest

from pangzhu.data import load_dataset
from pangzhu.examples import example
from pangzhu.measures import (
    canonical_json,
    cited_articles,
    cites_rightly,
    keeps_format,
    named_choice,
    normalized,
    rouge_floor,
    rouge_l,
)

# --- right or not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ＡＢＣ１２３", "ABC123"),
        ("《民法典》第1260条。", "民法典 第1260条"),
        ("是，的！", "是,的!"),
        (" a b\n\tc\u3000d ", "abcd"),
        ("1,000元", "1000元"),
        ("① 甲", "1甲"),
        ("“引”「文」", "引文"),
    ],
)
def test_width_punctuation_and_white_space_are_set_aside(answer: str, expected: str) -> None:
    assert normalized(answer) == normalized(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("1.5倍", "15倍"), ("3-5天", "35天"), ("5%", "5"), ("2021-01-01", "20210101"), ("Yes", "yes"), ("甲", "乙")],
)
def test_what_changes_the_meaning_is_kept(answer: str, expected: str) -> None:
    assert normalized(answer) != normalized(expected)


def test_an_answer_of_punctuation_alone_is_not_nothing() -> None:
    assert normalized("！") == normalized("!") != normalized("")


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", "B"),
        ("B. 15 分钟", "B"),
        ("答案是Ｃ。", "C"),
        ("Answer: D", "D"),
        ("（A）或B", "A"),
        ("B 北京", "B"),
        ("C\n因为 A 不对", "C"),
        ("A：不是 B", "A"),
        ("A good answer", "A"),
        ("A good answer is B.", None),
        ("A 或 B", None),
        ("B 就是 B", "B"),
        ("b", None),
        ("ABCD", None),
        ("", None),
        ("E", None),
    ],
)
def test_a_choice_is_named_by_opening_with_it_or_by_naming_no_other(answer: str, choice: str | None) -> None:
    assert named_choice(answer, ("A", "B", "C", "D")) == choice


def test_choices_may_be_words() -> None:
    assert named_choice("这是不对的", ("对", "不对")) == "不对"


@pytest.mark.parametrize("answer", ['{"a": true}', '{"a": 1.0}', '{"a": [1]}', '{"a": NaN}'])
def test_json_values_that_python_confuses_are_told_apart(answer: str) -> None:
    assert canonical_json(answer) != canonical_json('{"a": 1}')


# --- near or not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "in_common"),
    [
        ("ABCBDAB", "BDCABA", 4),  # Cormen et al., Introduction to Algorithms: BCBA
        ("三年", "三十年", 2),
        ("甲乙丙", "丙乙甲", 1),
        ("甲", "乙", 0),
        ("aaaa", "aa", 2),
    ],
)
def test_rouge_l_is_twice_what_is_in_common_over_both_lengths(answer: str, expected: str, in_common: int) -> None:
    assert rouge_l(answer, expected) == pytest.approx(2 * in_common / (len(answer) + len(expected)))


def in_common_by_table(first: str, second: str) -> int:
    """The textbook's table, row by row."""
    row = [0] * (len(second) + 1)
    for char in first:
        before = row
        row = [0]
        for place, other in enumerate(second, start=1):
            row.append(before[place - 1] + 1 if char == other else max(before[place], row[-1]))
    return row[-1]


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_of_random_texts_is_that_of_the_textbook_and_symmetric(seed: int) -> None:
    draw = random.Random(seed)
    first, second = ("".join(draw.choices("甲乙丙丁戊", k=draw.randint(1, 130))) for _ in range(2))
    expected = 2 * in_common_by_table(first, second) / (len(first) + len(second))
    assert rouge_l(first, second) == rouge_l(second, first) == pytest.approx(expected)
    assert rouge_l(first, first) == 1
    assert 0 <= rouge_l(first, second) <= 1


def test_nothing_is_like_nothing_alone() -> None:
    assert (rouge_l("", ""), rouge_l("", "甲"), rouge_l("甲", "")) == (1, 0, 0)


def test_the_floor_is_the_likeness_to_another_row_s_answer() -> None:
    assert rouge_floor(["ab", "cd"], ["ab", "cd"]) == 0
    assert rouge_floor(["cd", "ab"], ["ab", "cd"]) == 1
    assert rouge_floor(["ab", "ab", "cd"], ["ab", "ab", "cd"]) == 0  # the other wording of one fact is no other answer


@pytest.mark.parametrize("expected", [[], ["甲"], ["甲", "甲"]])
def test_without_another_answer_there_is_no_floor(expected: list[str]) -> None:
    assert rouge_floor(expected, expected) is None


def test_the_floor_is_the_same_each_time_and_every_other_answer_may_be_drawn() -> None:
    expected = [f"{number:04}" for number in range(50)]
    assert rouge_floor(expected, expected) == rouge_floor(expected, expected)
    assert len({rouge_floor(expected, expected, seed=seed) for seed in range(5)}) > 1
    own = [f"{number}" * 40 for number in range(3)]
    assert {rouge_floor([own[0], "", ""], own, seed=seed) for seed in range(20)} == {0}
    drawn = sorted({rouge_floor([own[0] + own[1], "", ""], own, seed=seed) or 0.0 for seed in range(20)})
    assert drawn == pytest.approx([0, 2 / 9])


def test_the_answers_of_the_law_share_a_tenth_to_a_quarter_whatever_they_say() -> None:
    rows = load_dataset(example("law_data.json")).conversations
    answers = [normalized(row.answer or "") for row in rows]
    floor = rouge_floor(answers, answers)
    assert floor is not None
    assert 0.1 < floor < 0.25
    assert fmean(map(rouge_l, answers, answers)) == 1


# --- articles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "articles"),
    [
        ("依据《民法典》第一千二百六十条。", {"1260"}),
        ("依据《民法典》第1260条。", {"1260"}),
        ("第 １２６０ 条", {"1260"}),
        ("第一二六〇条", {"1260"}),
        ("第十条、第二十条和第一百一十条", {"10", "20", "110"}),
        ("第一千零四条，第一百零五条", {"1004", "105"}),
        ("第两百条", {"200"}),
        ("《刑法》第一百二十条之一", {"120-1"}),
        ("第二十条之规定", {"20"}),
        ("第一万二千条", {"12000"}),
        ("See Article 12 and article 7.", {"12", "7"}),
        ("第三款、第二项、三十条毛巾、particle 5", set()),
        ("", set()),
    ],
)
def test_articles_are_read_in_characters_and_digits(answer: str, articles: set[str]) -> None:
    assert cited_articles(answer) == articles


@pytest.mark.parametrize("number", [1, 9, 10, 11, 20, 99, 100, 101, 110, 111, 999, 1000, 1001, 1010, 1100, 1260, 9999])
def test_every_way_to_write_a_number_is_the_same_number(number: int) -> None:
    assert cited_articles(f"第{in_characters(number)}条") == cited_articles(f"第{number}条") == {f"{number}"}


def in_characters(number: int) -> str:
    """A number below 10,000 as laws write it: a zero once between, none at the end, 十 for 一十 at the front."""
    digits, written = "零一二三四五六七八九", ""
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        figure = number // unit % 10
        if figure:
            written += digits[figure] + name
        elif written and not written.endswith("零") and number % unit:
            written += "零"
    return written.removeprefix("一") if 10 <= number < 20 else written


def test_the_right_articles_are_all_of_them_and_no_other() -> None:
    expected = "第十条和第十一条"
    assert cites_rightly("第11条、第10条", expected) is True
    assert [cites_rightly(answer, expected) for answer in ("第十条", "第十条、第十一条、第十二条", "")] == [False] * 3
    assert cites_rightly("第十条", "不引条文") is None


def test_every_answer_of_the_law_names_the_articles_its_row_does() -> None:
    rows = [row for row in load_dataset(example("law_data.json")).conversations if row.field("article")]
    assert len(rows) > 100
    assert all(cited_articles(str(row.answer)) == set(str(row.field("article")).split(",")) for row in rows)


# --- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ('{"a": 1}', True),
        (" [1, 2]\n", True),
        ("{}", True),
        ('{"a": 1', False),
        ('Here: {"a": 1}', False),
        ('```json\n{"a": 1}\n```', False),
        ('{"a": NaN}', False),
        ("6", False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_json_is_an_object_or_a_list_and_nothing_beside_it(answer: str, kept: bool) -> None:
    assert keeps_format(answer, "json") == kept


CALL = '{"name": "weather", "arguments": {"city": "杭州"}}'


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (CALL, True),
        (f"<tool_call>\n{CALL}\n</tool_call>\n", True),
        ('{"name": "now", "arguments": {}}', True),
        ('{"name": "now"}', False),
        ('{"name": "now", "arguments": "{}"}', False),
        ('{"name": 5, "arguments": {}}', False),
        ('{"name": " ", "arguments": {}}', False),
        (f"[{CALL}]", False),
        (f"<tool_call>{CALL}", False),
        (f"I call it: <tool_call>{CALL}</tool_call>", False),
        ("<tool_call></tool_call>", False),
    ],
)
def test_a_tool_call_names_a_tool_and_gives_its_arguments_as_an_object(answer: str, kept: bool) -> None:
    assert keeps_format(answer, "tool_call") == kept


@pytest.mark.parametrize("spelled", [json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=2)])
def test_the_spelling_of_json_is_nothing(spelled: Callable[[object], str]) -> None:
    value = {"水果": "苹果", "价": [6, 1.5, True, None]}
    assert canonical_json(spelled(value)) == canonical_json(json.dumps(value))
