"""What a run wrote down, for its page: the curves it logged, and what it was trained with, on and from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pangzhu import checkpoint
from pangzhu.adapter import Manifest, read_manifest
from pangzhu.errors import ResourceError
from pangzhu.messages import text
from pangzhu.report.charts import Curve
from pangzhu.report.page import Entries

SHOWN_HASH = 16  # characters of a sha256
RESULTS: tuple[tuple[str, Callable[[Any], str]], ...] = (  # of a finished run, in the order they are told
    ("report.result.num_rows", "{:,}".format),
    ("report.result.num_learned", "{:,}".format),
    ("report.result.num_steps", "{:,}".format),
    ("report.result.num_tokens", "{:,}".format),
    ("report.result.seconds", "{:.0f}".format),
    ("report.result.train_loss", "{:.4f}".format),
    ("report.result.largest_logit_change", "{:.2f}".format),
)
DECIDED = ("precision", "device", "num_threads", "token_budget")


def curves_of(folder: Path) -> tuple[tuple[Curve, str], ...]:
    """Loss and learned rows over the steps, from the run's `metrics.jsonl`; nothing where there is none."""
    logged = _logged(folder / checkpoint.RUN / checkpoint.METRICS)
    if not logged:
        return ()
    step = text("report.curves.step")
    loss, learned = text("report.curves.loss"), text("report.curves.learned", total=logged[-1]["num_rows"])
    losses = [(float(line["step"]), float(line["loss"])) for line in logged]
    counts = [(float(line["step"]), float(line["learned"])) for line in logged if line["learned"] is not None]
    drawn = [(Curve(losses, loss, step), loss)]
    if counts:
        drawn.append((Curve(counts, learned, step, top=float(logged[-1]["num_rows"])), learned))
    return tuple(drawn)


def losses_of(folder: Path) -> tuple[float, float] | None:
    """Loss of the first and the last logged step of a run; None where less than two were logged."""
    logged = _logged(folder / checkpoint.RUN / checkpoint.METRICS)
    return (float(logged[0]["loss"]), float(logged[-1]["loss"])) if len(logged) > 1 else None


def entries_of(folder: Path) -> tuple[Entries, ...]:
    """What the adapter's manifest and the run's record say: result, settings, environment, fingerprints."""
    manifest = read_manifest(folder)
    record, fault = _record(folder / checkpoint.RUN)
    parts = [Entries(text("report.result"), _results(manifest.metrics))]
    if record:
        settings = {name: value for name, value in record.identity.items() if "." not in name}
        decided = {name: record.decisions[name] for name in DECIDED if name in record.decisions}
        parts.append(Entries(text("report.settings"), _plainly(settings)))
        parts.append(Entries(text("report.environment"), _plainly(decided | manifest.versions)))
    if fault:
        parts.append(Entries(text("report.settings"), ((checkpoint.RECORD, fault),)))
    parts.append(Entries(text("report.fingerprints"), _fingerprints(manifest)))
    return tuple(parts)


def _logged(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in map(_parsed, lines) if line is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    """A logged step; None for a line that a crash cut."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"step", "loss", "learned", "num_rows"} <= found.keys() else None


def _record(run_dir: Path) -> tuple[checkpoint.RunRecord | None, str]:
    """What the run's record says, or what is wrong with it."""
    try:
        return checkpoint.read_record(run_dir), ""
    except ResourceError as damaged:
        return None, str(damaged)


def _results(metrics: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = ((key, shown, metrics.get(key.rpartition(".")[2])) for key, shown in RESULTS)
    return tuple((text(key), shown(value)) for key, shown, value in found if isinstance(value, int | float))


def _plainly(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names as the options spell them, values as they are."""
    return tuple((name, str(value)) for name, value in values.items())


def _fingerprints(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    base = manifest.base
    known = {
        text("report.base"): f"{base.name} ({base.public_id})" if base.public_id else base.name,
        text("report.base.tensors"): base.fingerprint.tensors,
        text("report.data"): manifest.data_sha256[:SHOWN_HASH],
        text("report.template"): manifest.template_sha256[:SHOWN_HASH],
    }
    files = {name: sha256[:SHOWN_HASH] for name, sha256 in manifest.files.items()}
    return tuple((known | files).items())
