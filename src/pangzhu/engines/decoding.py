"""Many prompts at once through transformers' `generate`: which go together, and how a batch grows shorter.

Rows of one batch end at different places, and `generate` computes every row until the last has ended. A batch is therefore
written in rounds of a few tokens, keys and values kept; after each round the rows that have ended leave it.

Left to others: what a prompt is and which model writes (`pangzhu.engines.transformers`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pangzhu.config import GenerationOptions
from pangzhu.template import PromptContract

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel
    from transformers.generation.streamers import BaseStreamer

# More rows a step use the processor better, until their keys and values fill the memory.
MAX_BATCH_ROWS = 64
MAX_BATCH_TOKENS = 8192  # places of prompt and answer: 200 MB of keys and values for a 0.5B Qwen in float32
ROUND_TOKENS = 8


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
) -> list[list[int]]:
    """The ids written for each prompt, a stop token included.

    Args:
        model: writes; nothing of it changes.
        prompts: ids; a single one is written in one round.
        contract: the tokens an answer stops at.
        options: how tokens are drawn, and how many at the most.
        streamer: gets the ids of a single prompt as they come.
    """
    import torch

    input_ids, attention_mask = (part.to(model.device) for part in _pad_left(prompts, contract.end_of_turn_id))
    answers: list[list[int]] = [[] for _ in prompts]
    writing = list(range(len(prompts)))  # of which prompt each row of the batch is
    keys_and_values = None
    while writing:
        num_left = options.max_new_tokens - len(answers[writing[0]])
        num_tokens = num_left if len(prompts) == 1 else min(num_left, ROUND_TOKENS)
        written = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=keys_and_values,
            generation_config=_generation_config(contract, options, num_tokens),
            streamer=streamer,
        )
        num_before = input_ids.shape[1]
        for row, new in zip(writing, written.sequences[:, num_before:].tolist(), strict=True):
            answers[row] += _up_to_stop(new, contract.stop_token_ids)
        going_on = [place for place, row in enumerate(writing) if _goes_on(answers[row], contract, options)]
        writing = [writing[place] for place in going_on]
        kept = torch.tensor(going_on, dtype=torch.long, device=model.device)
        keys_and_values = written.past_key_values
        keys_and_values.reorder_cache(kept)
        input_ids = written.sequences[kept]
        num_new = input_ids.shape[1] - num_before
        attention_mask = torch.nn.functional.pad(attention_mask[kept], (0, num_new), value=1)
    return answers


def _generation_config(contract: PromptContract, options: GenerationOptions, num_tokens: int) -> "GenerationConfig":
    from transformers import GenerationConfig

    # transformers draws from the 50 likeliest tokens unless told otherwise; what was not asked for has no effect.
    drawing = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=num_tokens,
        do_sample=bool(options.temperature),
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


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """`(B, T)` ids and attention mask, prompts flush right so that all answers start at one place."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return input_ids, mask
