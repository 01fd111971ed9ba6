"""The fast path against the reference path, in every family, whole and with each technique left out.

transformers computes norms and rotations in float32 whatever the model's format, so against it double precision shows
seven digits; the fast path against itself shows all of them.
"""

from typing import Any, get_args

import pytest
import torch

from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.config import Technique
from pangzhu.fast import support
from pangzhu.fast.path import FastPath
from pangzhu.fast.techniques import Techniques
from pangzhu.step import StepOutcome, forward_rows, num_computed, predict_rows, split_rows
from pangzhu.tokenization import IGNORED, TokenizedExample
from tests.conftest import FAMILIES, build_lora, build_model, examples, watch_embeddings

DRIVEN = tuple(family for family in FAMILIES if family != "gemma3")
TECHNIQUES = get_args(Technique)
SYSTEM = tuple(range(40, 52))

every_family = pytest.mark.parametrize("family", FAMILIES)
every_driven_family = pytest.mark.parametrize("family", DRIVEN)


def rows_that_begin_alike() -> list[TokenizedExample]:
    """Three with one system text, one without, one learned from its first own token on."""
    rows = []
    for number, row in enumerate(examples(20, 27, 14, 9, 24)):
        head = () if number == 3 else SYSTEM
        prompt = len(head) + (0 if number == 4 else 3)
        ids = (*head, *row.input_ids)
        labels = tuple(IGNORED if place < prompt else token for place, token in enumerate(ids))
        rows.append(TokenizedExample(ids, labels, row.location))
    return rows


def batch_of(rows: list[TokenizedExample]) -> MicroBatch:
    return lay_end_to_end(list(enumerate(rows)))


def path_of(model: Any, *without: str, longest: int = 64) -> FastPath:
    return FastPath(model, Techniques.without(without), longest=longest)  # type: ignore[arg-type]


def gradients(model: Any, path: FastPath | None, batch: MicroBatch) -> tuple[StepOutcome, dict[str, torch.Tensor]]:
    model.zero_grad()
    outcome = forward_rows(model, batch, path)
    outcome.loss_sum.backward()
    named = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return outcome, named


def assert_agree(ours: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == other.keys()
    for name in ours:
        difference = (ours[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)
        assert difference < tolerance, f"{name}: {difference}"


def test_the_techniques_are_those_that_can_be_left_out() -> None:
    assert set(TECHNIQUES) == set(Techniques.__slots__)


@every_family
@pytest.mark.parametrize("without", [(), *((name,) for name in TECHNIQUES), TECHNIQUES])
def test_loss_and_gradients_are_the_reference_paths(family: str, without: tuple[str, ...]) -> None:
    model, batch = build_lora(family).double(), batch_of(rows_that_begin_alike())
    reference, expected = gradients(model, None, batch)
    outcome, found = gradients(model, path_of(model, *without), batch)
    assert outcome.loss_sum.item() == pytest.approx(reference.loss_sum.item(), rel=1e-6)
    assert_agree(found, expected, 1e-5)
    for ours, theirs in zip(outcome.rows, reference.rows, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
        assert (ours.row_index, ours.num_supervised) == (theirs.row_index, theirs.num_supervised)
        assert (ours.learned, ours.near_tie) == (theirs.learned, theirs.near_tie)


@every_family
@pytest.mark.parametrize("without", [(), TECHNIQUES])
def test_log_probabilities_are_those_of_the_model_s_own_logits(family: str, without: tuple[str, ...]) -> None:
    """Of several tokens at each learned place, row after row, whatever is packed, shared or left out."""
    model, rows = build_lora(family).double(), rows_that_begin_alike()
    with torch.no_grad():
        found = predict_rows(model, batch_of(rows), path_of(model, *without))
        places = torch.argsort(found.row_numbers, stable=True)
        wanted = torch.stack((found.targets[places], torch.full_like(places, 5)), dim=1)
        log_probs = path_of(model, *without).log_probs(found.hidden[places], wanted)
        expected = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0].log_softmax(-1)
            learned = [(place, label) for place, label in enumerate(row.labels[1:]) if label != IGNORED]
            expected += [[logits[place, label].item(), logits[place, 5].item()] for place, label in learned]
    assert log_probs.tolist() == [pytest.approx(pair, rel=1e-5) for pair in expected]


@every_driven_family
@pytest.mark.parametrize("without", TECHNIQUES)
def test_each_technique_is_exact(family: str, without: str) -> None:
    """Left out or not, a technique changes nothing but the rounding."""
    tolerance = 1e-5 if without == "layers" else 1e-10  # transformers' norms are float32
    model, batch = build_lora(family).double(), batch_of(rows_that_begin_alike())
    _, whole = gradients(model, path_of(model), batch)
    _, less = gradients(model, path_of(model, without), batch)
    assert_agree(less, whole, tolerance)


@every_driven_family
def test_in_float32_gradients_agree_with_the_reference(family: str) -> None:
    model, batch = build_lora(family), batch_of(rows_that_begin_alike())
    _, expected = gradients(model, None, batch)
    _, found = gradients(model, path_of(model), batch)
    assert_agree(found, expected, 1e-4)


@every_driven_family
def test_the_last_layers_keys_and_values_are_trained(family: str) -> None:
    """Pruned queries must not prune keys: every token still gives one."""
    model, batch = build_lora(family), batch_of(rows_that_begin_alike())
    _, found = gradients(model, path_of(model), batch)
    last = {name: gradient for name, gradient in found.items() if ".layers.1.self_attn." in name}
    assert len(last) == (4 if family == "phi3" else 8)
    assert all(gradient.abs().max() > 0 for gradient in last.values())


@every_driven_family
def test_a_changed_token_in_one_row_leaves_the_next_rows_gradients_as_they_were_to_the_bit(family: str) -> None:
    first, *others = rows_that_begin_alike()
    place = len(SYSTEM) + 1
    ids = list(first.input_ids)
    ids[place] = 3 + (ids[place] + 1) % 256
    changed = TokenizedExample(tuple(ids), first.labels, first.location)

    def at_embeddings(rows: list[TokenizedExample]) -> torch.Tensor:
        model = build_lora(family)
        seen = watch_embeddings(model)
        forward_rows(model, batch_of(rows), path_of(model)).loss_sum.backward()
        assert seen[0].grad is not None
        return seen[0].grad

    before, after = at_embeddings([first, *others]), at_embeddings([changed, *others])
    own = slice(len(SYSTEM), len(first.input_ids) - 1)
    assert torch.equal(after[own.stop :], before[own.stop :])
    assert not torch.equal(after[own], before[own])


@every_driven_family
def test_keys_after_rope_are_those_of_the_row_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pangzhu.fast import attention

    keys: list[torch.Tensor] = []
    attend = attention.attend

    def recording(q: torch.Tensor, k: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        keys.append(k.clone())
        return attend(q, k, *rest, **named)

    monkeypatch.setattr(attention, "attend", recording)
    model, rows = build_lora(family), examples(9, 14, 7)
    path = path_of(model, "alignment")  # what is filled up gives keys of no row
    with torch.no_grad():
        forward_rows(model, batch_of(rows), path)
        together, keys[:] = list(keys), []
        for row in rows:
            forward_rows(model, batch_of([row]), path)
    for layer, packed in enumerate(together):
        alone = torch.cat(keys[layer :: len(together)], dim=1)
        torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_a_batch_with_nothing_to_learn_gives_zero_and_no_nan() -> None:
    model = build_lora()
    outcome, found = gradients(model, path_of(model), batch_of(examples(4, 3, prompt=9)))
    assert outcome.loss_sum.item() == 0.0
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in found.values())


def test_a_base_without_adapters_and_a_disabled_adapter_are_measured_alike() -> None:
    batch = batch_of(rows_that_begin_alike())
    base, model = build_model("qwen2"), build_lora()
    base.requires_grad_(False)
    with torch.no_grad():
        plain = forward_rows(base, batch, path_of(base)).loss_sum  # type: ignore[arg-type]
        with model.disable_adapter():
            disabled = forward_rows(model, batch, path_of(model)).loss_sum
        adapted = forward_rows(model, batch, path_of(model)).loss_sum
    torch.testing.assert_close(plain, disabled)
    assert not torch.allclose(plain, adapted)


def test_no_gradient_is_computed_below_the_lowest_adapter() -> None:
    """The first layer without an adapter is left by the backward pass."""
    model = build_lora(target_modules="q_proj")
    for name, parameter in model.named_parameters():
        if ".layers.0." in name:
            parameter.requires_grad_(False)
    batch = batch_of(rows_that_begin_alike())
    _, found = gradients(model, path_of(model), batch)
    _, expected = gradients(model, None, batch)
    assert all(".layers.1." in name for name in found)
    assert_agree(found, expected, 1e-4)


def test_the_same_batch_gives_the_same_bits() -> None:
    model, batch = build_lora(), batch_of(rows_that_begin_alike())
    path = path_of(model)
    first, again = gradients(model, path, batch)[1], gradients(model, path, batch)[1]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_beside_a_bf16_base_masters_and_gradients_are_float32_and_a_tiny_step_moves_b() -> None:
    """Trap 6: a step of 1e-6 is lost in a bf16 weight."""
    model = build_lora()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, weight_decay=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name}
    _, found = gradients(model, path_of(model), batch_of(rows_that_begin_alike()))
    optimizer.step()
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert all(state["exp_avg"].dtype == torch.float32 for state in optimizer.state.values())
    moved = {name: p.detach() for name, p in model.named_parameters() if "lora_B" in name}
    assert all(not torch.equal(moved[name], before[name]) for name in before)


def test_with_dropout_only_the_adapters_inputs_lose_numbers() -> None:
    """Trap 9: dropout is not skipped, and its mean is the pass without it."""
    model, batch = build_lora(lora_dropout=0.3), batch_of(rows_that_begin_alike())
    path = path_of(model)
    model.train()
    with torch.no_grad():
        draws = torch.stack([forward_rows(model, batch, path).loss_sum for _ in range(40)])
        model.eval()
        without = forward_rows(model, batch, path).loss_sum
    assert draws.std() > 0
    assert (draws.mean() - without).abs() < 4 * draws.std()


# --- what takes the reference path, and says so ----------------------------------------------------------------------


def reasons(model: Any, *without: str, longest: int = 64) -> list[tuple[str, str]]:
    return [
        (reason.part.removeprefix("fast.part."), reason.why)
        for reason in path_of(model, *without, longest=longest).reasons
    ]


def test_a_supported_model_gives_no_reason() -> None:
    assert reasons(build_lora()) == []


def test_an_unknown_family_says_its_name_and_keeps_the_chunked_head() -> None:
    path = path_of(build_lora("gemma3"))
    assert [str(reason) for reason in path.reasons] == [
        "The reference path (transformers, peft) computes the layers: Gemma3TextModel is not known to the fast path."
    ]
    assert not path.drives_decoder


def test_dora_takes_pefts_forward_layer_by_layer() -> None:
    model, batch = build_lora(use_dora=True), batch_of(rows_that_begin_alike())
    assert reasons(model) == [("adapters", "fast.reason.adapters")]
    _, found = gradients(model, path_of(model), batch)
    _, expected = gradients(model, None, batch)
    assert_agree(found, expected, 1e-4)


def test_without_the_lora_technique_dora_needs_no_word() -> None:
    assert reasons(build_lora(use_dora=True), "lora") == []


def test_a_sliding_window_matters_only_to_longer_rows() -> None:
    model = build_lora("mistral")
    model.config.sliding_window = 16
    assert reasons(model, longest=16) == []
    assert reasons(model, longest=17) == [("decoder", "fast.reason.window")]


def test_a_window_that_no_layer_uses_does_not_matter() -> None:
    model = build_lora("qwen2")
    model.config.sliding_window = 16
    model.config.layer_types = ["full_attention"] * 2
    assert reasons(model, longest=99) == []


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "gelu"), ("attention_dropout", 0.1)])
def test_another_activation_or_dropout_in_the_base_takes_the_reference_path(name: str, value: object) -> None:
    model = build_lora()
    setattr(model.config, name, value)
    assert [part for part, _ in reasons(model)] == ["decoder"]


@pytest.mark.parametrize("name", support.SCALED_LOGITS)
def test_a_base_that_changes_its_logits_keeps_its_own_head(name: str) -> None:
    model = build_lora()
    setattr(model.config, name, 2.0)
    assert reasons(model) == [("head", "fast.reason.logits")]


def test_a_head_with_an_adapter_is_peft_s() -> None:
    from peft import LoraConfig, get_peft_model

    base = build_model("llama")
    base.requires_grad_(False)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head", "q_proj"]))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    batch = batch_of(rows_that_begin_alike())
    assert reasons(model) == [("head", "fast.reason.head")]
    _, found = gradients(model, path_of(model), batch)
    _, expected = gradients(model, None, batch)
    assert any("lm_head" in name for name in found)
    assert_agree(found, expected, 1e-4)


@pytest.mark.parametrize(("without", "shared"), [((), len(SYSTEM)), (("prefix",), 0), (("attention",), len(SYSTEM))])
def test_what_all_rows_begin_with_alike_is_told_where_it_is_computed_once(
    without: tuple[str, ...], shared: int
) -> None:
    path = path_of(build_lora(), *without)
    alike = batch_of([row for number, row in enumerate(rows_that_begin_alike()) if number != 3])
    assert path.num_shared(alike.input_ids, alike.row_lengths) == shared
    mixed = batch_of(rows_that_begin_alike())
    assert path.num_shared(mixed.input_ids, mixed.row_lengths) == 0


def test_a_batch_counts_what_it_computes() -> None:
    """A budget that holds the computed tokens holds the batch, and one token less splits it."""
    path, alike = path_of(build_lora()), batch_of(rows_that_begin_alike()[:3])
    computed = num_computed(alike, path)
    assert computed == alike.num_tokens - 2 * len(SYSTEM) == num_computed(alike) - 2 * len(SYSTEM)
    assert len(split_rows(alike, computed, path)) == 1
    assert len(split_rows(alike, computed - 1, path)) == 2


def test_a_model_that_is_not_driven_shares_nothing() -> None:
    path, batch = path_of(build_lora("gemma3")), batch_of(rows_that_begin_alike()[:3])
    assert path.num_shared(batch.input_ids, batch.row_lengths) == 0
