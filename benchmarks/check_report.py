"""`python -m benchmarks.check_report FOLDER`: every figure of a report, computed again from what the run wrote down.

It shares no code with the package: the answers are read from `run/answers.jsonl` and `run/recall/answers.jsonl`, curves,
steps, rows and tokens from `run/metrics.jsonl`, choices and drift from `run/evaluation.json`, and the page as a browser
would. What only a clock or a system could tell (minutes, memory) is held against `run/record.json`; hashes are taken of the
files again; the model card must say what the page says. Figures that are drawn by lot (intervals of gains, the floor of
ROUGE-L) are not drawn again. Exits 1 where a figure differs.
"""

import hashlib
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

KINDS = {"教过的": "taught", "换了说法的": "reworded", "没教过的": "untaught", "通用的": "general", "全部": "all"}
KINDS |= {"taught": "taught", "re-worded": "reworded", "untaught": "untaught", "general": "general", "all": "all"}
TAUGHT = ("taught", "reworded")
DASH = "–"
HEADINGS = {
    "What was answered rightly": "right",
    "What the answers hold": "content",
    "What was kept of the base": "kept",
}
HEADINGS |= {"答对了什么": "right", "回答里有什么": "content", "基座的本领还在吗": "kept"}
HEADINGS |= {
    "Plan against actual": "account",
    "Data": "data",
    "How long the rows are": "lengths",
    "Fingerprints": "hashes",
}
HEADINGS |= {"计划与实际": "account", "数据": "data", "每行有多长": "lengths", "指纹": "hashes"}
ROWS = ("rows trained", "参与训练的行数")
REPLAY = ("of these, replay", "其中 replay")
TOKENS = ("tokens of one pass", "每遍的词元")
LEARNED = ("of these, learned", "其中要学习的")
MOST_PIXELS = 0.11  # coordinates are written with one digit
ARTICLE = re.compile("第[零〇一二三四五六七八九十百千0-9]+条")


class Page(HTMLParser):
    """Rows of all tables and lists by the heading above them, points of all curves, and the verdict."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, list[list[str]]] = {}
        self.curves: list[list[tuple[float, float]]] = []
        self.verdict = ""
        self._heading = self._text = ""
        self._open: str | None = None  # the tag whose text is wanted
        self._in_question = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self._in_question = True
        elif tag in ("tr", "dt") and not self._in_question:
            self.sections.setdefault(self._heading, []).append([])
        elif tag == "polyline":
            points = (dict(attrs)["points"] or "").split()
            self.curves.append([(float(x), float(y)) for x, y in (point.split(",") for point in points)])
        if tag in ("h2", "td", "th", "dt", "dd", "strong"):
            self._open, self._text = tag, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._in_question = False
        if tag != self._open:
            return
        if tag == "h2":
            self._heading = self._text
        elif tag == "strong":
            self.verdict = self._text
        elif not self._in_question:
            self.sections[self._heading][-1].append(self._text)
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self._text += data

    def table(self, name: str) -> list[list[str]]:
        """The rows of a part, without its head; nothing where the page has no such part."""
        found = [rows for heading, rows in self.sections.items() if HEADINGS.get(heading) == name]
        return found[0][0 if name in ("data", "hashes") else 1 :] if found else []


def main() -> None:
    """Compare, print every figure, and exit 1 where one differs."""
    run = Path(sys.argv[1]) / "run"
    found = list(differences(run))
    for line in found or ["every figure is the one that the answers give"]:
        print(line)
    sys.exit(1 if found else 0)


def differences(run: Path) -> Iterator[str]:
    """A line for each figure of `run/report.html` that is not the one computed here."""
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    yield from _check_answers(page, run)
    yield from _check_run(page, run)
    yield from _check_card(page, run.parent / "README.md")


def _check_answers(page: Page, run: Path) -> Iterator[str]:
    """What answers, choices and drift give."""
    rows = [row for file in (run / "answers.jsonl", run / "recall" / "answers.jsonl") for row in _lines(file)]
    right, content, kept = (page.table(name) for name in ("right", "content", "kept"))
    asked = {(row["kind"], model) for row in rows for model in row["answers"]}
    for name, found in (("right answers", right), ("contents", content)):
        if {_key(cells) for cells in found} != asked:
            yield f"the table of {name} does not hold every kind and model that was asked"
    if not kept and (run / "evaluation.json").exists():
        yield "what was kept of the base was measured, and is not shown"
    for cells in right:
        yield from _compare(cells, _right_cells(rows, *_key(cells)), columns=(2, 3, 5))
        yield from _compare([cells[4].split(" ")[0]], [_gain(rows, *_key(cells))], columns=(0,))
    for cells in content:
        without_floor = [*cells[:2], cells[2].split(" ")[0], *cells[3:]]
        yield from _compare(without_floor, _content_cells(rows, *_key(cells)), columns=(2, 3, 4))
    yield from _check_kept(kept, run / "evaluation.json")
    taught = [row for row in rows if row["kind"] == "taught"]
    for number in (sum(_is_right(row, _adapter(rows)) for row in taught), len(taught)):
        if str(number) not in re.findall(r"\d+", page.verdict):
            yield f"the verdict does not say {number}: {page.verdict}"


def _check_run(page: Page, run: Path) -> Iterator[str]:
    """What the run logged, recorded and left on the disk."""
    lines = _lines(run / "metrics.jsonl")
    yield from _check_curves(page.curves, lines)
    logged = [line for line in lines if "loss" in line]
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    yield from _check_data(page, logged, _steps_per_pass(page, record))
    yield from _check_account(page, logged, record)
    shown = {cells[0]: cells[1] for cells in page.table("hashes")}
    for name in ("adapter_config.json", "adapter_model.safetensors", "prompt.json", "tokenizer.json"):
        if shown.get(name) != _sha256(run.parent / name)[:16]:
            yield f"the fingerprint of {name} is not that of the file"


def _check_data(page: Page, logged: list[dict[str, Any]], steps_per_pass: int) -> Iterator[str]:
    """Rows and tokens of one pass against the steps of the first one."""
    num_rows, num_replay, num_tokens = (_figure(page, label) for label in (ROWS, REPLAY, TOKENS))
    if num_rows != logged[-1]["num_rows"] + num_replay:
        yield f"the page says {num_rows} rows, {logged[-1]['num_rows']} were to be learned beside {num_replay}"
    if (counted := sum(int(cells[1].replace(",", "")) for cells in page.table("lengths"))) != num_rows:
        yield f"the page says {num_rows} rows, the bars of their lengths hold {counted}"
    first = [line for line in logged if line["step"] <= steps_per_pass]
    if first and first[-1]["step"] == steps_per_pass and sum(line["num_tokens"] for line in first) != num_tokens:
        yield f"the page says {num_tokens} tokens a pass, the steps of the first one read another number"
    share = f"({100 * _figure(page, LEARNED) / max(1, num_tokens):.0f}%)"
    if share not in _entry(page, LEARNED):
        yield f"the share of learned tokens is {share}"


def _check_account(page: Page, logged: list[dict[str, Any]], record: dict[str, Any]) -> Iterator[str]:
    """Planned and taken: steps and tokens counted again, minutes and memory as they were recorded."""
    planned, taken = record["planned"], record["taken"]
    passes, rest = divmod(logged[-1]["num_steps"], _steps_per_pass(page, record))
    num_rows = passes * _figure(page, ROWS) + rest * _rows_per_step(record)
    wanted = [
        (logged[-1]["num_steps"], logged[-1]["step"], "{:,}"),
        (round(_figure(page, TOKENS) / _figure(page, ROWS) * num_rows), sum(it["num_tokens"] for it in logged), "{:,}"),
        (_part(planned["seconds"], 60), _part(taken["seconds"], 60), "{:.2f}"),
        (_part(planned["memory"], 1e9), _part(taken["memory"], 1e9), "{:.2f}"),
    ]
    for cells, (before, after, form) in zip(page.table("account"), wanted, strict=True):
        share = f"{100 * after / before:.0f}%" if before and after is not None else DASH
        figures = [DASH if it is None else form.format(it) for it in (before, after)]
        yield from _compare([cells[0], "", *cells[1:]], [*figures, share], columns=(2, 3, 4))


def _check_card(page: Page, file: Path) -> Iterator[str]:
    """The model card says what the page says: the verdict, and every row of every table and list in its order."""
    card = re.sub(r"\\([\\`*<|\]])", r"\1", file.read_text(encoding="utf-8"))
    if f"**{page.verdict}**" not in card:
        yield "the card does not hold the page's verdict"
    lines = card.splitlines()
    for heading, rows in page.sections.items():
        for cells in rows:
            if f"| {' | '.join(cells)} |".replace("\n", "<br>") not in lines:
                yield f"the card lacks a row of {heading}: {' '.join(cells)}"


def _rows_per_step(record: dict[str, Any]) -> int:
    identity = record["identity"]
    return int(identity["per_device_train_batch_size"]) * int(identity["gradient_accumulation_steps"])


def _steps_per_pass(page: Page, record: dict[str, Any]) -> int:
    """As transformers' Trainer counts them: batches rounded up, then steps rounded up."""
    batches = math.ceil(_figure(page, ROWS) / int(record["identity"]["per_device_train_batch_size"]))
    return math.ceil(batches / int(record["identity"]["gradient_accumulation_steps"]))


def _entry(page: Page, labels: tuple[str, ...]) -> str:
    return next((cells[1] for cells in page.table("data") if cells[0] in labels), "0")


def _figure(page: Page, labels: tuple[str, ...]) -> int:
    return int(_entry(page, labels).split(" ")[0].replace(",", ""))


def _part(number: float | None, unit: float) -> float | None:
    return None if number is None else number / unit


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _key(cells: list[str]) -> tuple[str, str]:
    return KINDS[cells[0]], cells[1]


def _compare(shown: list[str], computed: list[str], *, columns: tuple[int, ...]) -> Iterator[str]:
    for column, value in zip(columns, computed, strict=True):
        if shown[column] != value:
            yield f"{' '.join(shown[:2])}: the page says {shown[column]}, the answers give {value}"


def _adapter(rows: list[dict[str, Any]]) -> str:
    return next(name for row in rows for name in row["answers"] if name != "base")


def _bare(text: str) -> str:
    """Letters and figures alone, full-width forms folded."""
    folded = unicodedata.normalize("NFKC", text)
    kept = (char for char in folded if not char.isspace())
    return "".join(char for char in kept if unicodedata.category(char)[0] != "P" or char in "%‰")


def _is_right(row: dict[str, Any], model: str) -> bool:
    return _bare(row["answers"][model]["text"]) == _bare(row["expected"])


def _of(rows: list[dict[str, Any]], kind: str, model: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind and model in row["answers"]]


def _right_cells(rows: list[dict[str, Any]], kind: str, model: str) -> list[str]:
    own = _of(rows, kind, model)
    num, total = sum(_is_right(row, model) for row in own), len(own)
    ended = sum(row["answers"][model]["ended"] for row in own)
    low, high = _wilson(num, total)
    return [f"{num}/{total}", f"{100 * num / total:.0f}% [{100 * low:.0f}–{100 * high:.0f}]", f"{ended}/{total}"]


def _wilson(num: int, total: int) -> tuple[float, float]:
    """Roots of (p - num/total)^2 = z^2 p (1 - p) / total."""
    z = 1.959964
    share = num / total
    a, b, c = 1 + z * z / total, -(2 * share + z * z / total), share * share
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return abs((-b - root) / (2 * a)), (-b + root) / (2 * a)


def _gain(rows: list[dict[str, Any]], kind: str, model: str) -> str:
    both = [row for row in _of(rows, kind, model) if "base" in row["answers"]]
    if model == "base" or not both:
        return DASH
    gained = sum(_is_right(row, model) - _is_right(row, "base") for row in both)
    return f"{round(100 * gained / len(both)):+d}"


def _content_cells(rows: list[dict[str, Any]], kind: str, model: str) -> list[str]:
    own = _of(rows, kind, model)
    pairs = [(row["answers"][model]["text"], row["expected"]) for row in own]
    rouge = sum(_rouge(_bare(answer), _bare(expected)) for answer, expected in pairs) / len(own)
    citing = [(set(ARTICLE.findall(answer)), set(ARTICLE.findall(expected))) for answer, expected in pairs]
    asked = [(mine, wanted) for mine, wanted in citing if wanted]
    cited = f"{sum(mine == wanted for mine, wanted in asked)}/{len(asked)}" if asked else DASH
    taught = {_bare(row["expected"]) for row in rows if row["kind"] in TAUGHT}
    recited = sum(_bare(answer) in taught for answer, _ in pairs)
    return [f"{100 * rouge:.0f}", cited, f"{recited}/{len(own)}" if kind == "untaught" else DASH]


def _rouge(answer: str, expected: str) -> float:
    """F1 of the longest common subsequence, by the table of the textbooks."""
    before = [0] * (len(expected) + 1)
    for char in answer:
        row = [0]
        for place, other in enumerate(expected):
            row.append(before[place] + 1 if char == other else max(before[place + 1], row[-1]))
        before = row
    return 2 * before[-1] / max(1, len(answer) + len(expected))


def _check_kept(table: list[list[str]], file: Path) -> Iterator[str]:
    """Choices and drift against the file that keeps them."""
    if not table:
        return
    kept = json.loads(file.read_text(encoding="utf-8"))
    shown = "\n".join(" ".join(cells) for cells in table)
    wanted = [f"{share['num_right']}/{share['num_rows']}" for share in kept["choices"]]
    for drift in kept["drift"]:
        wanted += [f"{100 * drift['agreement']['value']:.1f}%", f"{drift['kl']['value']:.3f}", str(drift["num_tokens"])]
    yield from (f"what was kept of the base lacks {figure}" for figure in wanted if figure not in shown)


def _check_curves(curves: list[list[tuple[float, float]]], lines: list[dict[str, Any]]) -> Iterator[str]:
    """Losses of training steps and of validation rows share their axes; then the learned rows."""
    values = {
        name: [float(line[name]) for line in lines if line.get(name) is not None]
        for name in ("loss", "eval_loss", "learned")
    }
    shown = dict(zip((name for name, found in values.items() if found), curves, strict=False))
    if missing := [name for name, found in values.items() if found and name not in shown]:
        yield f"what was logged is not drawn: {', '.join(missing)}"
        return
    for name, curve in shown.items():
        yield from _check_curve(name, curve, values[name])
    if "eval_loss" in shown:
        yield from _check_curve("both", shown["loss"] + shown["eval_loss"], values["loss"] + values["eval_loss"])


def _check_curve(name: str, curve: list[tuple[float, float]], values: list[float]) -> Iterator[str]:
    """Heights on the page are one straight line of the logged values."""
    if len(curve) != len(values):
        yield f"the curve of {name} has {len(curve)} points, {len(values)} were logged"
        return
    heights = [y for _, y in curve]
    low, high = values.index(min(values)), values.index(max(values))
    spread = values[high] - values[low]
    for value, height in zip(values, heights, strict=True):
        share = (value - values[low]) / spread if spread else 0.0
        if abs(heights[low] + share * (heights[high] - heights[low]) - height) > MOST_PIXELS:
            yield f"the curve of {name} does not show {value}"


if __name__ == "__main__":
    main()
