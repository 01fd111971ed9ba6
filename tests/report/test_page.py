"""A report page shows what it was given, and what people wrote stays text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from pangzhu.messages import LANGUAGES, Language, set_language
from pangzhu.report.charts import Curve
from pangzhu.report.marking import Piece
from pangzhu.report.page import Entries, Group, Page, ShownAnswer, ShownQuestion, Table, render

HOSTILE = "</dd></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
VOID = {"meta", "br", "img", "link", "input", "hr", "circle", "line", "polyline"}


class Elements(HTMLParser):
    """Every element with its attributes; complains about what is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(words: str = "words") -> Page:
    answer = ShownAnswer(
        words, (Piece(words, "same"), Piece("gone", "missing"), Piece("new", "added")), "✓", "right", words
    )
    return Page(
        title=words,
        verdict=words,
        tone="partly",
        remarks=(words,),
        tables=(Table(words, (words, words), ((words, "1"), ("row", words)), intro=words, notes=(words,)),),
        curves=((Curve([(1, 2.0), (2, 1.0)], words, words), words), (Curve([], words, words), "nothing was logged")),
        groups=(Group(words, (ShownQuestion(words, words, (answer,)), ShownQuestion("open", None, (answer,))), words),),
        facts=(Entries(words, ((words, words),)), Table(words, (words, words), ((words, words),), intro=words)),
        commands=((words, words),),
    )


@pytest.fixture(params=LANGUAGES)
def chosen(request: pytest.FixtureRequest) -> Language:
    set_language(request.param)
    return request.param


def test_hostile_text_stays_text_wherever_it_stands(chosen: Language) -> None:
    elements = Elements(render(page_of(HOSTILE)))
    assert not elements.named("script")
    assert not elements.named("img")
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert sum(HOSTILE in text for text in elements.texts) >= 15
    assert "49" not in "".join(elements.texts)


def test_nothing_is_fetched_and_no_script_may_run(chosen: Language) -> None:
    elements = Elements(render(page_of()))
    (policy,) = [meta["content"] for meta in elements.named("meta") if "http-equiv" in meta]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert not [attributes for _, attributes in elements.tags if {"src", "href"} & attributes.keys()]


def test_what_was_added_and_what_is_missing_are_told_apart(chosen: Language) -> None:
    html = render(page_of())
    assert "<del>gone</del>" in html
    assert "<ins>new</ins>" in html


def test_a_part_that_is_empty_is_left_out(chosen: Language) -> None:
    full, bare = Elements(render(page_of())), Elements(render(Page("title", "verdict", "good")))
    for tag in ("table", "svg", "details", "dl", "pre"):
        assert full.named(tag)
        assert not bare.named(tag)
    assert "nothing was logged" not in "".join(full.texts)


def test_a_page_tells_its_language_and_has_one_heading_of_the_first_rank(chosen: Language) -> None:
    elements = Elements(render(page_of()))
    (html,) = elements.named("html")
    assert html["lang"] == {"zh": "zh-CN", "en": "en"}[chosen]
    assert len(elements.named("h1")) == 1
    assert all(cell.get("scope") in ("col", "row") for cell in elements.named("th"))


def test_a_group_is_folded_or_not_as_it_says_and_tells_its_counts_either_way(chosen: Language) -> None:
    groups = (Group("few", (), "law 3/4", is_open=True), Group("many", (), "law 41/41", is_open=False))
    elements = Elements(render(Page("title", "verdict", "good", groups=groups)))
    assert ["open" in attributes for attributes in elements.named("details")] == [True, False]
    assert {"law 3/4", "law 41/41"} <= set(elements.texts)


def test_lists_and_tables_of_a_run_stand_in_the_order_they_are_given(chosen: Language) -> None:
    facts = (Entries("first", (("a", "b"),)), Table("second", ("c",), (("d",),)), Entries("third", (("e", "f"),)))
    elements = Elements(render(Page("title", "verdict", "good", facts=facts)))
    shown = [text for text in elements.texts if text in {"first", "b", "second", "d", "third", "f"}]
    assert shown == ["first", "b", "second", "d", "third", "f"]
