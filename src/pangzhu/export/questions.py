"""What the parity gate asks: the adapter's own questions, and general ones.

Own questions come from the file that the adapter was trained on. Its manifest names it, without its folder, and has its
sha256: it is looked for beside the adapter, in the folder above, in the current one, and among the packaged examples. Where
it is nowhere, the general questions are asked alone, and that is said. Of this file rows that cannot be trained on are left
out, as training did, with a word; in any other that is named they are an error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.data import find_problems, load_dataset
from pangzhu.data.conversation import Conversation, Turn
from pangzhu.data.findings import BadRowsError, count_bad_rows
from pangzhu.examples import example
from pangzhu.export.readers import Ids
from pangzhu.export.subject import Adapter, Subject
from pangzhu.messages import say
from pangzhu.questions import GENERAL
from pangzhu.storage import sha256_of
from pangzhu.template import is_plain, render
from pangzhu.tokenization import IGNORED, Labeller, TokenizedExample, tokenize
from pangzhu.vetting import is_plain_name

if TYPE_CHECKING:
    from pangzhu.export.options import MergeConfig

OWN = "taught"
NUM_GENERAL = 20
GENERAL_PROMPTS = "general_prompts.jsonl"
PACKAGED = ("law_data.json", "instruct_tiny.jsonl")


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the gate.

    Args:
        kind: own or general.
        turns: of the conversation, its last answer left out; the contract's system text is not among them.
        prompt: the same as ids, by the adapter's contract.
        expected: the answer of its data, end token included; nothing for general ones.
        plain: nothing in the turns had to be neutralised, so a program that neutralises nothing is to make the same ids.
    """

    kind: str
    turns: tuple[Turn, ...]
    prompt: Ids
    expected: Ids
    plain: bool


def questions_for(subject: Subject, config: "MergeConfig") -> list[Question]:
    """The questions to ask of an export.

    Raises:
        BadRowsError: a row of other data than the adapter's is bad.
    """
    general = load_dataset(example(GENERAL_PROMPTS), require_answer=False).conversations[:NUM_GENERAL]
    own, is_trained = _own_rows(subject.adapter, config)
    questions = _own_questions(subject, own, leave_out=is_trained)
    return [*questions, *(_question(subject, row, GENERAL) for row in general)]


def _own_rows(adapter: Adapter | None, config: "MergeConfig") -> tuple[Sequence[Conversation], bool]:
    """Rows of the adapter's data, taken evenly over the file where there are more than are asked; and whether it is the very
    file that was trained on."""
    if adapter is None:
        return (), False
    file = config.dataset_path or next(_data_files(adapter), None)
    if file is None:
        say("parity.no_data", name=adapter.manifest.data.get("file", {}).get("name"))
        return (), False
    is_trained = sha256_of(file) == adapter.manifest.data_sha256
    dataset = find_problems(file, allow_control_tokens=True) if is_trained else load_dataset(file)
    rows = dataset.conversations
    _say_left_out(count_bad_rows(dataset.rejected))
    step = max(1, -(-len(rows) // config.gate_questions))
    say("parity.data", file=file, num=len(range(0, len(rows), step)), total=len(rows))
    return rows[::step], is_trained


def _say_left_out(num_rows: int) -> None:
    if num_rows:
        say("parity.left_out", num=num_rows)


def _data_files(adapter: Adapter) -> Iterator[Path]:
    """Files that are the adapter's data, byte by byte."""
    recorded = adapter.manifest.data.get("file")
    name = recorded.get("name") if isinstance(recorded, dict) else None
    folder = adapter.folder.resolve()
    places = [folder, folder.parent, Path()] if isinstance(name, str) and is_plain_name(name) else []
    candidates = [*(place / str(name) for place in places), *map(example, PACKAGED)]
    for file in candidates:
        if file.is_file() and sha256_of(file) == adapter.manifest.data_sha256:
            yield file


def _own_questions(subject: Subject, rows: Sequence[Conversation], *, leave_out: bool) -> Iterator[Question]:
    labeller = Labeller(subject.base.tokenizer, subject.contract, "last")
    tokenized = tokenize(rows, labeller, max_seq_length=subject.base.context_length)
    if tokenized.findings and not leave_out:
        raise BadRowsError(tokenized.findings, num_rows=len(rows))
    _say_left_out(count_bad_rows(tokenized.findings))
    bad = {finding.location for finding in tokenized.findings}
    for row, labelled in zip([row for row in rows if row.location not in bad], tokenized.examples, strict=True):
        yield _question(subject, row, OWN, _answer(labelled))


def _answer(labelled: TokenizedExample) -> Ids:
    return tuple(label for label in labelled.labels if label != IGNORED)


def _question(subject: Subject, row: Conversation, kind: str, expected: Ids = ()) -> Question:
    tokenizer, contract = subject.base.tokenizer, subject.contract
    prompt = render(tokenizer, contract, row.prompt, add_generation_prompt=True)
    plain = is_plain(tokenizer, contract)
    return Question(kind, tuple(row.prompt), tuple(prompt), expected, all(plain(turn.content) for turn in row.prompt))
