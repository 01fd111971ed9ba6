"""The law example keeps its promises: enough wordings, nothing leaked, and every figure found in the cited statute."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LESSON = HERE.parent / "第18_19周"
ARTICLES_FILE = HERE / "facts" / "law_articles.jsonl"

DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "双": 2}
SCALES = {"十": 10, "百": 100, "千": 1000}
UNIT_ALIASES = {"天": "日", "岁": "周岁", "N": "倍"}

NUMBER = r"[0-9]+(?:\.[0-9]+)?|[零〇一二两三四五六七八九十百千万双半]+"
UNIT = r"个月|个工作日|周岁|小时|工作日|名|倍|元|年|月|日|天|岁|时|N"
ARTICLE_NAME = r"第[零一二三四五六七八九十百千]+条"
CITATION = re.compile(rf"《([^》]+)》({ARTICLE_NAME}(?:、{ARTICLE_NAME})*)")
DATE = re.compile(r"(?:[0-9]{4}年)?[0-9]{1,2}月[0-9]{1,2}日")
SHARE = re.compile(rf"([百千万])分之({NUMBER})|([0-9]+(?:\.[0-9]+)?)([%％])")
AMOUNT = re.compile(rf"({NUMBER})({UNIT})")

Figure = tuple[float, str]


@dataclass(frozen=True)
class Row:
    """One question with the answer taught or expected, and the articles the answer rests on."""

    question: str
    answer: str
    fact: str
    law: str
    articles: tuple[int, ...]
    kind: str = "taught"
    split: str = "train"


def load_list(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((LESSON / name).read_text(encoding="utf-8"))
    return rows


def to_row(raw: dict[str, Any]) -> Row:
    cited = raw["article"]
    articles = tuple(cited) if isinstance(cited, list) else (cited,)
    labels = {key: raw[key] for key in ("kind", "split") if key in raw}
    return Row(raw["instruction"], raw["output"], raw["fact"], raw["law"], articles, **labels)


@cache
def taught() -> tuple[Row, ...]:
    return tuple(to_row(raw) for raw in load_list("law_data.json"))


@cache
def evaluation(kind: str) -> tuple[Row, ...]:
    """Evaluation rows of one kind; the general questions in the same file rest on no article."""
    return tuple(to_row(raw) for raw in load_list("law_eval.json") if raw.get("kind") == kind)


def law_rows() -> tuple[Row, ...]:
    return taught() + evaluation("reworded") + evaluation("untaught")


@cache
def articles() -> dict[tuple[str, int], dict[str, Any]]:
    lines = ARTICLES_FILE.read_text(encoding="utf-8").splitlines()
    return {(raw["law"], raw["article"]): raw for raw in map(json.loads, lines)}


def by_fact(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.fact].append(row)
    return groups


def bare(text: str) -> str:
    """Text without white space and punctuation, so that two wordings differ by more than a mark."""
    return re.sub(r"[\W_]+", "", text)


def number(text: str) -> float:
    """Value of a numeral, so that 三十 and 30, 两 and 二 compare equal."""
    if text == "半":
        return 0.5
    if text[0].isascii():
        return float(text)
    if "万" in text:
        high, low = text.split("万", 1)
        return number(high) * 10000 + (number(low) if low else 0)
    total, digit = 0, 0
    for char in text:
        if char in SCALES:
            total += (digit or 1) * SCALES[char]
            digit = 0
        else:
            digit = DIGITS[char]
    return float(total + digit)


def figures(text: str) -> set[Figure]:
    """Every quantity with a unit; article numbers and calendar dates are no quantities."""
    text = DATE.sub("，", re.sub(ARTICLE_NAME, "，", text))
    found: set[Figure] = set()
    for scale, numeral, digits, percent in SHARE.findall(text):
        found.add((number(digits), "百分之") if percent else (number(numeral), f"{scale}分之"))
    for numeral, unit in AMOUNT.findall(SHARE.sub("，", text)):
        found.add((number(numeral), UNIT_ALIASES.get(unit, unit)))
    return found


def dates(text: str) -> set[str]:
    return set(DATE.findall(text))


def cited_text(row: Row) -> str:
    return "\n".join(articles()[row.law, article]["text"] for article in row.articles)


def cited_in_answer(answer: str) -> list[tuple[str, list[int]]]:
    """Laws and article numbers the answer names, in order."""
    return [
        (law, [int(number(name[1:-1])) for name in re.findall(ARTICLE_NAME, names)])
        for law, names in CITATION.findall(answer)
    ]


def test_numerals_and_figures_are_read() -> None:
    numerals = {"十": 10, "二十二": 22, "一百五十": 150, "一千零七十七": 1077, "五百万": 5000000, "半": 0.5, "30": 30}
    assert {text: number(text) for text in numerals} == numerals
    text = "第三十条：30天内付百分之二十，满两周岁，双倍，半个月，2021年1月1日"
    assert figures(text) == {(30, "日"), (20, "百分之"), (2, "周岁"), (2, "倍"), (0.5, "个月")}
    assert figures("20%") == figures("百分之二十")


def test_there_are_enough_facts_and_wordings() -> None:
    groups = by_fact(taught())
    assert len(groups) >= 32
    assert {fact for fact, rows in groups.items() if len(rows) < 3} == set()


def test_every_fact_has_one_dev_and_one_test_wording() -> None:
    splits = {fact: sorted(row.split for row in rows) for fact, rows in by_fact(evaluation("reworded")).items()}
    assert splits == {fact: ["dev", "test"] for fact in by_fact(taught())}


def test_untaught_facts_are_never_taught() -> None:
    untaught = evaluation("untaught")
    assert all(row.fact.startswith("untaught-") for row in untaught)
    taught_articles = {(row.law, article) for row in taught() for article in row.articles}
    assert not [r.fact for r in untaught for a in r.articles if (r.law, a) in taught_articles]
    assert not {row.answer for row in taught()} & {row.answer for row in untaught}


def test_recipes_are_chosen_on_other_untaught_facts_than_are_reported() -> None:
    untaught = evaluation("untaught")
    assert Counter(row.split for row in untaught) == {"dev": 20, "test": 20}
    assert len(by_fact(untaught)) == len({row.answer for row in untaught}) == len(untaught)
    splits: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in untaught:
        for article in row.articles:
            splits[row.law, article].add(row.split)
    assert [source for source, found in splits.items() if len(found) != 1] == []


def test_no_evaluation_question_was_trained() -> None:
    trained = {bare(row.question) for row in taught()}
    asked = [bare(raw["instruction"]) for raw in load_list("law_eval.json") if "instruction" in raw]
    assert len(trained) == len(taught())
    assert len(set(asked)) == len(asked)
    assert trained.isdisjoint(asked)


def test_questions_are_short() -> None:
    assert not [row.question for row in law_rows() if not 6 <= len(row.question) <= 30]


def test_one_fact_has_one_answer_and_one_source() -> None:
    rows = taught() + evaluation("reworded")
    sources = {fact: {(r.answer, r.law, r.articles) for r in group} for fact, group in by_fact(rows).items()}
    assert {fact for fact, found in sources.items() if len(found) != 1} == set()


def test_answers_differ_from_their_first_characters() -> None:
    openings = {row.fact: row.answer[:4] for row in taught()}
    assert len(set(openings.values())) == len(openings)


def test_answers_have_the_promised_length() -> None:
    assert not [row.answer for row in law_rows() if not 40 <= len(row.answer) <= 120 or row.answer[-1] != "。"]


def test_answers_name_the_cited_law_and_articles() -> None:
    for row in law_rows():
        ((law, numbers),) = cited_in_answer(row.answer)
        assert row.law.removeprefix("中华人民共和国") == law, row.answer
        assert numbers == list(row.articles), row.answer
        assert len(re.findall(ARTICLE_NAME, row.answer)) == len(numbers), row.answer


def test_the_cited_articles_alone_are_carried() -> None:
    cited = {(row.law, article) for row in law_rows() for article in row.articles}
    assert cited == set(articles())
    assert list(articles()) == sorted(articles())
    assert all(number(raw["article_zh"][1:-1]) == article for (_, article), raw in articles().items())


def test_figures_of_an_answer_stand_in_the_cited_article() -> None:
    for row in law_rows():
        statute = cited_text(row)
        assert figures(row.answer) <= figures(statute), (row.answer, figures(row.answer) - figures(statute))
        assert dates(row.answer) <= dates(statute), row.answer


def test_contract_law_is_answered_as_of_today() -> None:
    answers = {row.answer for row in taught() if row.question == "什么是合同法？"}
    assert len(answers) == 1
    assert all(word in next(iter(answers)) for word in ("废止", "2021年1月1日", "《民法典》合同编"))
