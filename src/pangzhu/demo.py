"""The law example from nothing to proof: find a base, teach it 34 facts of law, and ask both.

Taught questions, the same facts in wordings never trained, and facts never taught are put to base and adapter side by
side. It succeeds only if every taught answer is generated word for word.

Left to others: every stage; this is the order they are called in.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pangzhu.adapter import read_manifest
from pangzhu.checkpoint import RUN
from pangzhu.compare import ComparedRow, Comparison, ask
from pangzhu.config import GenerationOptions, ModelOptions, TrainConfig
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.engines.transformers import load_engine
from pangzhu.examples import example
from pangzhu.messages import say, text
from pangzhu.train import TrainResult, train

if TYPE_CHECKING:
    from rich.console import Group

MAX_ANSWER_TOKENS = 96  # the longest taught answer has 60
NUM_SHOWN = 6  # of each kind, side by side

# From the sweep in docs/decisions.md.
LEARNING_RATE = 6e-4
ROWS_PER_STEP = 10
NUM_EPOCHS = 6


class DemoConfig(ModelOptions):
    """Which base model, and where the adapter goes."""

    output_dir: Path = Path("lora_output")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was trained, and how base and adapter answer."""

    trained: TrainResult
    comparison: Comparison

    VERIFICATION_FAILED: ClassVar[int] = 8

    @property
    def exit_code(self) -> int:
        """0 only if every taught question is answered word for word."""
        taught = self.comparison.score(self.comparison.models[-1], "taught")
        return 0 if taught.num_right == taught.num_rows > 0 else self.VERIFICATION_FAILED

    def as_json(self) -> dict[str, object]:
        """Training result, figures and answers."""
        return {"trained": self.trained.as_json(), **self.comparison.as_json()}

    def render(self) -> "Group":
        """A few rows of each kind side by side, the figures, and what they mean."""
        from rich.console import Group
        from rich.text import Text

        shown = [row for kind in self.comparison.kinds for row in self._first_of(kind)]
        key = "demo.recalled" if self.exit_code == 0 else "demo.not_recalled"
        verdict = Text(text(key, folder=self.trained.output_dir))
        return Group(self.comparison.answers_table(shown), self.comparison.scores_table(), verdict)

    def _first_of(self, kind: str) -> list[ComparedRow]:
        """One row a fact, so that the same answer is not shown five times."""
        by_fact = {row.fact: row for row in self.comparison.rows if row.kind == kind}
        return list(by_fact.values())[:NUM_SHOWN]


def run(config: DemoConfig) -> DemoResult:
    """Train on the law example and compare.

    Raises:
        PangzhuError: no base model can be had, or any stage fails.
    """
    say("demo.start")
    trained = train(demo_recipe(config))
    recorded = read_manifest(config.output_dir).base
    options = config.model_copy(update={"model_name_or_path": recorded.name, "revision": recorded.revision})
    engine = load_engine(options, [f"law={config.output_dir}"])
    say("demo.asking")
    comparison = ask(engine, questions(), GenerationOptions(max_new_tokens=MAX_ANSWER_TOKENS))
    say("compare.written", file=comparison.write(config.output_dir / RUN))
    return DemoResult(trained, comparison)


def demo_recipe(config: DemoConfig) -> TrainConfig:
    """The law lesson's settings."""
    return TrainConfig(
        **config.model_dump(),
        dataset_path=example("law_data.json"),
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=ROWS_PER_STEP,
        num_train_epochs=NUM_EPOCHS,
        until_learned=True,
    )


def questions() -> list[Conversation]:
    """All taught questions, and of the evaluation file the test wordings and the untaught facts."""
    taught = [_with_kind(row, "taught") for row in load_dataset(example("law_data.json")).conversations]
    evaluation = load_dataset(example("law_eval.json")).conversations
    held_out = [row for row in evaluation if row.field("kind") in ("reworded", "untaught")]
    return taught + [row for row in held_out if row.field("split") == "test"]


def _with_kind(row: Conversation, kind: str) -> Conversation:
    return replace(row, extra=(*row.extra, ("kind", kind)))
