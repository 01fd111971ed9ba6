"""The fast path of one model: what of it applies, and a micro-batch through it.

Hidden states come from `FastDecoder` or, where the model is not known to it, from transformers; losses from the chunked
head or, where the head is special, from its own logits. What does not apply is listed with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pangzhu.fast import loss, support
from pangzhu.fast.decoder import FastDecoder
from pangzhu.fast.loss import Scores, log_softmax
from pangzhu.fast.prefix import LEAST_TOKENS, common_length
from pangzhu.fast.stream import Stream, lay_out
from pangzhu.fast.support import Reason
from pangzhu.fast.techniques import Techniques
from pangzhu.fast.workspace import Workspace

PLACES_A_CHUNK = 64  # whose logits are held at a time: 39 MB of float32 over 150,000 words


@dataclass(frozen=True, slots=True)
class Predictions:
    """Where S tokens are predicted.

    Args:
        hidden: `(S, H)`, after the last norm.
        targets: `(S,)`, the tokens that are learned there.
        row_numbers: `(S,)`, which row of the micro-batch each belongs to; those of one row come in its order.
    """

    hidden: Tensor
    targets: Tensor
    row_numbers: Tensor


class FastPath:
    """What of the fast path applies to a model.

    Args:
        model: a causal language model, with or without peft's adapters.
        techniques: what may be done the fast way.
        longest: tokens of the longest row that will come.
        device: where it will compute; None for where the model is. A model without weights is on none.
    """

    def __init__(self, model: Any, techniques: Techniques, *, longest: int, device: str | None = None) -> None:
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._techniques = techniques
        self._workspace = Workspace(reuses=techniques.memory)
        device = device or self._base.model.device.type
        no_decoder = support.why_not_decoder(self._base.model, longest=longest, device=device)
        no_head = support.why_not_head(self._base)
        self._decoder = None if no_decoder else FastDecoder(self._base.model, techniques, self._workspace)
        self._scores_head = no_head is None and techniques.loss
        no_adapters = None if no_decoder or not techniques.lora else support.why_not_adapters(self._base.model)
        self._fuses_adapters = techniques.lora and no_decoder is None and no_adapters is None
        found = (no_decoder, no_head, no_adapters)
        self.reasons: tuple[Reason, ...] = tuple(reason for reason in found if reason is not None)

    @property
    def drives_decoder(self) -> bool:
        """Whether the layers are computed here."""
        return self._decoder is not None

    @property
    def fuses_adapters(self) -> bool:
        """Whether every adapter is computed inside its linear layer, as long as it has no dropout."""
        return self._fuses_adapters

    @property
    def scores_head(self) -> bool:
        """Whether logits are not kept."""
        return self._scores_head

    def num_shared(self, input_ids: Tensor, row_lengths: Sequence[int]) -> int:
        """Tokens at the beginning of every row that are computed once for all of them.

        Args:
            input_ids: `(1, T)`, rows end to end.
            row_lengths: tokens of each row.
        """
        if self._decoder is None or not self._techniques.prefix or len(row_lengths) == 1:
            return 0
        length = common_length([row.tolist() for row in input_ids[0].split(list(row_lengths))])
        return length if length >= LEAST_TOKENS else 0

    def release(self) -> None:
        """Give back the memory that is kept from one micro-batch to the next."""
        self._workspace.release()

    def plan_stream(self, input_ids: Tensor, shift_labels: Tensor, row_lengths: Sequence[int]) -> Stream:
        """What of a micro-batch is computed; arguments as `score` takes them."""
        driven = self._decoder is not None
        stream = lay_out(
            input_ids[0],
            shift_labels[0],
            row_lengths,
            share_prefixes=driven and self._techniques.prefix,
            drop_tails=driven and self._techniques.pruning,
        )
        return stream.aligned() if driven and self._techniques.alignment else stream

    def score(
        self, *, input_ids: Tensor, position_ids: Tensor, shift_labels: Tensor, row_lengths: Sequence[int]
    ) -> tuple[Scores, Tensor]:
        """A micro-batch's losses, and which of its rows each belongs to, `(S,)`; see `predictions`."""
        found = self.predictions(
            input_ids=input_ids, position_ids=position_ids, shift_labels=shift_labels, row_lengths=row_lengths
        )
        return self.scores(found.hidden, found.targets), found.row_numbers

    def predictions(
        self, *, input_ids: Tensor, position_ids: Tensor, shift_labels: Tensor, row_lengths: Sequence[int]
    ) -> Predictions:
        """The hidden states that a micro-batch's learned tokens are predicted from.

        Args:
            input_ids: `(1, T)`, rows end to end.
            position_ids: `(1, T)`, restarting at 0 with each row.
            shift_labels: `(1, T)`, the next token of the same row where it is learned, else -100.
            row_lengths: tokens of each row.
        """
        stream = self.plan_stream(input_ids, shift_labels, row_lengths)
        hidden = self._hidden_states(stream, input_ids, position_ids)
        return Predictions(stream.spread(hidden), stream.targets, stream.row_numbers)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head's product, `(S, H)` to `(S, V)`; a few hundred megabytes for a thousand places, so take `PLACES_A_CHUNK`."""
        product: Tensor = self._base.lm_head(hidden)
        return product

    def log_probs(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """Log-probability of some tokens as the next one, `(S, C)`, in nats.

        Args:
            hidden: `(S, H)`, after the last norm.
            wanted: `(S, C)`, tokens.
        """
        chunks = zip(hidden.split(PLACES_A_CHUNK), wanted.split(PLACES_A_CHUNK), strict=True)
        return torch.cat([log_softmax(self.logits(states)).gather(1, tokens) for states, tokens in chunks])

    def scores(self, hidden: Tensor, targets: Tensor) -> Scores:
        """The losses of S predictions; arguments as in `Predictions`."""
        if self._scores_head:
            return loss.score(hidden, self._base.lm_head.weight, targets, self._workspace)
        return loss.score_logits(self._base.lm_head(hidden), targets)

    def _hidden_states(self, stream: Stream, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """`(W, H)`."""
        if self._decoder is not None:
            return self._decoder(stream)
        output = self._base.model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        hidden: Tensor = output.last_hidden_state[0, stream.places]
        return hidden
