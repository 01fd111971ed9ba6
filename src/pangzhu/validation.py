"""Rows that are measured while a run goes on and never trained: whether it still gets better, and which step was best.

Each time, one teacher-forced pass with the weights rounded as they would be saved gives the loss, the perplexity and the
rows learned: the figures of the adapter that would be published then. The lowest loss names the best step; its checkpoint
is kept (`checkpoint.prune`) and its weights are published in the end. What is known is kept beside each checkpoint, so that a
resumed run decides as one that never stopped.

Left to others: when Trainer asks (`pangzhu.trainer`), what is done with the weights that were chosen (`pangzhu.train`).

Try it: `pangzhu train --validation_path held_out.jsonl --early_stopping_patience 3 …`
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import checkpoint, storage
from pangzhu.data.quality import find_overlaps
from pangzhu.errors import DivergedError
from pangzhu.messages import say, text
from pangzhu.plan import StepPlan, ValidationPlan, plan_validation
from pangzhu.step import RowOutcome, measure_rows

if TYPE_CHECKING:
    from peft import PeftModel

    from pangzhu.config import TrainConfig
    from pangzhu.data import Dataset
    from pangzhu.fast.path import FastPath
    from pangzhu.preparation import PreparedRows
    from pangzhu.tokenization import TokenizedDataset


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What the validation rows said once.

    Args:
        step: optimizer steps done.
        loss: mean over the supervised tokens of all rows, nats.
        learned: rows whose every supervised token is predicted by a margin, of `num_rows`.
        seconds: that the pass took.
    """

    step: int
    loss: float
    learned: int
    num_rows: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 100.0))

    def as_logs(self) -> dict[str, float]:
        """The figures as Trainer spells those of an evaluation; trackers show them as `eval/loss` and so on."""
        return {
            "eval_loss": self.loss,
            "eval_perplexity": self.perplexity,
            "eval_learned": self.learned,
            "eval_num_rows": self.num_rows,
            "eval_runtime": self.seconds,
        }

    def as_record(self) -> dict[str, float]:
        """The same as a line of `metrics.jsonl`."""
        return {"step": self.step, **self.as_logs()}


class Validation:
    """The validation rows, and what they said so far.

    Args:
        rows: to be measured.
        plan: how often.
        keeps_best: the weights with the lowest loss are to be published, not the last ones.
        patience: measurements without a lower loss after which a run stops; 0 never stops it.
    """

    def __init__(self, rows: "TokenizedDataset", plan: ValidationPlan, *, keeps_best: bool, patience: int) -> None:
        self.best: ValidationReport | None = None
        self.last: ValidationReport | None = None
        self._rows = rows
        self._plan = plan
        self._keeps_best = keeps_best
        self._patience = patience
        self._num_since_best = 0

    @classmethod
    def planned(cls, rows: "PreparedRows", steps: StepPlan, config: "TrainConfig") -> "Validation | None":
        """As configured; None where there are no validation rows."""
        plan = plan_validation(rows.validation, steps, config)
        if plan is None:
            return None
        return cls(rows.validation, plan, keeps_best=config.keeps_best, patience=config.early_stopping_patience)

    @property
    def identity(self) -> dict[str, str]:
        """What of it makes a run that run: nothing where the rows are only told of and decide about no weights."""
        if not (self._keeps_best or self._patience):
            return {}
        return {
            "validation": self._rows.sha256[:16],
            "eval_steps": str(self._plan.every),
            "load_best_model_at_end": str(self._keeps_best),
            "early_stopping_patience": str(self._patience),
        }

    @property
    def num_bests(self) -> int:
        """Measurements whose weights may have to be kept beside the newest checkpoints."""
        return self._plan.times if self._keeps_best else 0

    def announce(self, dataset: "Dataset") -> None:
        """Say before training what will be measured, and which rows of the dataset ask the same."""
        rows, plan = self._rows, self._plan
        path = dataset.validation[0].location.file
        say(
            "validation.rows",
            path=path,
            rows=plan.num_rows,
            supervised=plan.num_supervised,
            every=plan.every,
            times=plan.times,
        )
        if rows.num_dropped or rows.num_truncated:
            say("train.overlong", dropped=rows.num_dropped, truncated=rows.num_truncated)
        files = (dataset, dataset.replay) if dataset.replay else (dataset,)
        if shared := [same for file in files for same in find_overlaps(file.conversations, dataset.validation)]:
            say("validation.overlap", num_rows=len(shared), first=shared[0].location, other=shared[0].other)

    def is_due(self, step: int, *, finished: bool) -> bool:
        """Whether the rows are measured after this step: now and then, and after the last."""
        return finished or step % self._plan.every == 0

    def is_wanted(self, step: int) -> bool:
        """Whether the weights of this step have the lowest loss so far, and such are to be published."""
        return self._keeps_best and self.best is not None and self.best.step == step

    @property
    def is_exhausted(self) -> bool:
        """Whether the loss has not become lower for as long as patience lasts."""
        return 0 < self._patience <= self._num_since_best

    def measure(self, model: "PeftModel", *, step: int, token_budget: int, fast: "FastPath | None") -> ValidationReport:
        """Measure the rows with the model as it is, tell, and remember.

        Raises:
            DivergedError: the loss of a row is NaN or infinite.
        """
        started = time.perf_counter()
        outcomes = measure_rows(model, list(enumerate(self._rows.examples)), token_budget, fast)
        self._require_finite(outcomes, step)
        report = ValidationReport(
            step=step,
            loss=sum(outcome.loss for outcome in outcomes) / sum(outcome.num_supervised for outcome in outcomes),
            learned=sum(outcome.learned for outcome in outcomes),
            num_rows=len(outcomes),
            seconds=round(time.perf_counter() - started, 3),
        )
        self._remember(report)
        return report

    def say_exhausted(self) -> None:
        """Tell why the run stops here."""
        best, last = self._known()
        say("validation.exhausted", step=last.step, patience=self._patience, loss=best.loss, best=best.step)

    def keep(self, folder: Path) -> None:
        """Keep what is known beside a checkpoint."""
        state = {
            "best": self.best and asdict(self.best),
            "last": self.last and asdict(self.last),
            "num_since_best": self._num_since_best,
        }
        storage.write_atomically(folder / checkpoint.VALIDATION, json.dumps(state))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; one of a run that measured nothing yet knows nothing."""
        file = folder / checkpoint.VALIDATION
        if not file.exists():
            return
        state = json.loads(file.read_text(encoding="utf-8"))
        self.best = state["best"] and ValidationReport(**state["best"])
        self.last = state["last"] and ValidationReport(**state["last"])
        self._num_since_best = state["num_since_best"]

    def choose(self, run_dir: Path, *, all_learned: bool) -> tuple[ValidationReport, Path | None]:
        """Which weights are published, and say why.

        Args:
            run_dir: where the checkpoints are.
            all_learned: the run was to stop once all training rows are learned, and its last weights have learned them.

        Returns:
            What the validation rows said of them, and the checkpoint that holds them; None for the last step's weights, which
            the model has.
        """
        best, last = self._known()
        is_last = best.step == last.step
        holding = None if is_last else checkpoint.intact_at(run_dir, best.step)
        wanted = self._keeps_best and not all_learned
        if is_last or (wanted and holding):
            say("validation.publishes_best", step=best.step, loss=best.loss)
            return best, holding
        key = "validation.publishes_learned" if all_learned else "validation.publishes_last"
        where = checkpoint.checkpoint_at(run_dir, best.step)
        say(
            "validation.best_lost" if wanted else key,
            step=last.step,
            loss=last.loss,
            best=best.step,
            lowest=best.loss,
            folder=where,
        )
        return last, None

    def _remember(self, report: ValidationReport) -> None:
        self.last = report
        if self.best is None or report.loss < self.best.loss:
            self.best, self._num_since_best = report, 0
            standing = text("validation.lowest")
        else:
            self._num_since_best += 1
            standing = text("validation.not_lowest", loss=self.best.loss, step=self.best.step)
        values = asdict(report) | {"perplexity": report.perplexity, "standing": standing}
        say("validation.measured", **values)

    def _known(self) -> tuple[ValidationReport, ValidationReport]:
        """The best and the last report; there are some after the last step."""
        if self.best is None or self.last is None:
            raise AssertionError("the validation rows were never measured")
        return self.best, self.last

    def _require_finite(self, outcomes: Sequence[RowOutcome], step: int) -> None:
        lost = [outcome.row_index for outcome in outcomes if not math.isfinite(outcome.loss)]
        if lost:
            places = ", ".join(str(self._rows.examples[index].location) for index in lost)
            raise DivergedError("error.train.validation_not_finite", where=places, step=step)
