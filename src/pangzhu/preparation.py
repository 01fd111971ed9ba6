"""Everything between a configuration and the first step: base, tokenizer, rows, labels proven, steps planned.

`train` and `check` share it, so that what is checked is what is trained. Nothing here loads the model's weights. The rows of
a large file are read, counted and tokenized as they pass by; what is known of them then is on the disk (`pangzhu.row_index`,
`pangzhu.token_store`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pangzhu import checkpoint, machine, row_index, sealed, storage, token_store
from pangzhu.config import DataOptions, Device, ModelOptions, TrainConfig
from pangzhu.data import Conversation, Dataset, find_problems
from pangzhu.data.counts import RowCounts
from pangzhu.data.findings import BadRowsError, Finding, TooManyBadRowsError, may_skip
from pangzhu.data.line_file import open_lines
from pangzhu.data.row_check import Rules
from pangzhu.data.rows_on_disk import RowsOnDisk
from pangzhu.errors import DataError, ResourceError, UsageError
from pangzhu.examples import example
from pangzhu.messages import say
from pangzhu.model import generation_stop_ids, load_tokenizer, read_json
from pangzhu.sources import BaseModel, resolve
from pangzhu.template import PromptContract, contract_for
from pangzhu.tokenization import Labeller, TokenizedDataset, joined, tokenize_in_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ROWS = TokenizedDataset((), ())
TEXTS = (".json", ".txt", ".model", ".jinja")  # of a base's folder, what its tokenizer may depend on


@dataclass(frozen=True, slots=True)
class PreparedBase:
    """A base model that is here, and how it is spoken to."""

    source: BaseModel
    tokenizer: "PreTrainedTokenizerBase"
    contract: PromptContract
    context_length: int


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """A dataset read and tokenized. `findings` are its rows that cannot be trained on, from reading and labelling;
    `replay_findings` are those of the replay file; `validation` are rows that are measured and never trained; `counts` are of
    the dataset's own rows."""

    dataset: Dataset
    tokenized: TokenizedDataset
    findings: tuple[Finding, ...]
    replay_findings: tuple[Finding, ...] = ()
    validation: TokenizedDataset = NO_ROWS
    counts: RowCounts = field(default_factory=RowCounts)

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Of both files."""
        return (*self.findings, *self.replay_findings)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that will come."""
        return max(self.tokenized.longest, self.validation.longest)


def prepare_base(options: ModelOptions, *, system: str | None = None) -> PreparedBase:
    """Find the base model and its tokenizer, and settle how conversations are rendered."""
    source = resolve(options.model_name_or_path, hub=options.hub, revision=options.revision)
    tokenizer = load_tokenizer(source.folder)
    contract = contract_for(tokenizer, system=system, generation_stop_ids=generation_stop_ids(source.folder))
    length = int(read_json(source.folder / "config.json").get("max_position_embeddings", tokenizer.model_max_length))
    return PreparedBase(source, tokenizer, contract, length)


def prepare_training_base(config: TrainConfig) -> PreparedBase:
    """As `prepare_base`; where none is named, the base that the run in the output folder began with: which hub answers
    may change from day to day."""
    goes_on = config.model_name_or_path is None and config.resume == "auto"
    record = checkpoint.read_record(config.output_dir / checkpoint.RUN) if goes_on else None
    if record:
        config = config.model_copy(update={"model_name_or_path": record.decisions.get("base")})
    return prepare_base(config, system=config.system)


def read_dataset(options: DataOptions) -> Dataset:
    """Read the rows; bad ones are collected, not raised. Needs no model, so a broken file is known before one is fetched.

    Raises:
        DataError: a file as a whole cannot be read, a row of the validation file is bad, or one of the replay file is and none
            may be left out.
    """
    path = options.dataset_path
    if path is None:
        path = example("instruct_tiny.jsonl")
        say("data.packaged_examples", path=path)
    dataset = _read(path, Rules(allow_control_tokens=options.allow_control_tokens))
    return replace(dataset, replay=_read_replay(options), validation=_read_validation(options))


def label_rows(dataset: Dataset, options: DataOptions, base: PreparedBase) -> PreparedRows:
    """Tokenize the rows and prove their labels; what cannot be proven joins the findings. Replay rows without an answer
    wait for the base's own words (`pangzhu.own_words`).

    Raises:
        UsageError: `--max_seq_length` is longer than the model's context.
        DataError: as `label_validation`.
    """
    own, counts = _labelled(dataset, options, base)
    findings = in_file_order((*dataset.rejected, *own.findings))
    beside, replay_findings = NO_ROWS, tuple[Finding, ...]()
    if dataset.replay:
        beside, _ = _labelled(_answered(dataset.replay), options, base)
        replay_findings = in_file_order((*dataset.replay.rejected, *beside.findings))
    tokenized = replace(joined((own, beside)), num_replay=len(beside.examples))
    validation = label_validation(dataset, options, base)
    return PreparedRows(dataset, tokenized, findings, replay_findings, validation, counts)


def _labelled(dataset: Dataset, options: DataOptions, base: PreparedBase) -> tuple[TokenizedDataset, RowCounts]:
    """The rows of one file, and what was counted of them; those that stay on the disk as tokens on the disk."""
    rows = dataset.conversations
    if isinstance(rows, RowsOnDisk):

        def label(some: Sequence[Conversation]) -> Iterator[token_store.Batch]:
            return label_in_batches(replace(dataset, conversations=some), options, base)

        folder = sealed.folder_for(_key(dataset.sha256, rows.rules, options, base))
        return token_store.kept_or_made(folder, rows, label, file=dataset.path)
    counts = RowCounts()
    parts = []
    for batch, part in label_in_batches(dataset, options, base):
        counts.add(batch)
        parts.append(part)
    return joined(parts), counts


def _key(data_sha256: str, rules: Rules, options: DataOptions, base: PreparedBase) -> dict[str, object]:
    """All that the tokens of a file depend on."""
    texts = sorted(path for path in base.source.folder.iterdir() if path.suffix in TEXTS)
    return {
        "kind": "tokens",
        "format": token_store.FORMAT,
        "data": data_sha256,
        "rules": asdict(rules),
        "tokenizer": {path.name: storage.sha256_of(path) for path in texts},
        "versions": [version("transformers"), version("tokenizers")],
        "contract": base.contract.to_json(),
        "max_seq_length": max_seq_length(options, base),
        "overlong": options.overlong,
        "train_on": options.train_on,
    }


def _answered(dataset: Dataset) -> Dataset:
    rows = dataset.conversations
    if isinstance(rows, RowsOnDisk):
        return replace(dataset, conversations=rows.answered())
    return replace(dataset, conversations=tuple(row for row in rows if row.answer is not None))


def label_validation(dataset: Dataset, options: DataOptions, base: PreparedBase) -> TokenizedDataset:
    """Tokenize the validation rows and prove their labels, as those of training rows are; none where there are none.

    Raises:
        DataError: labels cannot be proven, or nothing is left to measure.
    """
    if not dataset.validation:
        return NO_ROWS
    measured = replace(dataset, conversations=dataset.validation)
    tokenized = joined(part for _, part in label_in_batches(measured, options, base))
    if tokenized.findings:
        raise BadRowsError(tokenized.findings, num_rows=len(dataset.validation))
    if not tokenized.num_supervised:
        raise DataError("error.data.nothing_to_measure", where=str(options.validation_path))
    return tokenized


def label_in_batches(
    dataset: Dataset, options: DataOptions, base: PreparedBase
) -> Iterator[tuple[Sequence[Conversation], TokenizedDataset]]:
    """As `label_rows`, a few hundred rows at a time, each lot with what became of it; the rows that reading refused are
    not among them.

    Raises:
        UsageError: `--max_seq_length` is longer than the model's context.
    """
    limit = max_seq_length(options, base)
    labeller = Labeller(base.tokenizer, base.contract, options.train_on)
    return tokenize_in_batches(dataset.conversations, labeller, max_seq_length=limit, overlong=options.overlong)


def in_file_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by row; those of the file itself, row 0, first."""
    return tuple(sorted(findings, key=lambda finding: finding.location.row))


def require_trainable(rows: PreparedRows, *, skip_bad: bool = False) -> None:
    """Refuse rows that cannot be trained on, every one of them named.

    Args:
        rows: what was read.
        skip_bad: go on without up to 1% of the rows of each file.

    Raises:
        BadRowsError: rows with problems, more than may be skipped.
        DataError: nothing is left to train on.
    """
    num_rows, replay = rows.dataset.num_rows, rows.dataset.replay
    num_beside = replay.num_rows if replay else 0
    if rows.all_findings and not skip_bad:
        raise BadRowsError(rows.all_findings, num_rows=num_rows + num_beside)
    for findings, num in ((rows.findings, num_rows), (rows.replay_findings, num_beside)):
        if findings and not may_skip(findings, num_rows=num):
            raise TooManyBadRowsError(findings, num_rows=num)
    for finding in rows.all_findings:
        say("data.skipped", finding=finding)
    if rows.tokenized.num_supervised == 0 or rows.tokenized.num_counted == 0:
        raise DataError("error.data.nothing_to_learn", where=str(rows.dataset.path))


def _read(path: Path, rules: Rules) -> Dataset:
    """A file's rows, those of a large one as an earlier call left them."""
    if (lines := open_lines(path)) is not None:
        return row_index.kept_or_read(lines, rules)
    return find_problems(path, require_answer=rules.require_answer, allow_control_tokens=rules.allow_control_tokens)


def _read_replay(options: DataOptions) -> Dataset | None:
    """The replay file, whose rows may do without an answer; None where there is no file.

    Raises:
        DataError: it cannot be read, or a row is bad and none may be left out.
    """
    if options.replay_path is None:
        return None
    read = _read(options.replay_path, Rules(False, options.allow_control_tokens))
    if read.rejected and not options.skip_bad:
        raise BadRowsError(read.rejected, num_rows=read.num_rows)
    return read


def _read_validation(options: DataOptions) -> Sequence[Conversation]:
    """The rows of the validation file, of which none may be bad; none where there is no file.

    Raises:
        DataError: it cannot be read, or a row is bad.
    """
    if options.validation_path is None:
        return ()
    read = find_problems(options.validation_path, allow_control_tokens=options.allow_control_tokens)
    if read.rejected:
        raise BadRowsError(read.rejected, num_rows=read.num_rows)
    return read.conversations


def decide_device(wanted: Device) -> Literal["cpu", "cuda"]:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        ResourceError: CUDA was asked for and there is none.
    """
    found = wanted != "cpu" and machine.has_gpu()
    if wanted == "cuda" and not found:
        raise ResourceError("error.machine.no_cuda", where="--device cuda")
    return "cuda" if found else "cpu"


def max_seq_length(options: DataOptions, base: PreparedBase) -> int:
    """Most tokens of a row: as asked for, else what the model has room for.

    Raises:
        UsageError: more is asked for than the model has room for.
    """
    if options.max_seq_length is None:
        return base.context_length
    if options.max_seq_length > base.context_length:
        raise UsageError(
            "error.config.longer_than_context",
            where="--max_seq_length",
            wanted=options.max_seq_length,
            limit=base.context_length,
        )
    return options.max_seq_length
