"""`python -m benchmarks.recipes`: recipes for the law example, each trained and asked its development questions.

A recipe says how many wordings of a fact are trained, what is trained beside them, at which rate, in how many passes: everyday
questions, on which the adapter is held to the base's own words, and questions of law that are declined. It is asked the
development wordings of each fact and the untaught development questions (how many are answered with a taught answer), none of
which is reported of the example, and a hundred general prompts (the share of the base's own words that are still the first
choice), which are. Goes on from its CSV, whose rows are what the table is made of.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import HERE, fill_csv, instruction_set
from benchmarks.summary import put_into
from pangzhu.compare import Comparison, ask
from pangzhu.config import GenerationOptions, TrainConfig
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation
from pangzhu.drift import measure_drift
from pangzhu.engines.transformers import TransformersEngine, load_engine
from pangzhu.evaluate import measure
from pangzhu.examples import example
from pangzhu.messages import Language
from pangzhu.train import train

ADAPTER = "law"
MOST_TOKENS = 96  # of an answer
PAGES: dict[Language, Path] = {
    "en": HERE.parent / "docs" / "evaluation.md",
    "zh": HERE.parent / "docs" / "evaluation.zh-CN.md",
}
HEADS: dict[Language, str] = {
    "en": "| wordings a fact | everyday rows held | law rows held | their weight | declined rows | learning rate | "
    "rows a step | passes | tokens | rows learned | strength kept | development wordings | untaught, recited | "
    "base's words kept |\n",
    "zh": "| 每条知识的说法 | 守住基座的日常行 | 守住基座的法律行 | 它们的分量 | 谢绝行 | 学习率 | 每步行数 | 轮数 | 词元 | "
    "学会的行 | 保留的强度 | 开发集说法 | 没教过的，照背 | 基座用词保留 |\n",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained, and how.

    Args:
        wordings: trained of each fact.
        held: everyday questions beside them, held to the base.
        held_law: law questions nobody is taught, held to the base as well; those near a fact first.
        weight: of a token of those beside a learned one.
        declined: the same law questions, trained with one answer that declines them.
        learning_rate: at the top of the cosine.
        rows_per_step: of an optimizer step.
        passes: over all rows.
        weaken: the adapter as far as no learned row is lost.
        seed: of adapter and order.
    """

    wordings: int = 5
    held: int = 0
    held_law: int = 0
    weight: float = 5.0
    declined: int = 0
    learning_rate: float = 6e-4
    rows_per_step: int = 5
    passes: float = 3.0
    weaken: bool = False
    seed: int = 42


RECIPES = (
    Recipe(passes=3.5),
    Recipe(held=100, rows_per_step=8, passes=3.5),
    Recipe(held=60, held_law=68, rows_per_step=9, passes=3.5),
)


def main() -> None:
    """Run what is missing in the CSV, then write the table into the pages."""
    given = _arguments()
    rows = fill_csv(Path(given.csv), _runs(given.model))
    for language, page in PAGES.items():
        put_into(page, table(rows, language), mark="recipes")
    print(table(rows))


def _runs(model: str) -> Iterator[tuple[dict[str, str], Callable[[], dict[str, Any]]]]:
    for recipe in RECIPES:
        key = {name: str(value) for name, value in asdict(recipe).items()} | {"model": model}
        yield key | {"instruction_set": instruction_set()}, partial(run, recipe, model)


def run(recipe: Recipe, model: str) -> dict[str, Any]:
    """Train a recipe in a throw-away folder and ask it the development questions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = TrainConfig(
            model_name_or_path=model,
            dataset_path=_write(folder / "law.json", taught_rows(recipe.wordings)),
            replay_path=_write(folder / "replay.json", rows_beside(recipe))
            if recipe.held + recipe.held_law + recipe.declined
            else None,
            replay_weight=recipe.weight,
            output_dir=folder / ADAPTER,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.rows_per_step,
            num_train_epochs=recipe.passes,
            weaken_to_learned=recipe.weaken,
            seed=recipe.seed,
        )
        trained = train(config)
        engine = load_engine(config, [f"{ADAPTER}={config.output_dir}"])
        figures = {"tokens": trained.num_tokens, "num_rows": trained.num_rows, "num_learned": trained.num_learned}
        figures["weakened_to"] = trained.weakened_to or 1.0
        return figures | _asked(engine)


def taught_rows(wordings: int) -> list[dict[str, Any]]:
    """The law rows with the first wordings of each fact."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for row in _read(example("law_data.json")):
        seen[row["fact"]] += 1
        if seen[row["fact"]] <= wordings:
            chosen.append(row)
    return chosen


def rows_beside(recipe: Recipe) -> list[dict[str, Any]]:
    """Everyday questions, and law questions nobody is taught: one near each fact, then a second one, then those that are near
    none."""
    law = list(_declined(_read(HERE / "data" / "law_declined.json")))
    held_law = [row | {"output": ""} for row in law[: recipe.held_law]]
    return _read(example("law_replay.json"))[: recipe.held] + held_law + law[: recipe.declined]


def table(rows: list[dict[str, str]], language: Language = "en") -> str:
    """Markdown, a row a recipe."""
    lines = (f"| {' | '.join(_cells(row))} |\n" for row in rows)
    return f"{HEADS[language]}|{'---|' * 14}\n{''.join(lines)}"


def _declined(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    near: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "near" in row:
            near[row["near"]].append(row)
    for group in zip(*near.values(), strict=True):
        yield from group
    yield from (row for row in rows if "near" not in row)


def _asked(engine: TransformersEngine) -> dict[str, Any]:
    """Development wordings by teacher forcing, untaught development questions by generating, drift on general prompts."""
    rows = [row for row in load_dataset(example("law_eval.json")).conversations if row.field("split") == "dev"]
    reworded, untaught = ([row for row in rows if row.field("kind") == kind] for kind in ("reworded", "untaught"))
    (exact,) = measure(engine, ADAPTER, reworded)
    answers = ask(engine, untaught, GenerationOptions(max_new_tokens=MOST_TOKENS), names=(ADAPTER,))
    prompts = load_dataset(example("general_prompts.jsonl"), require_answer=False).conversations
    (drift,) = measure_drift(engine, prompts)
    return {
        "num_reworded": exact.num_rows,
        "num_right": exact.num_exact,
        "num_untaught": len(untaught),
        "num_recited": num_recited(answers, reworded),
        "agreement": round(drift.agreement.value, 4),
    }


def num_recited(answers: Comparison, taught: list[Conversation]) -> int:
    """Answers to untaught questions that are a taught fact's; every taught fact has a row in `taught`."""
    known = {row.answer for row in taught}
    return sum(row.answers[ADAPTER].text in known for row in answers.rows)


def _cells(row: dict[str, str]) -> list[str]:
    settings = [
        row[name]
        for name in ("wordings", "held", "held_law", "weight", "declined", "learning_rate", "rows_per_step", "passes")
    ]
    learned = [f"{row['num_learned']}/{row['num_rows']}", f"{float(row['weakened_to']):.0%}"]
    asked = [f"{row['num_right']}/{row['num_reworded']}", f"{row['num_recited']}/{row['num_untaught']}"]
    return [*settings, f"{int(row['tokens']):,}", *learned, *asked, f"{100 * float(row['agreement']):.0f}%"]


def _read(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def _write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "recipes.csv"), help="raw figures, appended to")
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
