"""The page holds every row, obeys none of them, and needs nothing from elsewhere."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pangzhu.check import check, page
from pangzhu.check.result import CheckResult
from pangzhu.config import CheckConfig
from pangzhu.errors import UsageError
from pangzhu.messages import catalogue, set_language
from tests.conftest import alpaca

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]><svg/onload=alert(1)>",
    "\u2028\u2029\"'&lt;`${alert(1)}",
    "a\u202eb\x7fc\ue000d\uffff",
]


class Tags(HTMLParser):
    """The elements of a page with their attributes, and the content of each script and style."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[str] = []
        self.inside = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.contents.append("")
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.contents[-1] += data

    def scripts(self) -> list[tuple[dict[str, str | None], str]]:
        pairs = zip(self.found, self.contents, strict=True)
        return [(attributes, content) for (tag, attributes), content in pairs if tag == "script"]


@pytest.fixture
def written(tmp_path: Path, model_folder: Callable[[str], Path]) -> Callable[..., tuple[CheckResult, Tags]]:
    """Check some rows and read the page."""

    def write(pairs: list[tuple[str, str]], **options: Any) -> tuple[CheckResult, Tags]:
        file = tmp_path / "page.html"
        config = CheckConfig(
            model_name_or_path=str(model_folder("qwen2")),
            dataset_path=alpaca(tmp_path / "rows.jsonl", pairs),
            html=file,
            **options,
        )
        return check(config), Tags(file.read_text(encoding="utf-8"))

    return write


def data_of(tags: Tags) -> dict[str, Any]:
    [content] = [json.loads(content) for attributes, content in tags.scripts() if attributes.get("id") == "data"]
    assert isinstance(content, dict)
    return content


def rows_of(tags: Tags) -> list[list[int | str]]:
    blocks = [
        (attributes, json.loads(content)) for attributes, content in tags.scripts() if attributes.get("class") == "rows"
    ]
    assert all(int(attributes["data-rows"] or 0) == len(rows) for attributes, rows in blocks)
    return [row for _, rows in blocks for row in rows]


def shown(tags: Tags, row: list[int | str]) -> str:
    """A row's text as the page's script puts it together."""
    pieces = data_of(tags)["pieces"]
    texts = [joined for part in row for _, joined in (pieces[part] if isinstance(part, int) else [(part[0], part[1:])])]
    return "".join(texts).replace("\ue000", "")


# --- what it holds -----------------------------------------------------------------------------------------------


def test_every_row_is_there_with_its_tokens_and_figures(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    pairs = [(f"question {number}?", f"答{number}。") for number in range(1100)]
    result, tags = written(pairs)
    rows, index = rows_of(tags), data_of(tags)["index"]
    assert len(rows) == 1100
    assert all(
        f"user\n{question}<|im_end|>" in shown(tags, row) for row, (question, _) in zip(rows, pairs, strict=True)
    )
    assert index["line"] == index["row"] == list(range(1, 1101))
    assert index["tokens"] == result.tally.lengths.tolist()
    assert index["learned"] == result.tally.supervised.tolist()


def test_what_is_learned_is_told_by_capitals(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    _, tags = written([("q", "ab")])
    [row] = rows_of(tags)
    assert [part for part in row if isinstance(part, str)] == ["pq", "Pa\ue000b"]
    assert data_of(tags)["pieces"][-1] == [["C", "<|im_end|>"]]


def test_what_the_template_writes_stands_once_for_all_rows(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    _, tags = written([(f"q{number}", "a") for number in range(50)])
    assert len(data_of(tags)["pieces"]) == 3


def test_problems_and_warnings_are_there_with_their_rows(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    _, tags = written([("q", "a"), ("q", "a"), ("r", ""), ("s", "b" * 600)], max_seq_length=300)
    data = data_of(tags)
    assert [(finding["key"], finding["line"]) for finding in data["findings"]] == [
        ("finding.empty_text", 3),
        ("finding.too_long", 4),
    ]
    assert [kind["rows"] for kind in data["warnings"]] == [[[2, 2, data["warnings"][0]["rows"][0][2]]]]
    assert len(rows_of(tags)) == 2


def test_a_dataset_without_a_good_row_has_a_page_too(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    result, tags = written([("q", "")])
    assert (rows_of(tags), data_of(tags)["distributions"], result.exit_code) == ([], [], 3)


@pytest.mark.parametrize(("limit", "value"), [("MOST_ROWS", 600), ("MOST_BYTES", 1)])
def test_rows_that_are_not_put_in_are_counted_on_the_page_and_on_the_screen(
    limit: str,
    value: int,
    written: Callable[..., tuple[CheckResult, Tags]],
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    monkeypatch.setattr(page, limit, value)
    result, tags = written([(f"q{number}", "a") for number in range(700)])
    num_rows = len(rows_of(tags))
    assert num_rows == (600 if limit == "MOST_ROWS" else 0)
    assert len(result.tally.lengths) == 700
    [caution] = data_of(tags)["cautions"]
    assert f"{num_rows} rows" in caution
    assert f"{700 - num_rows} more" in caution
    assert caution in said


def test_a_large_page_says_so(
    written: Callable[..., tuple[CheckResult, Tags]], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(page, "LARGE", 1000)
    _, tags = written([("q", "a")])
    assert [caution for caution in data_of(tags)["cautions"] if "MB" in caution] == [said[-1]]


def test_a_page_with_personal_data_warns_of_passing_it_on(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    assert len(data_of(written([("q", "13800138000")])[1])["cautions"]) == 1


# --- what it must not do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_row_adds_no_element_and_comes_back_as_it_is(
    hostile: str, written: Callable[..., tuple[CheckResult, Tags]]
) -> None:
    _, tame = written([("question", "answer")], system="system")
    _, tags = written([(hostile, hostile)], system=hostile)
    assert [tag for tag, _ in tags.found] == [tag for tag, _ in tame.found]
    assert shown(tags, rows_of(tags)[0]).count(hostile.replace("\ue000", "\ufffd")) == 3


def test_a_hostile_file_name_adds_no_element() -> None:
    head, tail = page._skeleton("<b onclick=alert(1)>&quot;</title></style>.jsonl")
    tame = page._skeleton("rows.jsonl")
    assert [tag for tag, _ in Tags(head + tail).found] == [tag for tag, _ in Tags("".join(tame)).found]


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(
    written: Callable[..., tuple[CheckResult, Tags]],
) -> None:
    _, tags = written([("q", "a")])
    [policy] = [a["content"] or "" for _, a in tags.found if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    style = next(content for (tag, _), content in zip(tags.found, tags.contents, strict=True) if tag == "style")
    [script] = [content for attributes, content in tags.scripts() if "type" not in attributes]
    for content, rule in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_page_asks_for_nothing_from_elsewhere(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    _, tags = written([("q", "a")])
    assert [a for _, a in tags.found if a.keys() & {"src", "href", "action", "srcset", "style", "onclick"}] == []
    own = page._part("page.js") + page._part("page.css")
    assert set(re.findall(r"https?://[^\s\"']+", own)) <= {"http://www.w3.org/2000/svg"}
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|fetch\(|XMLHttp|url\(|@import", own)
        == []
    )


def test_everything_that_is_filled_in_has_a_label(written: Callable[..., tuple[CheckResult, Tags]]) -> None:
    html = page._part("page.html")
    inputs = re.findall(r"<(?:select|input)\b", html)
    assert len(inputs) == len(re.findall(r"<label>[^<]+<(?:select|input)\b", html)) == 5
    assert len(re.findall(r"<nav [^>]*aria-label=", html)) == 2


# --- language and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "tag"), [("en", "en"), ("zh", "zh-CN")])
def test_the_page_speaks_the_language_in_force(
    language: Any, tag: str, written: Callable[..., tuple[CheckResult, Tags]]
) -> None:
    set_language(language)
    _, tags = written([("q", "a")])
    assert tags.found[0] == ("html", {"lang": tag})
    texts = data_of(tags)["texts"]
    assert texts["page.reset"] == catalogue(language)["page.reset"]
    assert texts["page.page_of"] == catalogue(language)["page.page_of"]


def test_every_text_of_the_page_is_handed_to_it() -> None:
    asked = set(
        re.findall(r"said\(\"(page\.[a-z_]+)\"|\? \"(page\.[a-z_]+)\" : \"(page\.[a-z_]+)\"", page._part("page.js"))
    )
    used = {key for found in asked for key in found if key}
    used |= set(re.findall(r"\{\{(page\.[a-z_]+)\}\}", page._part("page.html")))
    assert used == set(page.TEXTS) | set(page.FILLED_IN)


@pytest.mark.parametrize("name", ["rows.jsonl", "page", "page.html.json"])
def test_a_page_is_written_only_to_a_name_that_ends_in_html(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        CheckConfig(html=Path(name))
    assert refused.value.key == "error.config.not_html"


def test_a_check_that_fails_leaves_the_old_page_and_nothing_half_written(
    written: Callable[..., tuple[CheckResult, Tags]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written([("q", "a")])
    before = (tmp_path / "page.html").read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page.Page, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        written([("r", "b")])
    assert (tmp_path / "page.html").read_bytes() == before
    assert [file.name for file in tmp_path.glob("*.tmp")] == []


def test_the_parts_of_the_page_are_in_the_package() -> None:
    folder = Path(page.__file__).parent
    assert {file.suffix for file in folder.iterdir()} >= {".html", ".css", ".js"}
