"""`python -m benchmarks.summary`: the table (Markdown) and the figure (SVG) from the raw CSV. Nothing is typed by hand."""

import argparse
import csv
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

from benchmarks.contestants import OURS
from pangzhu.messages import Language

HERE = Path(__file__).parent
NUM_RESAMPLES = 2000
FRONT_MODEL = "qwen2.5-coder-0.5b"
GIGABYTE = 10**9
PAGES: dict[Language, Path] = {"en": HERE.parent / "docs" / "fast.md", "zh": HERE.parent / "docs" / "fast.zh-CN.md"}
FRONT_PAGES: dict[Language, Path] = {"en": HERE.parent / "README.md", "zh": HERE.parent / "README.zh-CN.md"}
FRONT_HEADS: dict[Language, str] = {
    "en": "| the same rows, the same optimizer steps | time, Pangzhu = 1 | pairs | peak memory |\n",
    "zh": "| 同样的行，同样的优化步 | 用时，Pangzhu = 1 | 对数 | 内存峰值 |\n",
}
HEADS: dict[Language, str] = {
    "en": "| model | workload | | precision | seconds against Pangzhu's (median of pairs, 95%) | pairs | tokens/s | of the "
    "GEMM limit | peak memory |\n",
    "zh": "| 模型 | 数据 | | 精度 | 用时与 Pangzhu 之比（成对中位数，95%） | 对数 | 词元/秒 | 达到 GEMM 上限 | 内存峰值 |\n",
}
PROCESSOR: dict[Language, str] = {"en": "Processor with ", "zh": "处理器指令集："}
BAR_HEIGHT, BAR_WIDTH, LABEL_WIDTH = 26, 420, 300


@dataclass(frozen=True, slots=True)
class Line:
    """One contestant on one workload of one model, paired with Pangzhu.

    Args:
        ratios: its seconds over Pangzhu's, a pair of blocks each.
        tokens_per_second: real tokens, median.
        share_of_limit: useful operations over the rate of matrix products in the same blocks, median.
        peak_rss: bytes of a fresh process, median.
    """

    model: str
    workload: str
    name: str
    instruction_set: str
    precision: str
    ratios: tuple[float, ...]
    tokens_per_second: float
    share_of_limit: float
    peak_rss: float

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the median ratio."""
        draw = random.Random(0)
        medians = sorted(median(draw.choices(self.ratios, k=len(self.ratios))) for _ in range(NUM_RESAMPLES))
        return medians[int(0.025 * NUM_RESAMPLES)], medians[int(0.975 * NUM_RESAMPLES) - 1]


def read_lines(file: Path) -> list[Line]:
    """All pairs of a CSV; Pangzhu's own line, with ratio 1, first of each workload."""
    pairs: dict[tuple[str, ...], dict[str, dict[str, dict[str, str]]]] = defaultdict(lambda: defaultdict(dict))
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            key = (row["instruction_set"], row["model"], row["workload"], row["other"])
            pairs[key][row["block"]][row["contestant"]] = row
    lines: list[Line] = []
    for workload in dict.fromkeys(key[:3] for key in pairs):
        others = {key[3]: blocks for key, blocks in pairs.items() if key[:3] == workload}
        complete = {
            other: [block for block in blocks.values() if len(block) == 2 and OURS in block]
            for other, blocks in others.items()
        }
        own = [block[OURS] for blocks in complete.values() for block in blocks]
        if own:
            lines.append(_line(OURS, own, [1.0]))
        for other, blocks in complete.items():
            if blocks:
                ratios = [float(block[other]["seconds"]) / float(block[OURS]["seconds"]) for block in blocks]
                lines.append(_line(other, [block[other] for block in blocks], ratios))
    return lines


def _line(name: str, rows: Sequence[dict[str, str]], ratios: Sequence[float]) -> Line:
    seconds = [float(row["seconds"]) for row in rows]
    return Line(
        rows[0]["model"],
        rows[0]["workload"],
        name,
        rows[0]["instruction_set"],
        rows[0]["precision"],
        tuple(ratios),
        median(int(row["tokens"]) / second for row, second in zip(rows, seconds, strict=True)),
        median(
            float(row["useful_gflop"]) / second / float(row["gflops_limit"])
            for row, second in zip(rows, seconds, strict=True)
        ),
        median(int(row["peak_rss"]) for row in rows),
    )


def table(lines: Sequence[Line], language: Language = "en") -> str:
    """Markdown: a table a processor, one row a contestant and workload."""
    parts = []
    for processor in dict.fromkeys(line.instruction_set for line in lines):
        rows = "".join(_table_row(line) for line in lines if line.instruction_set == processor)
        parts.append(
            f"{PROCESSOR[language]}`{processor}`\n\n{HEADS[language]}|---|---|---|---|---|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def _table_row(line: Line) -> str:
    return (
        f"| {line.model.removeprefix('packaged:')} | {line.workload} | {line.name} | {line.precision} | {_ratio(line)} | "
        f"{'' if line.name == OURS else len(line.ratios)} | {line.tokens_per_second:.0f} | {line.share_of_limit:.0%} | "
        f"{line.peak_rss / GIGABYTE:.1f} GB |\n"
    )


def _ratio(line: Line) -> str:
    """The median with its interval; a single pair has none."""
    if line.name == OURS:
        return "1"
    low, high = line.interval
    interval = f" ({low:.2f} to {high:.2f})" if len(line.ratios) > 1 else ""
    return f"{median(line.ratios):.2f}{interval}"


def front_table(lines: Sequence[Line], language: Language = "en") -> str:
    """Markdown for the front page: the mixed workload on the half-billion model, on the processor with the most pairs, the
    slowest first."""
    chosen = [line for line in lines if line.workload == "mixed" and FRONT_MODEL in line.model and not _ablation(line)]
    if not chosen:
        return ""
    pairs: Counter[str] = Counter()
    for line in chosen:
        pairs[line.instruction_set] += len(line.ratios)
    processor = pairs.most_common(1)[0][0]
    rows = "".join(
        f"| {line.name} ({line.precision}) | {median(line.ratios):.1f} | {'' if line.name == OURS else len(line.ratios)} | "
        f"{line.peak_rss / GIGABYTE:.1f} GB |\n"
        for line in sorted(chosen, key=lambda line: -median(line.ratios))
        if line.instruction_set == processor
    )
    return f"{PROCESSOR[language]}`{processor}`\n\n{FRONT_HEADS[language]}|---|---|---|---|\n{rows}"


def _ablation(line: Line) -> bool:
    return line.name.startswith(f"{OURS} without")


def put_into(page: Path, content: str, *, mark: str = "results") -> None:
    """Replace what stands between the page's marks of that name."""
    start, end = f"<!-- {mark}:start -->", f"<!-- {mark}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no {start} and {end}")
    page.write_text(f"{before}{start}\n{content}{end}{after}", encoding="utf-8")


def figure(lines: Sequence[Line]) -> str:
    """SVG: a bar a contestant, as long as the time it takes, under a heading for each processor, model and workload."""
    most = max(median(line.ratios) for line in lines)
    parts: list[str] = []
    above = None
    for line in lines:
        heading = f"{line.workload}, {line.model.removeprefix('packaged:')}, {line.instruction_set}"
        if heading != above:
            parts.append(_text(8, len(parts), heading, style="font-weight: bold"))
            above = heading
        parts.append(_bar(line, len(parts), most))
    height, width = len(parts) * BAR_HEIGHT + 16, LABEL_WIDTH + BAR_WIDTH + 60
    style = "font: 13px sans-serif; fill: #222; background: #fff"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="{style}" role="img"><title>Seconds for the same rows; Pangzhu = 1</title>{"".join(parts)}</svg>\n'
    )


def _bar(line: Line, number: int, most: float) -> str:
    ratio = median(line.ratios)
    color, length = "#b5432a" if line.name == OURS else "#8a97a6", BAR_WIDTH * ratio / most
    return (
        _text(LABEL_WIDTH - 8, number, line.name, anchor="end")
        + f'<rect x="{LABEL_WIDTH}" y="{number * BAR_HEIGHT + 8}" width="{length:.1f}" height="18" fill="{color}"/>'
        + _text(LABEL_WIDTH + length + 6, number, f"{ratio:.1f}")
    )


def _text(x: float, number: int, content: str, *, anchor: str = "start", style: str = "") -> str:
    y = number * BAR_HEIGHT + 22
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" style="{style}">{escape(content)}</text>'


def main() -> None:
    """Write the table into the pages, the figure beside the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "blocks.csv")
    file = parser.parse_args().csv
    lines = read_lines(file)
    for language, page in PAGES.items():
        put_into(page, table(lines, language))
        put_into(FRONT_PAGES[language], front_table(lines, language))
    file.with_suffix(".svg").write_text(figure([line for line in lines if not _ablation(line)]), encoding="utf-8")
    print(table(lines))


if __name__ == "__main__":
    main()
