"""The rows that are trained on: seeded, of a known length, of sentences that the project ships.

A workload is a file of rows `{"input_ids": …, "labels": …}`, one JSON object a line, so that every contestant trains the
same tokens with the same labels whatever it would make of a text by itself. Lengths are those of whole rows in tokens,
the chat template's own included; about half of a row is the answer.
"""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pangzhu.config import TrainConfig
from pangzhu.data.conversation import Conversation, Location, Turn
from pangzhu.examples import example
from pangzhu.preparation import PreparedBase, label_rows, prepare_base, read_dataset
from pangzhu.tokenization import Labeller, TokenizedExample

SEED = 20261124


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows by name. `length` draws a row's length in tokens; None takes the law example's rows."""

    name: str
    length: Callable[[random.Random], float] | None


def log_normal(mean: float, sigma: float) -> Callable[[random.Random], float]:
    """Lengths with the given mean, skewed as those of chat datasets are."""
    mu = math.log(mean) - sigma**2 / 2
    return lambda draw: draw.lognormvariate(mu, sigma)


WORKLOADS = {
    "short": Workload("short", lambda draw: draw.uniform(90, 150)),
    "mixed": Workload("mixed", lambda draw: min(1024, max(64, log_normal(200, 0.6)(draw)))),
    "long": Workload("long", lambda draw: draw.uniform(1200, 1800)),
    "law": Workload("law", None),
}


def write_rows(workload: Workload, model_name: str, folder: Path, *, num_rows: int) -> Path:
    """The workload's first rows as a file, the same bytes each time."""
    base = prepare_base(TrainConfig(model_name_or_path=model_name, output_dir=folder))
    rows = _law_rows(base, folder) if workload.length is None else _drawn_rows(base, workload.length, num_rows)
    file = folder / base.source.folder.name / f"{workload.name}-{num_rows}.jsonl"  # ids are a tokenizer's own
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"input_ids": row.input_ids, "labels": row.labels}) for row in rows[:num_rows])
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def _law_rows(base: PreparedBase, folder: Path) -> list[TokenizedExample]:
    config = TrainConfig(dataset_path=example("law_data.json"), output_dir=folder)
    rows = list(label_rows(read_dataset(config), config, base).tokenized.examples)
    random.Random(SEED).shuffle(rows)
    return rows


def write_dataset(workload: Workload, model_name: str, folder: Path, *, num_rows: int) -> Path:
    """The same rows as questions and answers, for commands that read a dataset."""
    if workload.length is None:
        raise ValueError(f"{workload.name} is a dataset already")
    base = prepare_base(TrainConfig(model_name_or_path=model_name, output_dir=folder))
    conversations = _drawn_conversations(base, workload.length, num_rows)
    file = folder / f"{workload.name}-{num_rows}.dataset.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"instruction": asked.content, "output": answered.content} for asked, answered in conversations)
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return file


def _drawn_rows(base: PreparedBase, length: Callable[[random.Random], float], num_rows: int) -> list[TokenizedExample]:
    labeller = Labeller(base.tokenizer, base.contract)
    drawn = _drawn_conversations(base, length, num_rows)
    return [labeller.examples(_row(turns, number))[0] for number, turns in enumerate(drawn)]


def _drawn_conversations(
    base: PreparedBase, length: Callable[[random.Random], float], num_rows: int
) -> list[tuple[Turn, Turn]]:
    draw = random.Random(SEED)
    sentences = _sentences()
    shortest = _row((Turn("user", "?"), Turn("assistant", "!")), 0)
    empty = len(Labeller(base.tokenizer, base.contract).examples(shortest)[0].input_ids)  # the template's own tokens
    return [_turns_of_length(base, sentences, draw, length(draw) - empty) for _ in range(num_rows)]


def _turns_of_length(
    base: PreparedBase, sentences: list[str], draw: random.Random, num_tokens: float
) -> tuple[Turn, Turn]:
    ids: list[int] = []
    while len(ids) < num_tokens:
        ids += base.tokenizer.encode(draw.choice(sentences), add_special_tokens=False)
    text = [
        base.tokenizer.decode(part)
        for part in (ids[: int(num_tokens) // 2], ids[int(num_tokens) // 2 : int(num_tokens)])
    ]
    draw.randrange(10**6)  # keeps the rows of earlier figures
    question, answer = (part.replace("\ufffd", "").strip() or "…" for part in text)
    return Turn("user", question), Turn("assistant", answer)


def _row(turns: tuple[Turn, Turn], number: int) -> Conversation:
    return Conversation(turns, Location(Path("workload"), number, number))


def _sentences() -> list[str]:
    rows = json.loads(example("law_data.json").read_text(encoding="utf-8"))
    return sorted({row[field] for row in rows for field in ("instruction", "output")})
