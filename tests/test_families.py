"""The traps of SPEED.md, in every model family: rows never see each other, and rows weigh by their tokens alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.model import load_base
from pangzhu.step import forward_rows
from pangzhu.tokenization import IGNORED, TokenizedExample
from pangzhu.train import train
from tests.conftest import FAMILIES, build_lora, examples, silently, train_config, watch_embeddings

LENGTHS = (14, 23, 9)  # the second is longer than Gemma's sliding window of 16

every_family = pytest.mark.parametrize("family", FAMILIES)


def batch_of(rows: list[TokenizedExample]) -> MicroBatch:
    return lay_end_to_end(list(enumerate(rows)))


def plain_loss(model: Any, row: TokenizedExample) -> torch.Tensor:
    """The textbook's loss of one row alone: no packing, no positions given, nothing of ours."""
    ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return cross_entropy(logits[:-1].float(), labels[1:], ignore_index=IGNORED, reduction="sum")


def embedding_gradient(family: str, rows: list[TokenizedExample], **call: Any) -> torch.Tensor:
    """`(T, H)`: gradient of the summed loss at the input embeddings of the packed rows."""
    model = build_lora(family)
    seen = watch_embeddings(model)
    batch = batch_of(rows)
    if call:
        logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, **call).logits[0]
        loss = cross_entropy(logits.float(), batch.shift_labels[0], ignore_index=IGNORED, reduction="sum")
    else:
        loss = forward_rows(model, batch).loss_sum
    loss.backward()
    assert seen[0].grad is not None
    return seen[0].grad[0]


def with_another_token(row: TokenizedExample, place: int) -> TokenizedExample:
    ids = list(row.input_ids)
    ids[place] = 3 + (ids[place] + 1) % 256
    labels = tuple(token if label != IGNORED else IGNORED for token, label in zip(ids, row.labels, strict=True))
    return TokenizedExample(tuple(ids), labels, row.location)


@every_family
def test_the_loss_of_packed_rows_is_the_sum_of_the_single_rows(family: str) -> None:
    model, rows = build_lora(family), examples(*LENGTHS)
    with torch.no_grad():
        packed = forward_rows(model, batch_of(rows)).loss_sum
        single = sum(plain_loss(model, row) for row in rows)
    assert packed.item() == pytest.approx(float(single), rel=1e-5)


@every_family
def test_a_changed_token_in_one_row_leaves_the_next_rows_gradients_as_they_were_to_the_bit(family: str) -> None:
    first, *others = examples(*LENGTHS)
    before = embedding_gradient(family, [first, *others])
    after = embedding_gradient(family, [with_another_token(first, 5), *others])
    assert torch.equal(after[LENGTHS[0] :], before[LENGTHS[0] :])
    assert not torch.equal(after[: LENGTHS[0]], before[: LENGTHS[0]])


@every_family
@pytest.mark.parametrize("call", ["attention_mask", "use_cache"])
def test_a_mask_of_ones_or_a_cache_really_would_let_rows_see_each_other(family: str, call: str) -> None:
    """What the test before this one guards against: the same change, called wrongly, is seen by the next row."""
    first, *others = examples(*LENGTHS)
    wrong: dict[str, Any] = {"use_cache": True}
    if call == "attention_mask":
        wrong = {"use_cache": False, "attention_mask": torch.ones(1, sum(LENGTHS), dtype=torch.long)}
    before = embedding_gradient(family, [first, *others], **wrong)
    after = embedding_gradient(family, [with_another_token(first, 5), *others], **wrong)
    assert not torch.equal(after[LENGTHS[0] :], before[LENGTHS[0] :])


@every_family
def test_keys_after_rope_are_those_of_the_row_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 3: positions restart."""
    attention = torch.nn.functional.scaled_dot_product_attention
    keys: list[torch.Tensor] = []

    def recording(query: torch.Tensor, key: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        keys.append(key.repeat_interleave(query.shape[1] // key.shape[1], dim=1))  # grouped queries: one key each
        return attention(query, key, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recording)
    model, rows = build_lora(family), examples(*LENGTHS)
    with torch.no_grad():
        forward_rows(model, batch_of(rows))
        packed, keys[:] = list(keys), []
        for row in rows:
            plain_loss(model, row)
    assert len(packed) == 2
    for layer, together in enumerate(packed):
        alone = torch.cat(keys[layer :: len(packed)], dim=2)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@every_family
def test_the_gradients_of_packed_rows_are_the_sum_of_the_single_rows(family: str) -> None:
    rows = examples(*LENGTHS)
    packed, single = build_lora(family), build_lora(family)
    forward_rows(packed, batch_of(rows)).loss_sum.backward()
    for row in rows:
        plain_loss(single, row).backward()
    pairs = zip(packed.named_parameters(), single.parameters(), strict=True)
    compared = [(name, mine.grad, other.grad) for (name, mine), other in pairs if mine.requires_grad]
    assert len(compared) >= 2 * 2 * 4  # A and B, two layers, at least four modules
    for name, mine, other in compared:
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@every_family
def test_base_equals_adapter_at_the_start(family: str) -> None:
    model, batch = build_lora(family, moved=False), batch_of(examples(*LENGTHS))
    with torch.no_grad():
        adapted = forward_rows(model, batch).loss_sum
        with model.disable_adapter():
            plain = forward_rows(model, batch).loss_sum
    assert torch.equal(adapted, plain)


@every_family
def test_lora_sits_on_every_linear_layer_but_the_head_in_float32(family: str) -> None:
    model = build_lora(family)
    config = model.peft_config["default"]
    expected = {"qkv_proj", "gate_up_proj", "o_proj", "down_proj"}
    if family != "phi3":
        expected = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config.target_modules) == expected
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 2 * len(expected)
    assert all("lora_" in name and "lm_head" not in name for name in trainable)


@every_family
def test_a_trained_adapter_is_loaded_by_plain_peft_and_changes_the_base(
    family: str, model_folder: Callable[[str], Path], rows_file: Path, tmp_path: Path, one_core: None
) -> None:
    base, batch = model_folder(family), batch_of(examples(*LENGTHS))
    result = train(train_config(base, rows_file, tmp_path / "out", max_steps=3), on_step=silently)
    loaded = PeftModel.from_pretrained(load_base(base, precision="float32"), tmp_path / "out").eval()
    with torch.no_grad():
        adapted = forward_rows(loaded, batch).loss_sum
        with loaded.disable_adapter():
            plain = forward_rows(loaded, batch).loss_sum
    assert result.num_steps == 3
    assert adapted.isfinite()
    assert not torch.equal(adapted, plain)
