"""What is known while a run goes on: learned rows, tokens, time, and whether somebody asked to stop.

Told to the user after every logged step and written to `metrics.jsonl`, one JSON object a line; kept beside each
checkpoint, so that a resumed run counts on as if it had never stopped.

Left to others: the steps themselves (`pangzhu.trainer`).
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pangzhu import machine, storage
from pangzhu.batching import MicroBatch
from pangzhu.errors import InterruptedRunError
from pangzhu.messages import say
from pangzhu.plan import StepPlan
from pangzhu.step import RowOutcome
from pangzhu.tokenization import TokenizedExample

LEARNED_FILE = "learned.json"
EARLY_STEPS = 5  # after which the time of all is told: the first ones are slow, and a mean of a few holds
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step, as told to the user and written to `metrics.jsonl`.

    Args:
        step: steps done, of `num_steps`.
        loss: mean over the step's supervised tokens, nats.
        grad_norm: before clipping.
        learned: rows whose latest forward pass predicted every learned token by a margin, of `num_rows`; None where
            dropout hides it.
        num_tokens: tokens since the last report; `tokens_per_second` likewise.
        seconds_left: estimate from this call's steps so far.
    """

    step: int
    num_steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    learned: int | None
    num_rows: int
    num_tokens: int
    tokens_per_second: float
    seconds_left: float

    def as_logs(self) -> dict[str, float]:
        """What trackers are told beside Trainer's own figures, in its spelling; the loss is this step's."""
        told = {"loss": self.loss, "tokens_per_second": self.tokens_per_second}
        return told if self.learned is None else told | {"learned": self.learned}


def say_step(report: StepReport) -> None:
    """One line a step."""
    minutes, seconds = divmod(round(report.seconds_left), 60)
    learned = "-" if report.learned is None else report.learned
    values = asdict(report) | {"learned": learned, "left": f"{minutes}:{seconds:02d}"}
    say("train.step", **values)


class Progress:
    """What is known while the steps go on: learned rows, tokens, time; told on and written to `metrics.jsonl`.

    Args:
        metrics_file: one JSON object a logged step is appended here.
        examples: the rows, in the dataset's order.
        steps: the plan.
        on_step: told after every logged step.
        num_replay: the last rows, which are not what is to be learned.
    """

    def __init__(
        self,
        metrics_file: Path,
        examples: Sequence[TokenizedExample],
        steps: StepPlan,
        on_step: Callable[[StepReport], None],
        *,
        num_replay: int = 0,
    ) -> None:
        self.examples = examples
        self.num_tokens = 0
        self.last_loss = math.nan
        self.finished = False  # no further step is to be done
        self.confirmed = False  # `learned` comes from a pass with the rounded weights as they are now
        self.signal_number: int | None = None
        self.learned = [False] * (len(examples) - num_replay)
        self._file = metrics_file
        self._steps = steps
        self._on_step = on_step
        self._since_report = (0, time.perf_counter())  # tokens, when
        self._steps_here = self._steps_before = 0
        self._seconds_before: float | None = 0.0
        self._peak_before = 0
        self.planned_seconds: float | None = None  # of all steps, as told after `EARLY_STEPS`
        self._step_loss, self._step_supervised = 0.0, 0
        self._started = self._step_ended = time.perf_counter()

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._steps.num_steps

    @property
    def seconds(self) -> float | None:
        """Of the steps that led here, over all calls; None where an earlier call did not count them."""
        return None if self._seconds_before is None else self._seconds_before + time.perf_counter() - self._started

    @property
    def peak_memory(self) -> int:
        """The most bytes that any call has held in memory."""
        return max(self._peak_before, machine.peak_memory())

    def count(self, batch: MicroBatch, outcomes: Sequence[RowOutcome]) -> None:
        """Take in one micro-batch's outcome."""
        self.num_tokens += batch.num_tokens
        for outcome in outcomes:
            self._step_loss += outcome.loss
            self._step_supervised += outcome.num_supervised
            if outcome.row_index < len(self.learned):
                self.learned[outcome.row_index] = outcome.learned

    def step_done(self) -> None:
        """One optimizer step is over; what follows until the next, such as confirming what was learned, is no part of it."""
        self._steps_here += 1
        self._step_ended = time.perf_counter()
        self.last_loss = self._step_loss / max(1, self._step_supervised)
        self._step_loss, self._step_supervised = 0.0, 0
        if self._steps_before + self._steps_here == EARLY_STEPS < self.num_steps and self.seconds is not None:
            self.planned_seconds = round(self.seconds / EARLY_STEPS * self.num_steps, 2)

    def report(self, step: int, logs: Mapping[str, float], *, sees_learned: bool) -> StepReport:
        """Tell and write a logged step; `logs` are Trainer's."""
        tokens_before, then = self._since_report
        self._since_report = (self.num_tokens, time.perf_counter())
        seconds_a_step = (self._step_ended - self._started) / max(1, self._steps_here)
        steps_left = 0 if self.finished else self._steps.num_steps - step
        report = StepReport(
            step=step,
            num_steps=self._steps.num_steps,
            loss=self.last_loss,
            grad_norm=logs["grad_norm"],
            learning_rate=logs["learning_rate"],
            learned=sum(self.learned) if sees_learned else None,
            num_rows=len(self.learned),
            num_tokens=self.num_tokens - tokens_before,
            tokens_per_second=(self.num_tokens - tokens_before) / max(1e-9, self._step_ended - then),
            seconds_left=seconds_a_step * steps_left,
        )
        self.write(asdict(report))
        self._on_step(report)
        return report

    def write(self, record: Mapping[str, object]) -> None:
        """Append a line to `metrics.jsonl`; its `step` says where it belongs."""
        storage.append_line(self._file, json.dumps(record))

    def restart_clock(self) -> None:
        """What was done since the last report is no part of the next step."""
        self._since_report = (self._since_report[0], time.perf_counter())

    def start(self) -> None:
        """Count from nothing; what an earlier start left in `metrics.jsonl` is taken back."""
        storage.remove(self._file)
        self._started = time.perf_counter()

    def save(self, folder: Path, step: int) -> None:
        """Keep the counts beside a checkpoint."""
        state = {
            "step": step,
            "learned": self.learned,
            "num_tokens": self.num_tokens,
            "num_tokens_reported": self._since_report[0],
            "last_loss": self.last_loss,
            "finished": self.finished,
            "seconds": self.seconds,
            "planned_seconds": self.planned_seconds,
            "peak_memory": self.peak_memory,
            "confirmed": self.confirmed,
        }
        storage.write_atomically(folder / LEARNED_FILE, json.dumps(state))

    def restore(self, folder: Path) -> int:
        """Go on counting from a checkpoint, and give its step; lines of `metrics.jsonl` after it are taken back."""
        state = json.loads((folder / LEARNED_FILE).read_text(encoding="utf-8"))
        self.learned, self.num_tokens = state["learned"], state["num_tokens"]
        self.last_loss, self.finished = state["last_loss"], state["finished"]
        self.confirmed = state.get("confirmed", False)  # an earlier version did not tell
        self._since_report = (state["num_tokens_reported"], time.perf_counter())
        self._steps_before, self._started = state["step"], time.perf_counter()
        self._seconds_before = state.get("seconds")  # a checkpoint of 0.1.0 has none of these
        self.planned_seconds, self._peak_before = state.get("planned_seconds"), state.get("peak_memory", 0)
        if self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if _step_of(line) <= state["step"])
            storage.write_atomically(self._file, kept)
        return int(state["step"])

    def raise_if_interrupted(self, output_dir: Path) -> None:
        """End an interrupted run with its own exit code; the checkpoint has been written."""
        if self.signal_number is not None:
            raise InterruptedRunError(
                "error.train.interrupted", signal_number=self.signal_number, where=str(output_dir)
            )


@contextmanager
def stop_on_signal(progress: Progress) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after the step under way; a second one at once."""

    def ask_to_stop(number: int, _: object) -> None:
        progress.signal_number = number
        for name in earlier:
            signal.signal(name, earlier[name])
        with suppress(RuntimeError):  # the signal came while something else was being printed
            say("train.stopping")

    earlier = {name: signal.getsignal(name) for name in STOP_SIGNALS}
    for name in earlier:
        signal.signal(name, ask_to_stop)
    try:
        yield
    finally:
        for name in earlier:
            signal.signal(name, earlier[name])


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinity for one that a crash cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
