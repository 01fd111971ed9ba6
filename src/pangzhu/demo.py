"""The law example from nothing to proof: find a base, teach it 34 facts of law, and ask both.

Taught questions, the same facts in wordings never trained, and facts never taught are put to base and adapter side by
side; how far the adapter has moved from the base on general prompts is measured, and all of it stands in a report. It
succeeds only if every taught answer is generated word for word, white space and punctuation included.

Left to others: every stage; this is the order they are called in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pangzhu.adapter import read_manifest
from pangzhu.card import renew_card
from pangzhu.checkpoint import RUN
from pangzhu.choices import measure_choices
from pangzhu.compare import ComparedRow, Comparison, ask
from pangzhu.config import DemoConfig, GenerationOptions, TrainConfig
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.drift import measure_drift
from pangzhu.engines.transformers import load_engine
from pangzhu.errors import VerificationError
from pangzhu.evaluate import Evaluation
from pangzhu.examples import example
from pangzhu.messages import say, text
from pangzhu.questions import choices_of
from pangzhu.report.build import REPORT, build_page, write_report
from pangzhu.report.figures import Asked
from pangzhu.train import TrainResult, train

if TYPE_CHECKING:
    from rich.console import Group
    from transformers import PreTrainedTokenizerBase

    from pangzhu.engines.transformers import TransformersEngine

ADAPTER = "law"  # what it is called beside the base
ROOM = 8  # tokens past the longest expected answer: room for its end, and to see that an answer runs on
NUM_SHOWN = 6  # of each kind, side by side

# From `python -m benchmarks.recipes`: docs/evaluation.md.
LEARNING_RATE = 6e-4
ROWS_PER_STEP = 8  # five to be learned, three to be held to the base, on average
NUM_EPOCHS = 5.0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was trained, and how it answers.

    Args:
        trained: the run.
        comparison: base and adapter side by side; of the taught questions one wording a fact.
        recall: the other taught wordings, which the adapter alone is asked.
    """

    trained: TrainResult
    comparison: Comparison
    recall: tuple[ComparedRow, ...] = ()

    @property
    def taught(self) -> list[ComparedRow]:
        """Every taught question."""
        return [row for row in (*self.comparison.rows, *self.recall) if row.kind == "taught"]

    @property
    def num_verbatim(self) -> int:
        """Taught questions that the adapter answers word for word."""
        return sum(row.verbatim(self._adapter) for row in self.taught)

    @property
    def exit_code(self) -> int:
        """0 only if every taught question is answered word for word."""
        return 0 if self.num_verbatim == len(self.taught) > 0 else VerificationError.exit_code

    @property
    def verdict(self) -> str:
        """What the figures say, a line a kind of question, and the next command."""
        outcome = "demo.recalled" if self.exit_code == 0 else "demo.not_recalled"
        reworded, untaught = (self.comparison.score(self._adapter, kind) for kind in ("reworded", "untaught"))
        lines = (
            text(outcome),
            self._taught_line(),
            text("demo.reworded", num=reworded.num_right, total=reworded.num_rows),
            text("demo.recited", num=self.comparison.num_recited(self._adapter), total=untaught.num_rows),
            text("demo.next", folder=self.trained.output_dir),
        )
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Training result, figures and answers."""
        figures = {"num_taught": len(self.taught), "num_verbatim": self.num_verbatim}
        return {"trained": self.trained.as_json(), **figures, **self.comparison.as_json()}

    def render(self) -> "Group":
        """A few rows of each kind side by side, the figures, and what they mean."""
        from rich.console import Group
        from rich.text import Text

        answers = self.comparison.answers_table(self._shown())
        return Group(answers, self.comparison.scores_table(), Text(self.verdict))

    @property
    def _adapter(self) -> str:
        return self.comparison.models[-1]

    def _taught_line(self) -> str:
        """How many taught answers are exact, and how many are right, where that is another number."""
        num_right = sum(row.right(self._adapter) for row in self.taught)
        key = "demo.taught" if num_right == self.num_verbatim else "demo.taught_but_for_punctuation"
        return text(key, num=self.num_verbatim, num_right=num_right, total=len(self.taught))

    def _shown(self) -> list[ComparedRow]:
        """A few rows of each kind, taught first; no fact twice, so that the same answer is not shown again and again."""
        kinds = sorted(self.comparison.kinds, key=lambda kind: kind != "taught")
        shown: dict[str, ComparedRow] = {}
        for row in sorted(self.comparison.rows, key=lambda row: kinds.index(row.kind)):
            if sum(other.kind == row.kind for other in shown.values()) < NUM_SHOWN:
                shown.setdefault(row.fact or row.question, row)
        return list(shown.values())


def run(config: DemoConfig) -> DemoResult:
    """Train on the law example and compare.

    Raises:
        PangzhuError: no base model can be had, or any stage fails.
    """
    say("demo.start")
    trained = train(demo_recipe(config), with_report=False)
    recorded = read_manifest(config.output_dir).base
    options = config.model_copy(update={"model_name_or_path": recorded.name, "revision": recorded.revision})
    engine = load_engine(options, [f"{ADAPTER}={config.output_dir}"])
    say("demo.asking")
    asked = questions()
    side_by_side, other_wordings = first_wordings(asked)
    greedy = GenerationOptions(max_new_tokens=longest_answer(engine.tokenizer, asked) + ROOM)
    comparison = ask(engine, side_by_side, greedy)
    recall = ask(engine, other_wordings, greedy, names=engine.names[-1:])
    run_dir = config.output_dir / RUN
    say("compare.written", file=comparison.write(run_dir))
    say("compare.written", file=recall.write(run_dir / "recall"))
    everything = with_general_ability(engine, comparison, recall.rows)
    kept = Evaluation(comparison.base_name, (), choices=everything.choices, drifts=everything.drifts)
    say("evaluate.written", file=kept.write(run_dir))
    page = build_page(everything, {ADAPTER: config.output_dir})
    write_report(run_dir / REPORT, page)
    renew_card(config.output_dir, page)
    return DemoResult(trained, comparison, recall.rows)


def with_general_ability(engine: "TransformersEngine", comparison: Comparison, recall: Sequence[ComparedRow]) -> Asked:
    """All answers, and what became of the base's general ability: multiple choice, and drift on general prompts."""
    general = [row for row in load_dataset(example("law_eval.json")).conversations if choices_of(row)]
    prompts = load_dataset(example("general_prompts.jsonl"), require_answer=False).conversations
    return Asked(
        replace(comparison, rows=(*comparison.rows, *recall)),
        choices=tuple(measure_choices(engine, general)),
        drifts=tuple(measure_drift(engine, prompts)),
    )


def first_wordings(asked: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """The questions to put to base and adapter (a taught fact in one wording), and the other taught wordings."""
    seen: set[str | None] = set()
    first: list[Conversation] = []
    other: list[Conversation] = []
    for row in asked:
        fact = row.field("fact")
        again = row.field("kind") == "taught" and fact is not None and fact in seen
        (other if again else first).append(row)
        seen.add(fact)
    return first, other


def longest_answer(tokenizer: "PreTrainedTokenizerBase", asked: Sequence[Conversation]) -> int:
    """Tokens of the longest expected answer; one that runs on for `ROOM` more is not word for word the same."""
    answers = [row.answer for row in asked if row.answer]
    return max(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])


def demo_recipe(config: DemoConfig) -> TrainConfig:
    """The law lesson's settings."""
    return TrainConfig(
        **config.model_dump(),
        dataset_path=example("law_data.json"),
        replay_path=example("law_replay.json"),
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=ROWS_PER_STEP,
        num_train_epochs=NUM_EPOCHS,
        until_learned=True,
        weaken_to_learned=True,
    )


def questions() -> list[Conversation]:
    """All taught questions, and of the evaluation file the test wordings and the untaught facts."""
    taught = [_with_kind(row, "taught") for row in load_dataset(example("law_data.json")).conversations]
    evaluation = load_dataset(example("law_eval.json")).conversations
    held_out = [row for row in evaluation if row.field("kind") in ("reworded", "untaught")]
    return taught + [row for row in held_out if row.field("split") == "test"]


def _with_kind(row: Conversation, kind: str) -> Conversation:
    return replace(row, extra=(*row.extra, ("kind", kind)))
