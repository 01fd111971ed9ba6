"""A report's page, put together: verdict, figures, every answer, what the run wrote down, and how to go on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pangzhu import checkpoint, storage
from pangzhu.adapter import BaseRecord
from pangzhu.compare.rows import ComparedRow
from pangzhu.engines import visible
from pangzhu.engines.named_models import BASE
from pangzhu.intervals import NOTHING
from pangzhu.messages import say, text
from pangzhu.questions import kind_name
from pangzhu.report.figures import Asked, content_table, kept_table, reached_by, right_table, shown_counts
from pangzhu.report.marking import Piece, mark_differences
from pangzhu.report.page import Group, Page, ShownAnswer, ShownQuestion, render
from pangzhu.report.run_facts import RunFacts, curves_of, facts_of, losses_of, shown_base
from pangzhu.report.verdict import Verdict, judge

REPORT = "report.html"
MOST_OPEN = 40  # questions of a kind; more are folded away, so that the page is not scrolled for minutes


def write_report(file: Path, page: Page) -> Path:
    """Write a page, and say where."""
    storage.write_atomically(file, render(page))
    say("report.written", file=file)
    return file


def write_run_report(folder: Path) -> Path:
    """Write the page of a run that was asked nothing yet, into its run folder, and say where."""
    return write_report(folder / checkpoint.RUN / REPORT, build_run_page(RunFacts.read(folder)))


def build_run_page(run: RunFacts) -> Page:
    """The page of a run that was asked nothing yet: how many of its rows the published weights give back."""
    num, total = (int(run.manifest.metrics[name]) for name in ("num_learned", "num_rows"))
    return Page(
        title=text("report.title", models=run.folder.resolve().name, base=shown_base(run.manifest.base.name)),
        verdict=text("report.rows_learned", num=num, total=total),
        tone="good" if num == total else "partly" if num else "bad",
        remarks=(text("report.nothing_asked"),),
        curves=curves_of(run.folder),
        facts=facts_of(run),
        commands=commands_for(run.folder.as_posix(), run.manifest.base),
    )


def build_page(asked: Asked, adapters: Mapping[str, Path]) -> Page:
    """The page of what was asked; the first adapter's verdict stands on top, the others' below it.

    Args:
        asked: questions, answers, measures.
        adapters: the folder of each adapter by its name.

    Raises:
        ModelError: a folder holds no adapter, or a manifest that was changed.
    """
    names = asked.comparison.adapters
    first, *others = [(name, _judged(asked, name, adapters)) for name in names] or [(BASE, (_NO_ADAPTER,))]
    verdict, *remarks = first[1]
    folder = adapters.get(first[0])
    run = RunFacts.read(folder) if folder else None
    kept = kept_table(asked)
    return Page(
        title=text("report.title", models=", ".join(names) or BASE, base=shown_base(asked.comparison.base_name)),
        verdict=_sentence(verdict),
        tone=verdict.tone,
        remarks=(*map(_sentence, remarks), *(f"{name}: {_sentence(found[0])}" for name, found in others)),
        tables=(right_table(asked), content_table(asked), *([kept] if kept else [])),
        curves=curves_of(run.folder) if run else (),
        groups=tuple(_group(asked, kind) for kind in asked.comparison.kinds),
        facts=facts_of(run) if run else (),
        commands=commands_for(run.folder.as_posix(), run.manifest.base) if run else (),
    )


_NO_ADAPTER = Verdict("verdict.no_adapter", "partly")


def _judged(asked: Asked, name: str, adapters: Mapping[str, Path]) -> tuple[Verdict, ...]:
    """What an adapter's answers and its run say of it."""
    reached = reached_by(asked, name)
    return judge(replace(reached, losses=losses_of(adapters[name])) if name in adapters else reached)


def _sentence(verdict: Verdict) -> str:
    return text(verdict.key, **verdict.values)


def _group(asked: Asked, kind: str) -> Group:
    rows = [row for row in asked.comparison.rows if row.kind == kind]
    return Group(
        heading=text("report.group", kind=kind_name(kind), num=len(rows)),
        questions=tuple(_question(asked, row) for row in rows),
        counts=shown_counts(asked.comparison, kind),
        is_open=len(rows) <= MOST_OPEN,
    )


def _question(asked: Asked, row: ComparedRow) -> ShownQuestion:
    answers = (_answer(row, model) for model in asked.comparison.models if model in row.answers)
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


def commands_for(name: str, base: BaseRecord) -> tuple[tuple[str, str], ...]:
    """How to talk with the adapter in the folder `name`, ask it more, and load it and its base without Pangzhu."""
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
        (text("report.use.peft" if base.public_id else "report.use.peft.folder"), loading),
    )
