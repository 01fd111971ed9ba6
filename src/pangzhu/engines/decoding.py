"""Many prompts at once through transformers' `generate`, without what `generate` computes in vain.

- Prompts of one batch begin alike (the system text): keys and values of what they share are computed once.
- Rows end at different places, and `generate` computes each until the last has ended: a batch is written in rounds of a
  few tokens, keys and values kept, and after each round the rows that have ended leave it.
- A few rows times a float32 matrix is the faster product the other way round, and in bf16 torch copies the head once a row
  where the rows do not lie one behind the other in memory, as the last places of a prompt do not (`_quick_products`).
- A row whose scores are no numbers is broken off (`_NumbersOnly`): `generate` would go on with whatever token NaN falls on.

Left to others: what a prompt is and which model writes (`pangzhu.engines.transformers`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pangzhu.config import GenerationOptions
from pangzhu.fast.prefix import LEAST_TOKENS, common_length
from pangzhu.model import cache_name
from pangzhu.template import PromptContract

if TYPE_CHECKING:
    import torch
    from transformers import Cache, GenerationConfig, PreTrainedModel
    from transformers.generation.streamers import BaseStreamer

# More rows a step use the processor better, until their keys and values fill the memory.
MAX_BATCH_ROWS = 64
MAX_BATCH_TOKENS = 8192  # places of prompt and answer: 200 MB of keys and values for a 0.5B Qwen in float32
ROUND_TOKENS = 8
SMALLEST_TURNED = 64  # the shorter side of a matrix; LoRA's own are thinner


def batches(lengths: Sequence[int], max_new_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts to answer together: of like length, within `MAX_BATCH_ROWS` and `MAX_BATCH_TOKENS`."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        places = (len(batch) + 1) * (lengths[index] + max_new_tokens)
        if batch and (len(batch) == MAX_BATCH_ROWS or places > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def write_in_rounds(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    contract: PromptContract,
    options: GenerationOptions,
    *,
    streamer: "BaseStreamer | None" = None,
    known: "Cache | None" = None,
) -> list[list[int]]:
    """The ids written for each prompt, a stop token included. One that has neither a stop token nor as many ids as it may
    broke off: its next token's scores were no numbers.

    Args:
        model: writes; nothing of it changes.
        prompts: ids; a single one is written in one round.
        contract: the tokens an answer stops at.
        options: how tokens are drawn, and how many at the most.
        streamer: gets the ids of a single prompt as they come.
        known: keys and values of a single prompt's beginning; those of the rest and of the answer join them.
    """
    import torch

    num_shared, keys_and_values = (0, known) if known is not None else _shared_prefix(model, prompts, contract)
    ids, mask = _flush_right(prompts, contract.end_of_turn_id, num_shared=num_shared)
    input_ids, attention_mask = ids.to(model.device), mask.to(model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    writing = list(range(len(prompts)))  # of which prompt each row of the batch is
    while True:
        num_left = options.max_new_tokens - len(answers[writing[0]])
        num_tokens = num_left if len(prompts) == 1 else min(num_left, ROUND_TOKENS)
        numbers_only = _NumbersOnly(contract.stop_token_ids[0])
        with _quick_products(model, num_rows=len(writing)):
            written = model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                **{cache_name(): keys_and_values},
                generation_config=_generation_config(contract, options, num_tokens),
                logits_processor=[numbers_only],
                streamer=streamer,
            )
        num_before = input_ids.shape[1]
        going_on = []
        for place, new in enumerate(written.sequences[:, num_before:].tolist()):
            kept_ids = _up_to_stop(new, contract.stop_token_ids)
            broke_off = numbers_only.ended_at(place, len(kept_ids))
            answer = answers[writing[place]]
            answer += kept_ids[:-1] if broke_off else kept_ids
            if not broke_off and _goes_on(answer, contract, options):
                going_on.append(place)
        if not going_on:
            return answers
        writing = [writing[place] for place in going_on]
        kept = torch.tensor(going_on, dtype=torch.long, device=model.device)
        keys_and_values = getattr(written, cache_name())
        keys_and_values.reorder_cache(kept)
        input_ids = written.sequences[kept]
        num_new = input_ids.shape[1] - num_before
        attention_mask = torch.nn.functional.pad(attention_mask[kept], (0, num_new), value=1)


def forgets(model: "PreTrainedModel") -> bool:
    """Whether a layer forgets what lies too far back: it cannot go back to an earlier place, and padding counts for it."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _shared_prefix(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], contract: PromptContract
) -> "tuple[int, Cache | None]":
    """How many tokens all prompts begin with, and their keys and values for each prompt; 0 and None where that saves nothing,
    or a model would count the padding behind the prefix."""
    import torch
    from transformers import DynamicCache

    num_shared = common_length([prompt[:-1] for prompt in prompts])
    if len(prompts) == 1 or num_shared < LEAST_TOKENS or forgets(model):
        return 0, None
    keys_and_values = DynamicCache(config=model.config)
    model.generate(
        input_ids=torch.tensor([prompts[0][:num_shared]], device=model.device),
        attention_mask=torch.ones(1, num_shared, dtype=torch.long, device=model.device),
        **{cache_name(): keys_and_values},
        generation_config=_generation_config(contract, GenerationOptions(), num_tokens=1),
    )
    keys_and_values.batch_repeat_interleave(len(prompts))
    return num_shared, keys_and_values


@contextmanager
def _quick_products(model: "PreTrainedModel", *, num_rows: int) -> Iterator[None]:
    """Inside, linear layers on a CPU take the rows of a batch as one matrix, in float32 computing W·xᵀ in place of x·Wᵀ: the
    same sums in less time and memory (docs/decisions.md, 2026-11-24 and 2026-11-26)."""
    import torch

    linears = [part for part in model.modules() if type(part) is torch.nn.Linear] if num_rows > 1 else []
    changed = [(linear, product) for linear in linears if (product := _quick_product(linear))]
    try:
        for linear, product in changed:
            linear.forward = partial(product, linear)  # type: ignore[method-assign]
        yield
    finally:
        for linear, _ in changed:
            del linear.forward


def _quick_product(linear: "torch.nn.Linear") -> "Callable[[torch.nn.Linear, torch.Tensor], torch.Tensor] | None":
    weight = linear.weight
    if "forward" in vars(linear) or weight.device.type != "cpu":  # the former is somebody else's
        return None
    if weight.dtype.itemsize < 4:
        return _flat
    return _turned if weight.dtype.itemsize == 4 and min(weight.shape) >= SMALLEST_TURNED else None


def _turned(linear: "torch.nn.Linear", rows: "torch.Tensor") -> "torch.Tensor":
    """`(..., d_in)` -> `(..., d_out)`."""
    columns = rows.reshape(-1, rows.shape[-1]).t()
    product = (linear.weight @ columns).t().reshape(*rows.shape[:-1], -1)
    return product if linear.bias is None else product + linear.bias


def _flat(linear: "torch.nn.Linear", rows: "torch.Tensor") -> "torch.Tensor":
    """`(..., d_in)` -> `(..., d_out)`."""
    from torch.nn.functional import linear as product

    flat = rows.reshape(-1, rows.shape[-1])
    return product(flat, linear.weight, linear.bias).reshape(*rows.shape[:-1], -1)


class _NumbersOnly:
    """Ends a row in `generate` at the first token whose scores are no numbers, and remembers where: whatever comes next is no
    answer, and drawing from NaN is an error.

    Args:
        end_id: the token a row is ended with.
    """

    def __init__(self, end_id: int) -> None:
        self._end_id = end_id
        self._num_steps = 0
        self._ends: dict[int, int] = {}  # of rows, after how many tokens

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Called by transformers before each token is chosen; scores are `(B, V)`."""
        import torch

        self._num_steps += 1
        lost = ~scores.amax(dim=-1).isfinite()  # NaN and infinity are the largest of their row
        if not lost.any():
            return scores
        for place in lost.nonzero()[:, 0].tolist():
            self._ends.setdefault(place, self._num_steps)
        ending = torch.full_like(scores[0], -torch.inf)
        ending[self._end_id] = 0.0
        return torch.where(lost[:, None], ending, scores)

    def ended_at(self, place: int, num_tokens: int) -> bool:
        """Whether the last of a row's `num_tokens` new tokens is the one put there; it may have ended by itself before."""
        return self._ends.get(place) == num_tokens


def _generation_config(contract: PromptContract, options: GenerationOptions, num_tokens: int) -> "GenerationConfig":
    from transformers import GenerationConfig

    # transformers draws from the 50 likeliest tokens unless told otherwise; what was not asked for has no effect.
    drawing = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p or None,
    }
    return GenerationConfig(
        max_new_tokens=num_tokens,
        do_sample=bool(options.temperature),
        repetition_penalty=options.repetition_penalty,
        eos_token_id=list(contract.stop_token_ids),
        pad_token_id=contract.end_of_turn_id,
        return_dict_in_generate=True,
        **(drawing if options.temperature else {}),
    )


def _up_to_stop(ids: list[int], stop_token_ids: Sequence[int]) -> list[int]:
    """Ids to the first stop token; what follows is padding of the batch."""
    stop = next((place for place, token in enumerate(ids) if token in stop_token_ids), len(ids))
    return ids[: stop + 1]


def _goes_on(answer: Sequence[int], contract: PromptContract, options: GenerationOptions) -> bool:
    return len(answer) < options.max_new_tokens and answer[-1] not in contract.stop_token_ids


def _flush_right(
    prompts: Sequence[Sequence[int]], pad_id: int, *, num_shared: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """`(B, T)` ids and attention mask: what prompts share, then padding, then the rest, so that all answers start at one
    place."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    ids = [
        [*prompt[:num_shared], *[pad_id] * empty, *prompt[num_shared:]]
        for prompt, empty in zip(prompts, padding, strict=True)
    ]
    mask = [[1] * num_shared + [0] * empty + [1] * (width - num_shared - empty) for empty in padding]
    return torch.tensor(ids), torch.tensor(mask)
