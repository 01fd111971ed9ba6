"""`python -m benchmarks.eval_speed`: multiple choice by `pangzhu eval`, against what the processor's products could do.

Items are seeded questions of a known length in tokens with four letters to choose from. What is quoted is the useful work of
the forward passes over the rate of the model's largest matrix product, measured before and after in the same process.
Tokenization counts in the seconds, loading the model does not.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.block import Job, matrix_speed
from benchmarks.forward_work import forward_work
from benchmarks.work import Work
from benchmarks.workloads import SEED
from pangzhu.batching import lay_end_to_end
from pangzhu.choices import choice_log_probs, spell_choices
from pangzhu.config import ModelOptions
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Conversation, Location, Turn
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine, load_engine
from pangzhu.examples import example
from pangzhu.fast.memory import bound_kernel_caches
from pangzhu.fast.path import FastPath
from pangzhu.fast.techniques import Techniques
from pangzhu.plan import MAX_TOKEN_BUDGET
from pangzhu.sources import resolve
from pangzhu.step import split_rows

LETTERS = ("A", "B", "C", "D")
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Speed:
    """One model on all items; `share_of_limit` is useful work over the seconds and the rate of `gflops_limit`."""

    model: str
    items: int
    tokens: int
    computed: int
    seconds: float
    useful_gflop: float
    gflops_limit: float
    share_of_limit: float


def main() -> None:
    """Measure the base and, where one is named, an adapter."""
    given = _arguments()
    bound_kernel_caches(given.items)
    folder = resolve(given.model).folder
    options = ModelOptions(model_name_or_path=given.model, precision=given.precision)
    engine = load_engine(options, [f"adapter={given.adapter}"] if given.adapter else [])
    items = draw_items(engine, given.items, num_tokens=given.tokens)
    precision = "bf16" if engine.model.dtype.itemsize == 2 else "float32"
    job = Job(str(folder), "", precision, rows_per_step=0, micro_batch=0, warm_up=0, steps=0)
    rank = _rank(Path(given.adapter)) if given.adapter else 0
    for name in engine.names:
        choice_log_probs(engine, name, items[:20])
        before = matrix_speed(job)
        started = time.perf_counter()
        choice_log_probs(engine, name, items)
        seconds = time.perf_counter() - started
        limit = (before + matrix_speed(job)) / 2
        work = work_of_items(engine, folder, items, rank=0 if name == BASE else rank)
        speed = Speed(
            name,
            len(items),
            work.num_tokens,
            work.num_computed,
            round(seconds, 2),
            round(work.flops / GIGA, 1),
            round(limit, 1),
            round(work.flops / GIGA / seconds / limit, 4),
        )
        print(json.dumps(asdict(speed)), flush=True)
        print(f"{name}: {seconds:.1f} s, {100 * speed.share_of_limit:.0f}% of the GEMM limit", file=sys.stderr)


def draw_items(engine: TransformersEngine, num_items: int, *, num_tokens: int) -> list[Conversation]:
    """Questions whose prompts, the template's own tokens included, have about as many tokens as asked for."""
    draw = random.Random(SEED)
    known = sorted({row.answer or "" for row in load_dataset(example("law_data.json")).conversations})
    question = "\n".join(("", *(f"{letter}. {number}" for number, letter in enumerate(LETTERS))))
    room = num_tokens - len(engine.prompt([Turn("user", question)], BASE))
    items = []
    for number in range(num_items):
        ids: list[int] = []
        while len(ids) < room:
            ids += engine.tokenizer.encode(draw.choice(known), add_special_tokens=False)
        text = str(engine.tokenizer.decode(ids[:room])).replace("\ufffd", "")
        turns = (Turn("user", text + question), Turn("assistant", draw.choice(LETTERS)))
        items.append(Conversation(turns, Location(Path("items"), number, number), (("choices", ",".join(LETTERS)),)))
    return items


def work_of_items(engine: TransformersEngine, folder: Path, items: list[Conversation], *, rank: int) -> Work:
    """The useful work of the items, packed as they are measured."""
    examples = [spelling.example for spelling in spell_choices(engine, BASE, items)]
    fast = FastPath(engine.model, Techniques(), longest=max(len(example.input_ids) for example in examples))
    return forward_work(
        folder, split_rows(lay_end_to_end(list(enumerate(examples))), MAX_TOKEN_BUDGET, fast), rank=rank
    )


def _rank(adapter: Path) -> int:
    return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--adapter", default="", help="folder; not given: the base alone")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "float32"))
    parser.add_argument("--items", type=int, default=700)
    parser.add_argument("--tokens", type=int, default=200, help="of an item's prompt")
    return parser.parse_args()


if __name__ == "__main__":
    main()
