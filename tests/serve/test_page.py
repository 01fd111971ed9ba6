"""The page of `pangzhu serve` as a file: complete in itself, nothing in it that its policy would refuse, both languages alike."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import html5lib
import pytest

import pangzhu
from pangzhu.messages import LANGUAGES

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(pangzhu.__file__).parent / "serve" / "web" / "index.html"
PAGE = FILE.read_text(encoding="utf-8")
SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]
TEXTS = json.loads(re.search(r"const TEXTS = (\{.*?\n  \});", SCRIPT, re.DOTALL)[1])  # type: ignore[index]
USED = {
    *re.findall(r'data-(?:text|label|placeholder)="(\w+)"', PAGE),
    *re.findall(r'(?:say\(|tell\([^;]*?, |Fault\(|failing\(|\[|\? |: )"([a-z_]+)"', SCRIPT),
    *re.findall(r'const KINDS = \["(\w+)", "(\w+)", "(\w+)", "(\w+)"\]', SCRIPT)[0],
}
NAMESPACE = "http://www.w3.org/2000/svg"
MOST_FUNCTION_LINES = 60


def test_the_page_is_html_without_a_parse_error() -> None:
    html5lib.HTMLParser(strict=True).parse(PAGE)


def test_the_page_has_one_script_and_one_style_for_its_policy_to_name() -> None:
    assert re.findall(r"<(?:script|style)\b[^>]*>", PAGE) == ["<style>", "<script>"]


def test_the_page_names_nothing_of_another_server() -> None:
    assert set(re.findall(r"\w+://[^\s\"'>]+", PAGE)) == {NAMESPACE}
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|import\(|//\w""", PAGE.replace(NAMESPACE, ""))


def test_nothing_in_the_markup_needs_an_exception_from_the_policy() -> None:
    markup = PAGE.replace(SCRIPT, "")
    assert not re.search(r"\son\w+\s*=|\sstyle\s*=|javascript:", markup, re.IGNORECASE)


@pytest.mark.parametrize(
    "word",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment", "DOMParser", "srcdoc",
     "eval", "Function(", "localStorage", "sessionStorage", "cookie", "setAttribute(\"on", ".style"],
)  # fmt: skip
def test_the_script_makes_no_markup_runs_no_text_and_keeps_nothing(word: str) -> None:
    assert word not in SCRIPT


def test_both_languages_say_the_same_things() -> None:
    assert set(TEXTS) == set(LANGUAGES)
    assert TEXTS["zh"].keys() == TEXTS["en"].keys()
    assert all(text.strip() == text != "" for texts in TEXTS.values() for text in texts.values())
    blanks = {name: {key: re.findall(r"\{\w+\}", text) for key, text in texts.items()} for name, texts in TEXTS.items()}
    assert {key: sorted(names) for key, names in blanks["zh"].items()} == {
        key: sorted(names) for key, names in blanks["en"].items()
    }


def test_every_text_is_used() -> None:
    assert TEXTS["en"].keys() - USED == set()


def test_no_function_of_the_script_is_long() -> None:
    """A function of the outermost level ends where its own indentation comes back."""
    lines = SCRIPT.splitlines()
    begins = [
        number for number, line in enumerate(lines) if re.match(r"  (?:const \w+ = .*=>|async function).*[{(]$", line)
    ]
    ends = [next(n for n in range(begin + 1, len(lines)) if re.match(r"  [})]", lines[n])) for begin in begins]
    assert len(begins) > 20
    assert max(end - begin + 1 for begin, end in zip(begins, ends, strict=True)) <= MOST_FUNCTION_LINES


def test_the_wheel_carries_the_page() -> None:
    """The whole package folder goes into the wheel, but for what git leaves out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert any(FILE.is_relative_to(ROOT / package) for package in wheel["packages"])
    assert "exclude" not in wheel
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    parts = FILE.relative_to(ROOT).parts
    assert not [pattern for pattern in ignored if pattern.strip("/*.") in parts or pattern.endswith(".html")]
