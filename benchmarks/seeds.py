"""`python -m benchmarks.seeds`: the example's recipe as it is, with three seeds, and untouched on another base and other facts.

Everything that `pangzhu demo` trains and how is taken from it; the other subject brings its own facts, keeps the rest, and has
no multiple choice. Asked are the questions that no recipe was chosen by: the test wordings of each fact and the untaught test
questions (how many are answered with a taught answer). Goes on from its CSV, whose rows are what the table is made of.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import HERE, fill_csv, instruction_set
from benchmarks.recipes import MOST_TOKENS, num_recited
from benchmarks.summary import put_into
from pangzhu.choices import measure_choices
from pangzhu.compare import ask
from pangzhu.config import DemoConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.demo import ADAPTER, demo_recipe
from pangzhu.drift import measure_drift
from pangzhu.engines.transformers import TransformersEngine, load_engine
from pangzhu.evaluate import measure
from pangzhu.examples import example
from pangzhu.intervals import bootstrap_mean, shown_percent
from pangzhu.messages import Language
from pangzhu.questions import choices_of
from pangzhu.train import train

SEEDS = (42, 43, 44)
PAGES: dict[Language, Path] = {
    "en": HERE.parent / "docs" / "evaluation.md",
    "zh": HERE.parent / "docs" / "evaluation.zh-CN.md",
}
HEADS: dict[Language, str] = {
    "en": "| facts, base | seed | steps | tokens | taught | test wordings | untaught, recited | base's words kept | KL, nats | "
    "multiple choice, base and adapter |\n",
    "zh": "| 知识，基座 | 种子 | 步数 | 词元 | 教过的 | 测试说法 | 没教过的，照背 | 基座用词保留 | KL，纳特 | "
    "选择题，基座与适配器 |\n",
}
MEANS: dict[Language, str] = {"en": "all seeds", "zh": "全部种子"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is taught to whom.

    Args:
        name: of the facts.
        model: the base.
        facts: the rows that are trained.
        evaluation: re-worded and untaught questions, and for some facts multiple choice.
        seeds: of adapter and order, one run each.
    """

    name: str
    model: str
    facts: Path
    evaluation: Path
    seeds: Sequence[int]


SUBJECTS = (
    Subject("law", "packaged:qwen2.5-coder-0.5b-instruct", example("law_data.json"), example("law_eval.json"), SEEDS),
    Subject(
        "english",
        "packaged:smollm2-135m-instruct",
        HERE / "data" / "english_facts.json",
        HERE / "data" / "english_eval.json",
        SEEDS[:1],
    ),
)


def main() -> None:
    """Run what is missing in the CSV, then write the table into the pages."""
    rows = fill_csv(Path(_arguments().csv), _runs())
    for language, page in PAGES.items():
        put_into(page, table(rows, language), mark="seeds")
    print(table(rows))


def _runs() -> Iterator[tuple[dict[str, str], Callable[[], dict[str, Any]]]]:
    for subject in SUBJECTS:
        for seed in subject.seeds:
            key = {
                "facts": subject.name,
                "model": subject.model,
                "seed": str(seed),
                "instruction_set": instruction_set(),
            }
            yield key, partial(run, subject, seed)


def run(subject: Subject, seed: int) -> dict[str, Any]:
    """Train the demo's recipe on a subject in a throw-away folder and ask it the test questions."""
    with tempfile.TemporaryDirectory() as name:
        given = DemoConfig(model_name_or_path=subject.model, output_dir=Path(name) / ADAPTER)
        config = demo_recipe(given).model_copy(update={"dataset_path": subject.facts, "seed": seed})
        trained = train(config, with_report=False)
        engine = load_engine(config, [f"{ADAPTER}={config.output_dir}"])
        return {"steps": trained.num_steps, "tokens": trained.num_tokens} | asked(engine, subject)


def asked(engine: TransformersEngine, subject: Subject) -> dict[str, Any]:
    """Taught and re-worded questions by teacher forcing, untaught ones by generating, multiple choice, drift."""
    taught = load_dataset(subject.facts).conversations
    rows = load_dataset(subject.evaluation).conversations
    reworded, untaught = (_test_rows(rows, kind) for kind in ("reworded", "untaught"))
    (recall,) = measure(engine, ADAPTER, taught)
    missed = [row.field("fact") for row in reworded if not measure(engine, ADAPTER, [row])[0].num_exact]
    answers = ask(engine, untaught, GenerationOptions(max_new_tokens=MOST_TOKENS), names=(ADAPTER,))
    prompts = load_dataset(example("general_prompts.jsonl"), require_answer=False).conversations
    (drift,) = measure_drift(engine, prompts)
    choices = measure_choices(engine, [row for row in rows if choices_of(row)])
    return {
        "num_taught": recall.num_rows,
        "num_taught_right": recall.num_exact,
        "facts_asked": " ".join(sorted({str(row.field("fact")) for row in reworded})),
        "facts_missed": " ".join(map(str, missed)),
        "num_untaught": len(untaught),
        "num_recited": num_recited(answers, taught),
        "agreement": json.dumps([drift.agreement.value, drift.agreement.low, drift.agreement.high]),
        "kl": round(drift.kl.value, 4),
        "num_choices": choices[0].num_rows if choices else 0,
        "num_right_base": choices[0].num_right if choices else 0,
        "num_right_adapter": choices[-1].num_right if choices else 0,
    }


def table(rows: list[dict[str, str]], language: Language = "en") -> str:
    """Markdown, a row a seed; under several seeds their mean, the interval over facts."""
    by_subject: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_subject[row["facts"], row["model"]].append(row)
    lines = (line for group in by_subject.values() for line in _lines(group, language))
    return f"{HEADS[language]}|{'---|' * 10}\n{''.join(lines)}"


def _lines(group: list[dict[str, str]], language: Language) -> Iterator[str]:
    name = f"{group[0]['facts']}, {group[0]['model'].removeprefix('packaged:')}"
    for row in group:
        reworded = row["facts_asked"].split()
        right = len(reworded) - len(row["facts_missed"].split())
        agreement, low, high = json.loads(row["agreement"])
        choices = f"{row['num_right_base']}, {row['num_right_adapter']} / {row['num_choices']}"
        cells = [name, row["seed"], row["steps"], f"{int(row['tokens']):,}"]
        cells += [f"{row['num_taught_right']}/{row['num_taught']}", f"{right}/{len(reworded)}"]
        cells += [
            f"{row['num_recited']}/{row['num_untaught']}",
            f"{100 * agreement:.1f}% [{100 * low:.1f}–{100 * high:.1f}]",
        ]
        cells += [row["kl"], choices if int(row["num_choices"]) else ""]
        yield f"| {' | '.join(cells)} |\n"
    if len(group) > 1:
        yield f"| {name} | {MEANS[language]} | | | | {_mean_reworded(group)} | | | | |\n"


def _mean_reworded(group: Sequence[dict[str, str]]) -> str:
    """Share of the re-worded questions answered, over all seeds, with its interval over facts."""
    asked_facts = [(fact, row["facts_missed"].split()) for row in group for fact in row["facts_asked"].split()]
    right = [float(fact not in missed) for fact, missed in asked_facts]
    return shown_percent(bootstrap_mean(right, [1.0] * len(right), [fact for fact, _ in asked_facts]))


def _test_rows(rows: Sequence[Conversation], kind: str) -> list[Conversation]:
    return [row for row in rows if row.field("kind") == kind and row.field("split") == "test"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "seeds.csv"), help="raw figures, appended to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
