"""A report's page, put together: verdict, figures, every answer, what the run wrote down, and how to go on."""

from collections.abc import Mapping
from pathlib import Path

from pangzhu import checkpoint, storage
from pangzhu.adapter import read_manifest
from pangzhu.compare.rows import ComparedRow
from pangzhu.engines import visible
from pangzhu.engines.transformers import BASE
from pangzhu.intervals import NOTHING
from pangzhu.messages import say, text
from pangzhu.questions import kind_name
from pangzhu.report.figures import Asked, content_table, kept_table, reached_by, right_table
from pangzhu.report.marking import Piece, mark_differences
from pangzhu.report.page import Group, Page, ShownAnswer, ShownQuestion, render
from pangzhu.report.run_facts import curves_of, entries_of
from pangzhu.report.verdict import Verdict, judge

REPORT = "report.html"


def write_report(file: Path, asked: Asked, adapters: Mapping[str, Path]) -> Path:
    """Write the page of what was asked, and say where.

    Args:
        file: of the page.
        asked: questions, answers, measures.
        adapters: the folder of each adapter by its name.
    """
    storage.write_atomically(file, render(build_page(asked, adapters)))
    say("report.written", file=file)
    return file


def write_run_report(folder: Path) -> Path:
    """Write the page of a run that was asked nothing yet, into its run folder, and say where."""
    file = folder / checkpoint.RUN / REPORT
    storage.write_atomically(file, render(build_run_page(folder)))
    say("report.written", file=file)
    return file


def build_run_page(folder: Path) -> Page:
    """The page of a run that was asked nothing yet: how many of its rows the published weights give back."""
    manifest = read_manifest(folder)
    num, total = (int(manifest.metrics[name]) for name in ("num_learned", "num_rows"))
    return Page(
        title=text("report.title", models=folder.resolve().name, base=manifest.base.name),
        verdict=text("report.rows_learned", num=num, total=total),
        tone="good" if num == total else "partly" if num else "bad",
        remarks=(text("report.nothing_asked"),),
        curves=curves_of(folder),
        lists=entries_of(folder),
        commands=_commands(folder),
    )


def build_page(asked: Asked, adapters: Mapping[str, Path]) -> Page:
    """The page of what was asked; the first adapter's verdict stands on top, the others' below it."""
    first, *others = [(name, judge(reached_by(asked, name))) for name in asked.adapters] or [(BASE, (_NO_ADAPTER,))]
    verdict, *remarks = first[1]
    folder = adapters.get(first[0])
    kept = kept_table(asked)
    return Page(
        title=text("report.title", models=", ".join(asked.adapters) or BASE, base=asked.base_name),
        verdict=_sentence(verdict),
        tone=verdict.tone,
        remarks=(*map(_sentence, remarks), *(f"{name}: {_sentence(found[0])}" for name, found in others)),
        tables=(right_table(asked), content_table(asked), *([kept] if kept else [])),
        curves=curves_of(folder) if folder else (),
        groups=tuple(_group(asked, kind) for kind in asked.kinds),
        lists=entries_of(folder) if folder else (),
        commands=_commands(folder) if folder else (),
    )


_NO_ADAPTER = Verdict("verdict.no_adapter", "partly")


def _sentence(verdict: Verdict) -> str:
    return text(verdict.key, **verdict.values)


def _group(asked: Asked, kind: str) -> Group:
    rows = [row for row in asked.rows if row.kind == kind]
    heading = text("report.group", kind=kind_name(kind), num=len(rows))
    return Group(heading, tuple(_question(asked, row) for row in rows))


def _question(asked: Asked, row: ComparedRow) -> ShownQuestion:
    answers = (_answer(row, model) for model in asked.models if model in row.answers)
    expected = None if row.expected is None else visible(row.expected)
    return ShownQuestion(visible(row.question), expected, tuple(answers))


def _answer(row: ComparedRow, model: str) -> ShownAnswer:
    answer = row.answers[model]
    words = visible(answer.text) or NOTHING
    note = "" if answer.ended else text("report.runs_on")
    if row.expected is None:
        return ShownAnswer(model, (Piece(words, "same"),), note=note)
    right = row.right(model)
    marked = model != BASE and not right  # the base knows nothing of the expected words
    pieces = mark_differences(visible(row.expected), words) if marked else (Piece(words, "same"),)
    mark = text("report.mark.right" if right else "report.mark.wrong")
    return ShownAnswer(model, pieces, mark, "right" if right else "wrong", note)


def _commands(folder: Path) -> tuple[tuple[str, str], ...]:
    """How to talk with the adapter, ask it more, and load it without Pangzhu."""
    name = folder.as_posix()
    loading = (
        "from peft import AutoPeftModelForCausalLM\n"
        "from transformers import AutoTokenizer\n\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({name!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})"
    )
    comparing = f'pangzhu compare --adapter "{name}" --dataset_path questions.jsonl --output_dir compared'
    return (
        (text("report.use.chat"), f'pangzhu chat --adapter "{name}"'),
        (text("report.use.compare"), comparing),
        (text("report.use.peft"), loading),
    )
