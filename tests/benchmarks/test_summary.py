"""Table and figure say what the raw figures say: paired ratios, their median, and nothing of a pair that is not whole."""

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import FIELDS
from benchmarks.contestants import OURS
from benchmarks.summary import figure, front_table, put_into, read_lines, table

OTHER = "TRL as it comes"


def write_blocks(file: Path, blocks: list[tuple[str, int, float]], processors: tuple[str, ...] = ("avx2",)) -> Path:
    """Blocks as `(contestant, number, seconds)`, on each of the processors."""
    common: dict[str, Any] = dict.fromkeys(FIELDS, "") | {
        "model": "packaged:tiny", "workload": "mixed", "other": OTHER, "precision": "float32",
        "tokens": 1000, "useful_gflop": 500.0, "gflops_limit": 100.0, "peak_rss": 2**31,
    }  # fmt: skip
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, FIELDS)
        writer.writeheader()
        for processor in processors:
            for contestant, number, seconds in blocks:
                row = {"contestant": contestant, "block": number, "seconds": seconds, "instruction_set": processor}
                writer.writerow(common | row)
    return file


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    drifting = [(10.0, 40.0), (20.0, 60.0), (10.0, 50.0)]
    rows = [(name, n, s) for n, pair in enumerate(drifting) for name, s in zip((OURS, OTHER), pair, strict=True)]
    return write_blocks(tmp_path / "blocks.csv", [*rows, (OURS, 3, 1.0)])


def test_a_ratio_is_of_blocks_that_ran_side_by_side(blocks: Path) -> None:
    """Their median is 4, whatever the machine's speed was; the ratio of the sums would be another."""
    ours, other = read_lines(blocks)
    assert other.ratios == (4.0, 3.0, 5.0)
    assert (ours.name, ours.ratios) == (OURS, (1.0,))


def test_a_block_without_its_partner_does_not_count(blocks: Path) -> None:
    ours, other = read_lines(blocks)
    assert len(other.ratios) == 3
    assert ours.tokens_per_second == 100.0  # the lone block of one second is left out


def test_the_share_of_the_limit_is_useful_work_over_the_rate_of_its_own_block(blocks: Path) -> None:
    ours, _ = read_lines(blocks)
    assert ours.share_of_limit == pytest.approx(500 / 10 / 100)


def test_the_interval_holds_the_median_and_is_the_same_each_time(blocks: Path) -> None:
    _, other = read_lines(blocks)
    low, high = other.interval
    assert 3.0 <= low <= 4.0 <= high <= 5.0
    assert other.interval == (low, high)


def test_the_table_stands_between_its_marks_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    body = "before\n<!-- a:start -->\n{a}<!-- a:end -->\nmiddle\n<!-- b:start -->\n{b}<!-- b:end -->\nafter\n"
    page.write_text(body.format(a="old\n", b="kept\n"), encoding="utf-8")
    put_into(page, "new\n", mark="a")
    assert page.read_text(encoding="utf-8") == body.format(a="new\n", b="kept\n")


def test_a_page_without_the_marks_is_an_error_and_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="curves:start"):
        put_into(page, "new\n", mark="curves")
    assert page.read_text(encoding="utf-8") == "before\n"


def test_the_table_and_the_figure_name_everybody(blocks: Path) -> None:
    lines = read_lines(blocks)
    assert "| tiny | mixed | TRL as it comes | float32 | 4.00 (3.00 to 5.00) | 3 |" in table(lines)
    assert table(lines).startswith("Processor with `avx2`\n")
    assert figure(lines).count("<rect") == 2


def test_a_single_pair_has_no_interval(tmp_path: Path) -> None:
    lines = read_lines(write_blocks(tmp_path / "blocks.csv", [(OURS, 0, 1.0), (OTHER, 0, 3.0)]))
    assert "| float32 | 3.00 | 1 |" in table(lines)


def test_the_front_page_has_the_slowest_first_and_no_ablation(tmp_path: Path) -> None:
    file = write_blocks(tmp_path / "blocks.csv", [(OURS, 0, 1.0), (OTHER, 0, 3.0)])
    content = file.read_text(encoding="utf-8").replace("packaged:tiny", "packaged:qwen2.5-coder-0.5b-instruct")
    file.write_text(content + content.split("\n", 1)[1].replace(OTHER, "pangzhu without lora"), encoding="utf-8")
    names = [row.split("|")[1].strip() for row in front_table(read_lines(file)).splitlines()[4:]]
    assert names == ["TRL as it comes (float32)", "pangzhu (float32)"]


def test_each_processor_has_its_own_pairs(tmp_path: Path) -> None:
    """The same block on two machines is two blocks, and no pair is made across them."""
    file = write_blocks(tmp_path / "blocks.csv", [(OURS, 0, 1.0), (OTHER, 0, 3.0)], ("avx2", "avx512"))
    lines = read_lines(file)
    assert [(line.instruction_set, line.name, line.ratios) for line in lines] == [
        ("avx2", OURS, (1.0,)),
        ("avx2", OTHER, (3.0,)),
        ("avx512", OURS, (1.0,)),
        ("avx512", OTHER, (3.0,)),
    ]
    assert table(lines).count("| TRL as it comes |") == 2
    assert figure(lines).count("font-weight: bold") == 2
