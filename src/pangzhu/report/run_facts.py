"""What a run wrote down, for its page: the curves it logged, plan against actual, what it was trained on, with and from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pangzhu import checkpoint
from pangzhu.account import Account
from pangzhu.adapter import CARD, MANIFEST, BaseRecord, Manifest, read_manifest
from pangzhu.data_summary import DataFile, DataSummary
from pangzhu.errors import ModelError, ResourceError
from pangzhu.intervals import NOTHING
from pangzhu.messages import text
from pangzhu.progress import EARLY_STEPS
from pangzhu.questions import kind_name
from pangzhu.report.charts import Curve, Line
from pangzhu.report.page import Entries, Table

SHOWN_HASH = 16  # characters of a sha256
BAR_COLUMNS = 14  # blocks that leave room beside them on a telephone
RESULTS: tuple[tuple[str, Callable[[Any], str]], ...] = (  # of a finished run, in the order they are told
    ("report.result.num_rows", "{:,}".format),
    ("report.result.num_learned", "{:,}".format),
    ("report.result.train_loss", "{:.4f}".format),
    ("report.result.weakened_to", "{:.0%}".format),
    ("report.result.published_step", "{:,}".format),
    ("report.result.validation_loss", "{:.4f}".format),
    ("report.result.validation_learned", "{:,}".format),
    ("report.result.num_validation_rows", "{:,}".format),
    ("report.result.largest_logit_change", "{:.2f}".format),
)
TAKEN: tuple[
    tuple[str, Callable[[Account], float | None], str], ...
] = (  # what is planned and taken, and how it is shown
    ("report.account.num_steps", lambda account: account.num_steps, "{:,}"),
    ("report.account.num_tokens", lambda account: account.num_tokens, "{:,}"),
    ("report.account.minutes", lambda account: account.seconds and account.seconds / 60, "{:.2f}"),
    ("report.account.memory", lambda account: account.memory and account.memory / 1e9, "{:.2f}"),
)
PARTS: tuple[tuple[str, Callable[[DataSummary], int]], ...] = (  # rows that are not trained as they stand, or not alone
    ("report.data.num_dropped", lambda data: data.num_dropped),
    ("report.data.num_truncated", lambda data: data.num_truncated),
    ("report.data.num_duplicates", lambda data: data.num_duplicates),
    ("report.data.num_contradictions", lambda data: data.num_contradictions),
)
MACHINE = {  # the parts of `pangzhu.machine.Environment`, and how they are called
    "processor": "report.environment.processor",
    "instruction_sets": "report.environment.instruction_sets",
    "num_cores": "report.environment.num_cores",
    "num_logical": "report.environment.num_logical",
    "memory": "report.environment.memory",
    "system": "report.environment.system",
    "python": "report.environment.python",
}
DECIDED = ("device", "num_threads", "precision", "token_budget")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run.

    Args:
        folder: of the adapter.
        manifest: the adapter's.
        record: the run's; None where there is none, or where it is damaged.
        fault: what is wrong with the record.
    """

    folder: Path
    manifest: Manifest
    record: checkpoint.RunRecord | None
    fault: str = ""

    @classmethod
    def read(cls, folder: Path) -> "RunFacts":
        """As an adapter folder holds them.

        Raises:
            ModelError: no adapter there.
        """
        manifest = read_manifest(folder)
        try:
            return cls(folder, manifest, checkpoint.read_record(folder / checkpoint.RUN))
        except ResourceError as damaged:
            return cls(folder, manifest, None, str(damaged))

    @property
    def data(self) -> DataSummary | None:
        """What the adapter was trained on; None where its manifest does not say.

        Raises:
            ModelError: the manifest was changed.
        """
        try:
            return DataSummary.from_json(self.manifest.data)
        except (KeyError, TypeError) as broken:
            where = str(self.folder / MANIFEST)
            raise ModelError("error.adapter.manifest_broken", where=where, reason=str(broken)) from broken


def shown_base(name: str) -> str:
    """A base model as a page calls it: a folder of this computer without the way to it."""
    return Path(name).name if Path(name).is_absolute() else name


def curves_of(folder: Path) -> tuple[tuple[Curve, str], ...]:
    """Loss and learned rows over the steps, from the run's `metrics.jsonl`, that of validation rows too where there are any;
    nothing where there is no file."""
    lines = _lines(folder / checkpoint.RUN / checkpoint.METRICS)
    logged = [line for line in lines if {"step", "loss", "learned", "num_rows"} <= line.keys()]
    if not logged:
        return ()
    step = text("report.curves.step")
    learned = text("report.curves.learned", total=logged[-1]["num_rows"])
    counts = [(float(line["step"]), float(line["learned"])) for line in logged if line["learned"] is not None]
    drawn = [_loss_curve(logged, [line for line in lines if {"step", "eval_loss"} <= line.keys()], step)]
    if counts:
        drawn.append((Curve(counts, learned, step, top=float(logged[-1]["num_rows"])), learned))
    return tuple(drawn)


def _loss_curve(
    logged: Sequence[Mapping[str, Any]], validated: Sequence[Mapping[str, Any]], step: str
) -> tuple[Curve, str]:
    """The loss of the training steps and of the validation rows on the same axes, and what stands under it."""
    losses = [(float(line["step"]), float(line["loss"])) for line in logged]
    if not validated:
        title = text("report.curves.loss")
        return Curve(losses, title, step), title
    beside = [(float(line["step"]), float(line["eval_loss"])) for line in validated]
    title = text("report.curves.both")
    names = text("report.curves.training"), text("report.curves.validation")
    return Curve(losses, title, step, name=names[0], beside=Line(beside, names[1])), title


def losses_of(folder: Path) -> tuple[float, float] | None:
    """Loss of the first and the last logged step of a run; None where less than two were logged."""
    logged = [line for line in _lines(folder / checkpoint.RUN / checkpoint.METRICS) if {"step", "loss"} <= line.keys()]
    return (float(logged[0]["loss"]), float(logged[-1]["loss"])) if len(logged) > 1 else None


def facts_of(run: RunFacts) -> tuple[Table | Entries, ...]:
    """What the adapter's manifest and the run's record say: result, plan against actual, data, settings, environment,
    fingerprints."""
    found: list[Table | Entries] = [Entries(text("report.result"), _results(run.manifest.metrics))]
    if run.record and (taken := Account.from_record(run.record.taken)):
        found.append(_account_table(Account.from_record(run.record.planned), taken))
    if data := run.data:
        found += [Entries(text("report.data"), tuple(_data(data))), _lengths_table(data)]
    if run.record:
        settings = {name: value for name, value in run.record.identity.items() if "." not in name}
        found.append(Entries(text("report.settings"), _plainly(settings)))
    if run.fault:
        found.append(Entries(text("report.settings"), ((checkpoint.RECORD, run.fault),)))
    found.append(Entries(text("report.environment"), tuple(_environment(run))))
    return (*found, Entries(text("report.fingerprints"), tuple(_fingerprints(run.manifest))))


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in map(_parsed, lines) if line is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    """What was logged; None for a line that a crash cut."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _results(metrics: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = ((key, shown, metrics.get(key.rpartition(".")[2])) for key, shown in RESULTS)
    return tuple((text(key), shown(value)) for key, shown, value in found if isinstance(value, int | float))


def _plainly(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names as the options spell them, values as they are."""
    return tuple((name, str(value)) for name, value in values.items())


def _account_table(planned: Account | None, taken: Account) -> Table:
    columns = ("report.account.what", "report.account.planned", "report.account.taken", "report.account.share")
    return Table(
        heading=text("report.account"),
        columns=tuple(map(text, columns)),
        rows=tuple(
            (text(key), *_planned_and_taken(None if planned is None else figure(planned), figure(taken), shown))
            for key, figure, shown in TAKEN
        ),
        intro=text("report.account.intro", steps=EARLY_STEPS),
    )


def _planned_and_taken(planned: float | None, taken: float | None, shown: str) -> tuple[str, str, str]:
    """Two figures, and the second in percent of the first; a dash for what is not known."""
    share = f"{100 * taken / planned:.0f}%" if planned and taken is not None else NOTHING
    before, after = (NOTHING if figure is None else shown.format(figure) for figure in (planned, taken))
    return before, after, share


def _data(data: DataSummary) -> Iterator[tuple[str, str]]:
    yield text("report.data.file"), _file(data.file)
    if data.replay:
        yield text("report.data.replay"), _file(data.replay)
    yield text("report.data.num_examples"), f"{data.num_examples:,}"
    if data.num_replay:
        yield text("report.data.num_replay"), f"{data.num_replay:,}"
        yield text("report.data.num_held"), f"{data.num_held:,}"
    share = f"{data.num_supervised:,} ({100 * data.num_supervised / data.num_tokens:.0f}%)"
    yield text("report.data.num_tokens"), f"{data.num_tokens:,}"
    yield text("report.data.num_supervised"), share
    if data.num_facts:
        yield text("report.data.num_facts"), f"{data.num_facts:,}"
    for kind, num in data.kinds.items():
        yield text("report.data.kind", kind=kind_name(kind)), f"{num:,}"
    for key, count in PARTS:
        yield text(key), f"{count(data):,}"


def _file(file: DataFile) -> str:
    shown = text("report.data.rows_of", name=file.name, rows=file.num_rows, sha256=file.sha256[:SHOWN_HASH])
    return shown + (text("report.data.skipped", num=file.num_skipped) if file.num_skipped else "")


def _lengths_table(data: DataSummary) -> Table:
    """How many rows have how many tokens."""
    lengths = data.lengths
    bars = zip(lengths.bars, lengths.blocks(columns=BAR_COLUMNS), strict=True)
    values = {"least": lengths.least, "median": lengths.median, "p90": lengths.p90, "most": lengths.most}
    return Table(
        heading=text("report.lengths"),
        columns=(text("report.lengths.tokens"), text("report.lengths.rows"), text("report.lengths.bar")),
        rows=tuple((bar.name, f"{bar.num_rows:,}", blocks.rstrip()) for bar, blocks in bars),
        intro=text("report.lengths.intro", **values),
    )


def _environment(run: RunFacts) -> Iterator[tuple[str, str]]:
    """Machine, what was decided on it, and why, and the libraries."""
    record = run.record
    machine, decided = (record.environment, record.decisions) if record else ({}, {})
    for name, key in MACHINE.items():
        if name in machine:
            yield text(key), f"{machine[name] / 1e9:.1f} GB" if name == "memory" else str(machine[name])
    yield from _plainly({name: decided[name] for name in DECIDED if name in decided})
    if probe := decided.get("probe"):
        speeds = {"bf16": probe["bf16_gflops"], "float32": probe["float32_gflops"]}
        yield text("report.environment.probe"), text("report.environment.probe.speeds", **speeds)
    yield from _plainly(run.manifest.versions)


def _fingerprints(manifest: Manifest) -> Iterator[tuple[str, str]]:
    base = manifest.base
    yield text("report.base"), _named(base)
    yield text("report.base.config"), base.fingerprint.config
    yield text("report.base.tensors"), base.fingerprint.tensors
    yield text("report.base.tokenizer"), base.fingerprint.tokenizer
    yield text("report.template"), manifest.template_sha256[:SHOWN_HASH]
    yield text("report.data.sha256"), manifest.data_sha256[:SHOWN_HASH]
    for name, sha256 in manifest.files.items():
        if name != CARD:  # which its owner may edit
            yield name, sha256[:SHOWN_HASH]


def _named(base: BaseRecord) -> str:
    name = shown_base(base.name)
    known = [part for part in (base.public_id, base.revision) if part and part != name]
    return f"{name} ({', '.join(known)})" if known else name
