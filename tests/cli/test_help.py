"""Breaking sentences into lines: no line too wide, no word lost, punctuation where it may stand."""

import pytest
from rich.cells import cell_len

from pangzhu.cli.help import Section, page, wrap

SENTENCES = [
    "像训练时一样读取数据集，逐行报告所有问题（包括 BOM、GB18030）。[整数，默认 8]",
    "Read a dataset as training would and report every problem by line. [path, default a/b/c]",
    "混排 mixed 文字：Qwen/Qwen2.5-0.5B-Instruct，连不上任何模型站时改用随包提供的 Qwen。",
    "",
    "一",
]


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("width", [30, 47, 80])
def test_lines_fit_and_nothing_is_lost(sentence: str, width: int) -> None:
    lines = wrap(sentence, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == sentence.replace(" ", "")


@pytest.mark.parametrize("width", range(30, 60))
def test_punctuation_stays_with_its_word(width: int) -> None:
    for line in wrap(SENTENCES[0], width):
        assert line[0] not in "，。；：、）]"
        assert line[-1] not in "（["


def test_a_word_wider_than_the_line_stays_whole() -> None:
    assert wrap("a " + "x" * 50 + " b", 20) == ["a", "x" * 50, "b"]


def test_a_long_name_has_a_line_of_its_own() -> None:
    lines = page("x", "about", [Section("T", [("--" + "n" * 40, "sentence"), ("--a", "b")])]).splitlines()
    assert "  --" + "n" * 40 in lines
    assert any(line.strip() == "sentence" for line in lines)
