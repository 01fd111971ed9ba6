"""Conversation -> `TokenizedExample(input_ids, labels)`, with the proof that the labels are right.

`train_on` says what is learned: every assistant turn with its end-of-turn token (`assistant`), the last one (`last`),
or the whole sequence (`all`, the course's way). For every row it is proven, before training, that each prompt is a true
prefix of what follows, that something is supervised, that the end-of-turn token is supervised, and that nothing
else is. A template that rewrites earlier turns (some drop old reasoning) is recognised: then every assistant turn
becomes an example of its own.

`labels[i]` is `input_ids[i]` where the token is learned and -100 elsewhere; nothing is shifted here.
Left to others: laying rows end to end (`pangzhu.batching`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from pangzhu.config import Overlong, TrainOn
from pangzhu.data.conversation import Conversation, Location, Role, Turn
from pangzhu.data.findings import Finding
from pangzhu.errors import ModelError
from pangzhu.measured_rows import MeasuredRows, joined_rows, lengths_of, supervised_of
from pangzhu.template import PromptContract, control_token_ids, is_plain, render, render_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross_entropy skips this label
ROWS_AHEAD, LETTERS_AHEAD = 128, 100_000  # at the most are rendered and tokenized with one call
HUGE = 64  # letters for each token allowed, from which a row may be too long to be tokenized at all

Rendering = tuple[tuple[Turn, ...], bool]  # turns, and whether the head of an answer follows


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One row as the model sees it; `input_ids` and `labels` have the same length."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    location: Location

    @property
    def num_supervised(self) -> int:
        """Tokens that are learned; the first one of a row has nothing before it to be predicted from."""
        predicted = self.labels[1:]
        return len(predicted) - predicted.count(IGNORED)


@dataclass(frozen=True, slots=True)
class TokenizedDataset:
    """All rows, in memory or read when they are asked for; `findings` hold what could not be proven, the counts what was left
    out on request. The last `num_replay` examples are trained beside the others and are not what is to be learned; of these the
    last `num_held` are the base's own words."""

    examples: Sequence[TokenizedExample]
    findings: tuple[Finding, ...]
    num_dropped: int = 0
    num_truncated: int = 0
    num_replay: int = 0
    num_held: int = 0

    @property
    def num_counted(self) -> int:
        """Examples that are to be learned."""
        return len(self.examples) - self.num_replay

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""
        return lengths_of(self.examples)

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass over the rows."""
        return sum(self.lengths)

    @property
    def num_supervised(self) -> int:
        """Learned tokens of one pass over the rows."""
        return sum(supervised_of(self.examples))

    @property
    def sha256(self) -> str:
        """Fingerprint of what is learned: every row's ids and labels, in order."""
        if isinstance(self.examples, MeasuredRows) and self.examples.sha256:
            return self.examples.sha256
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.input_ids, example.labels)).encode())
        return digest.hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)


class LabelProofError(ValueError):
    """A row whose labels cannot be proven right; `key` names the finding."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key = key
        self.values = values


class Labeller:
    """Turns conversations into examples under one contract.

    Args:
        tokenizer: the base model's own.
        contract: template and companions.
        train_on: which tokens are learned.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", contract: PromptContract, train_on: TrainOn = "assistant"
    ) -> None:
        self._tokenizer = tokenizer
        self._contract = contract
        self._train_on = train_on
        self._neutral: dict[tuple[Role, ...], list[int]] = {}
        self._ahead: dict[Rendering, list[int]] = {}

    def render_ahead(self, conversations: Iterable[Conversation]) -> None:
        """Render what the examples of these conversations will ask for, many at once, which is several times faster.

        Only texts without anything to neutralise; what the template refuses is left to `examples`, which knows its row.
        """
        wanted = dict.fromkeys(chain.from_iterable(map(self._renderings, conversations)))
        self._ahead = {}
        for is_prompt in (False, True):
            self._render_all(
                [turns for turns, prompt in wanted if prompt is is_prompt and self._are_plain(turns)], is_prompt
            )

    def examples(self, conversation: Conversation) -> list[TokenizedExample]:
        """The examples of one conversation: one, or one an assistant turn where the template rewrites earlier ones.

        Raises:
            LabelProofError: the labels cannot be proven.
        """
        turns = conversation.turns
        whole = self._ids(turns)
        self._prove_control_tokens(turns, whole)
        if self._train_on == "all":
            return [self._whole_sequence(whole, conversation.location)]
        last = len(turns) - 1
        spans = [self._span(turns[: index + 1], whole if index == last else None) for index in self._answers(turns)]
        if all(_is_prefix(ids[:end], whole) for ids, _, end in spans):
            return [_example(whole, [(start, end) for _, start, end in spans], conversation.location)]
        return [_example(ids, [(start, end)], conversation.location) for ids, start, end in spans]

    def is_hopeless(self, conversation: Conversation, max_seq_length: int) -> bool:
        """Whether a row is longer than the limit even if all its tokens were the longest there are: a row of many megabytes
        is told so without tokenizing it, which would take gigabytes. Only the last question and answer count, their ends
        stripped, since a template may leave out earlier text; twice, since a tokenizer may compose letters."""
        num_letters = sum(len(turn.content.strip()) for turn in conversation.turns[-2:])
        if num_letters <= HUGE * max_seq_length:
            return False
        return num_letters > 2 * self._longest_token * max_seq_length

    def _render_all(self, chats: Sequence[tuple[Turn, ...]], is_prompt: bool) -> None:
        """Where the template refuses one, its half of them is halved again, so that the others are still done together."""
        try:
            rendered = (
                render_plain(self._tokenizer, self._contract, chats, add_generation_prompt=is_prompt) if chats else []
            )
        except ModelError:
            if len(chats) > 1:
                middle = len(chats) // 2
                self._render_all(chats[:middle], is_prompt)
                self._render_all(chats[middle:], is_prompt)
            return
        self._ahead |= {(turns, is_prompt): ids for turns, ids in zip(chats, rendered, strict=True)}

    def _renderings(self, conversation: Conversation) -> Iterator[Rendering]:
        """What `examples` will render of a conversation."""
        turns = conversation.turns
        yield turns, False
        for index in self._answers(turns):
            yield turns[:index], True
            yield turns[: index + 1], False

    def _answers(self, turns: Sequence[Turn]) -> list[int]:
        """Where the answers stand that are learned by themselves."""
        answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
        return {"assistant": answers, "last": answers[-1:], "all": []}[self._train_on]

    def _are_plain(self, turns: Sequence[Turn]) -> bool:
        system = self._contract.system or ""
        return self._is_plain(system) and all(self._is_plain(turn.content) for turn in turns)

    def _ids(self, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> list[int]:
        if (ids := self._ahead.get((tuple(turns), add_generation_prompt))) is not None:
            return ids
        return render(self._tokenizer, self._contract, turns, add_generation_prompt=add_generation_prompt)

    def _span(self, turns: Sequence[Turn], rendered: list[int] | None) -> tuple[list[int], int, int]:
        """Ids up to the last turn's end, and where its learned tokens start and end (exclusive)."""
        prompt = self._ids(turns[:-1], add_generation_prompt=True)
        ids = rendered or self._ids(turns)
        if not _is_prefix(prompt, ids):
            raise LabelProofError("finding.prompt_no_prefix")
        try:
            end = ids.index(self._contract.end_of_turn_id, len(prompt)) + 1
        except ValueError:
            raise LabelProofError("finding.no_end_token") from None
        if end == len(prompt) + 1:
            raise LabelProofError("finding.nothing_supervised")
        return ids, len(prompt), end

    def _whole_sequence(self, ids: list[int], location: Location) -> TokenizedExample:
        if self._contract.end_of_turn_id not in ids:
            raise LabelProofError("finding.no_end_token")
        return TokenizedExample(tuple(ids), tuple(ids), location)

    def _prove_control_tokens(self, turns: Sequence[Turn], ids: Sequence[int]) -> None:
        """The control tokens must be those of the same chat with neutral text: people's text adds and removes none."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self._neutral:
            self._neutral[roles] = self._control_tokens(self._ids([Turn(role, "1") for role in roles]))
        if self._control_tokens(ids) != self._neutral[roles]:
            raise LabelProofError("finding.control_tokens_changed")

    def _control_tokens(self, ids: Sequence[int]) -> list[int]:
        return list(filter(self._control_ids.__contains__, ids))

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return control_token_ids(self._tokenizer, self._contract)

    @cached_property
    def _longest_token(self) -> int:
        """Letters of the longest token there is."""
        return max(map(len, self._tokenizer.get_vocab()))

    @cached_property
    def _is_plain(self) -> Callable[[str], bool]:
        return is_plain(self._tokenizer, self._contract)


def tokenize(
    conversations: Iterable[Conversation],
    labeller: Labeller,
    *,
    max_seq_length: int,
    overlong: Overlong = "fail",
) -> TokenizedDataset:
    """Every conversation as proven examples; what cannot be proven is a finding, never a silent loss.

    Args:
        conversations: rows that end with an assistant turn.
        labeller: template and labels.
        max_seq_length: longest row allowed, in tokens.
        overlong: what happens to longer rows.
    """
    batches = tokenize_in_batches(conversations, labeller, max_seq_length=max_seq_length, overlong=overlong)
    return joined(tokenized for _, tokenized in batches)


def joined(datasets: Iterable[TokenizedDataset]) -> TokenizedDataset:
    """Several lots of rows as one."""
    parts = list(datasets)
    return TokenizedDataset(
        joined_rows([part.examples for part in parts]),
        tuple(chain.from_iterable(part.findings for part in parts)),
        sum(part.num_dropped for part in parts),
        sum(part.num_truncated for part in parts),
    )


def tokenize_in_batches(
    conversations: Iterable[Conversation],
    labeller: Labeller,
    *,
    max_seq_length: int,
    overlong: Overlong = "fail",
) -> Iterator[tuple[Sequence[Conversation], TokenizedDataset]]:
    """As `tokenize`, a few hundred conversations at a time, each lot with what became of it: who only counts or shows rows
    need not hold them all."""
    for batch in _batches(conversations):
        labeller.render_ahead(row for row in batch if not labeller.is_hopeless(row, max_seq_length))
        yield batch, _tokenize_batch(batch, labeller, max_seq_length, overlong)


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """Conversations in lots that take little memory when they are tokenized together."""
    batch: list[Conversation] = []
    num_letters = 0
    for conversation in conversations:
        batch.append(conversation)
        num_letters += sum(len(turn.content) for turn in conversation.turns)
        if len(batch) == ROWS_AHEAD or num_letters >= LETTERS_AHEAD:
            yield batch
            batch, num_letters = [], 0
    if batch:
        yield batch


def _tokenize_batch(
    conversations: Sequence[Conversation], labeller: Labeller, max_seq_length: int, overlong: Overlong
) -> TokenizedDataset:
    examples: list[TokenizedExample] = []
    findings: list[Finding] = []
    num_dropped = num_truncated = 0
    for conversation in conversations:
        if overlong != "truncate" and labeller.is_hopeless(conversation, max_seq_length):
            if overlong == "drop":
                num_dropped += 1
            else:
                findings.append(_hopeless(conversation, max_seq_length))
            continue
        try:
            rows = labeller.examples(conversation)
        except LabelProofError as unproven:
            findings.append(Finding(unproven.key, conversation.location, values=unproven.values))
            continue
        except ModelError as refused:
            findings.append(Finding("finding.template_refused", conversation.location, values=refused.values))
            continue
        for row in rows:
            if len(row.input_ids) <= max_seq_length:
                examples.append(row)
            elif overlong == "drop":
                num_dropped += 1
            elif overlong == "truncate" and (cut := _truncate(row, max_seq_length)).num_supervised:
                examples.append(cut)
                num_truncated += 1
            else:
                findings.append(_too_long(row, max_seq_length, overlong))
    return TokenizedDataset(tuple(examples), tuple(findings), num_dropped, num_truncated)


def supervised_text(tokenizer: "PreTrainedTokenizerBase", example: TokenizedExample) -> str:
    """What of a row is learned, as text."""
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def supervised_preview(tokenizer: "PreTrainedTokenizerBase", example: TokenizedExample) -> list[tuple[str, bool]]:
    """A row as runs of text, each with whether it is learned: the picture that shows what SFT is."""
    runs: list[tuple[list[int], bool]] = []
    for token_id, label in zip(example.input_ids, example.labels, strict=True):
        learned = label != IGNORED
        if not runs or runs[-1][1] != learned:
            runs.append(([], learned))
        runs[-1][0].append(token_id)
    return [(str(tokenizer.decode(ids)), learned) for ids, learned in runs]


def _is_prefix(head: Sequence[int], whole: Sequence[int]) -> bool:
    return list(whole[: len(head)]) == list(head)


def _example(ids: Sequence[int], spans: Sequence[tuple[int, int]], location: Location) -> TokenizedExample:
    """Label the spans; what follows the last of them can teach nothing and is left off."""
    kept = ids[: spans[-1][1]]
    labels = [IGNORED] * len(kept)
    for start, end in spans:
        labels[start:end] = kept[start:end]
    return TokenizedExample(tuple(kept), tuple(labels), location)


def _truncate(row: TokenizedExample, length: int) -> TokenizedExample:
    return TokenizedExample(row.input_ids[:length], row.labels[:length], row.location)


def _hopeless(conversation: Conversation, limit: int) -> Finding:
    num_letters = sum(len(turn.content) for turn in conversation.turns)
    return Finding("finding.hopelessly_long", conversation.location, values={"letters": num_letters, "limit": limit})


def _too_long(row: TokenizedExample, limit: int, overlong: Overlong) -> Finding:
    values: dict[str, object] = {"length": len(row.input_ids), "limit": limit}
    if overlong == "truncate":
        return Finding("finding.cut_to_nothing", row.location, values=values)
    return Finding("finding.too_long", row.location, values=values)
