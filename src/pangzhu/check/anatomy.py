"""Which tokens of a row the chat template wrote, which people wrote, and which are learned.

The template's own words are known from the same chat with other text. Its control tokens cut a row into pieces; rendered
twice with neutral text ("1", then "2"), what a piece has in common at its head and tail is the template's, and what stands
between them in a real row is people's. Only ids are compared, so text that looks like the template's is not mistaken.

The text of a token is what decoding it after another token adds. A letter that takes several tokens is shown with the last
of them; the ones before it have no text of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from pangzhu.data.conversation import Conversation, Role, Turn
from pangzhu.template import PromptContract, control_token_ids, render
from pangzhu.tokenization import IGNORED, TokenizedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Writer = Literal["control", "template", "people"]
REPLACEMENT = "\ufffd"  # what the bytes of half a letter decode to
LONGEST_LETTER = 8  # tokens; half a letter that goes on longer never becomes one


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that stand together, of one writer and all learned or none. `tokens` holds the text of each."""

    writer: Writer
    learned: bool
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the template writes around people's text between two control tokens."""

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()


class Anatomist:
    """Takes rows apart.

    Args:
        tokenizer: the base model's own.
        contract: the template and its companions.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", contract: PromptContract) -> None:
        self._tokenizer = tokenizer
        self._contract = contract
        self._control = control_token_ids(tokenizer, contract)
        self._frames: dict[tuple[Role, ...], list[_Frame]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self._anchor: list[int] = tokenizer.encode("1", add_special_tokens=False)
        self._anchor_text = self._decode(self._anchor)

    def runs(self, conversation: Conversation, example: TokenizedExample) -> list[Run]:
        """A row's tokens, in runs.

        Args:
            conversation: the row as it was read.
            example: one example that was made of it.
        """
        ids = example.input_ids
        learned = [label != IGNORED for label in example.labels]
        kinds = zip(self._writers(conversation, ids), learned, strict=True)
        tokens = zip(kinds, self._token_texts(ids), strict=True)
        return [
            Run(writer, is_learned, tuple(text for _, text in run))
            for (writer, is_learned), run in groupby(tokens, key=lambda token: token[0])
        ]

    def _writers(self, conversation: Conversation, ids: Sequence[int]) -> list[Writer]:
        """Who wrote each token."""
        writers: list[Writer] = []
        pieces = self._cut(ids)
        frames = self._frames_for(conversation, num_pieces=len(pieces))
        for number, piece in enumerate(pieces):
            if number:
                writers.append("control")
            frame = frames[number] if number < len(frames) else _Frame()
            head = _num_common(piece, frame.head)
            tail = _num_common(piece[head:][::-1], frame.tail[::-1])
            writers += ["template"] * head
            writers += ["people"] * (len(piece) - head - tail)
            writers += ["template"] * tail
        return writers

    def _cut(self, ids: Sequence[int]) -> list[list[int]]:
        """What stands before, between and behind the control tokens."""
        pieces: list[list[int]] = [[]]
        for token_id in ids:
            if token_id in self._control:
                pieces.append([])
            else:
                pieces[-1].append(token_id)
        return pieces

    def _frames_for(self, conversation: Conversation, *, num_pieces: int) -> list[_Frame]:
        """The frames of the chat that a row shows: the whole, or up to one of its answers where each is a row of its own."""
        roles = tuple(turn.role for turn in conversation.turns)
        for end, role in enumerate(roles, start=1):
            if role == "assistant" and (end == len(roles) or len(self._frames_of(roles[:end])) >= num_pieces):
                return self._frames_of(roles[:end])
        return self._frames_of(roles)

    def _frames_of(self, roles: tuple[Role, ...]) -> list[_Frame]:
        if roles not in self._frames:
            one, other = (
                self._cut(render(self._tokenizer, self._contract, [Turn(role, text) for role in roles]))
                for text in ("1", "2")
            )
            self._frames[roles] = [_frame(mine, theirs) for mine, theirs in zip(one, other, strict=False)]
        return self._frames[roles]

    def _token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token."""
        texts: list[str] = []
        letter: tuple[int, ...] = ()
        for token_id in ids:
            letter = (*letter, token_id)
            text = self._text(letter)
            if text.endswith(REPLACEMENT) and len(letter) < LONGEST_LETTER:
                texts.append("")
            else:
                texts.append(text)
                letter = ()
        if letter:
            texts[-1] = self._text(letter)
        return texts

    def _text(self, ids: tuple[int, ...]) -> str:
        if ids not in self._texts:
            self._texts[ids] = self._decode([*self._anchor, *ids])[len(self._anchor_text) :]
        return self._texts[ids]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _frame(one: Sequence[int], other: Sequence[int]) -> _Frame:
    """What two pieces have in common at their heads and tails."""
    head = _num_common(one, other)
    tail = _num_common(one[head:][::-1], other[head:][::-1])
    return _Frame(tuple(one[:head]), tuple(one[len(one) - tail :]))


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    for number, (mine, theirs) in enumerate(zip(left, right, strict=False)):
        if mine != theirs:
            return number
    return min(len(left), len(right))
