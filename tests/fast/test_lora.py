"""Linear layers with their adapters: peft's numbers in every state an adapter can be in, and right gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.autograd import gradcheck

from pangzhu.fast import lora
from tests.conftest import build_lora

T, IN, OUT, R = 5, 6, 4, 2


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def layer_of(model: Any, name: str = "q_proj", number: int = 0) -> torch.nn.Module:
    found = [module for path, module in model.named_modules() if path.endswith(name)]
    return found[number]


def assert_as_peft(module: torch.nn.Module, x: torch.Tensor) -> None:
    """Outputs and all gradients are those of the module's own forward."""
    results = []
    for compute in (lambda given: lora.project([module], given)[0], module):
        given = x.clone().requires_grad_(True)
        module.zero_grad()
        output = compute(given)
        (output * torch.arange(output.numel()).view_as(output).sin()).sum().backward()
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        results.append({"output": output.detach(), "x": given.grad, **gradients})
    ours, peft = results
    assert ours.keys() == peft.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], peft[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("adapters", [(True,), (True, True), (True, False), (False,)])
def test_gradients_are_right(adapters: tuple[bool, ...], with_bias: bool) -> None:
    """Finite differences in float64, for layers with and without an adapter that read one input."""
    frozen = [(random(OUT, IN), random(OUT) if with_bias else None) for _ in adapters]
    masters = [master for adapted in adapters if adapted for master in (random(R, IN), random(OUT, R))]

    def outputs(x: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(given)
        layers = [
            lora.Linear(weight, bias, next(rest), next(rest), 1.5) if adapted else lora.Linear(weight, bias)
            for (weight, bias), adapted in zip(frozen, adapters, strict=True)
        ]
        return lora.apply_linears(layers, x)

    inputs = [random(T, IN), *masters]
    assert gradcheck(outputs, [tensor.requires_grad_(True) for tensor in inputs])


@pytest.mark.parametrize(
    "options",
    [{"r": 1}, {"r": 16}, {"lora_alpha": 1}, {"use_rslora": True}, {"target_modules": "q_proj"},
     {"target_modules": "down_proj,v_proj"}, {}],
)  # fmt: skip
def test_every_layer_computes_what_peft_computes(options: dict[str, Any]) -> None:
    model = build_lora(**options)
    for name, width in (("q_proj", 32), ("v_proj", 32), ("down_proj", 64)):
        assert_as_peft(layer_of(model, name), torch.randn(7, width))


def test_at_the_start_b_is_moved_and_a_is_not() -> None:
    """B is zero: dA is a product with it, dB is not."""
    module = layer_of(build_lora(moved=False))
    lora.project([module], torch.randn(7, 32))[0].square().sum().backward()
    layer = lora.read_linear(module)
    assert layer is not None
    assert not layer.lora_a.grad.any()
    assert layer.lora_b.grad.abs().min() > 0


# --- working copies are never stale --------------------------------------------------------------------------------


def test_after_a_step_the_next_pass_uses_the_moved_weights() -> None:
    module, x = layer_of(build_lora()), torch.randn(7, 32)
    before = lora.project([module], x)[0]
    before.sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert not torch.equal(lora.project([module], x)[0], before)
    assert_as_peft(module, x)


def test_a_disabled_adapter_adds_nothing() -> None:
    model, x = build_lora(), torch.randn(7, 32)
    module = layer_of(model)
    adapted = lora.project([module], x)[0]
    with model.disable_adapter():
        plain = lora.project([module], x)[0]
        torch.testing.assert_close(plain, module(x))
    assert not torch.allclose(plain, adapted)
    assert_as_peft(module, x)


def test_a_merged_and_an_unmerged_adapter_compute_the_same() -> None:
    model, x = build_lora(), torch.randn(7, 32)
    module = layer_of(model)
    adapted = lora.project([module], x)[0]
    model.merge_adapter()
    assert lora.read_linear(module) is None  # peft's own forward
    torch.testing.assert_close(lora.project([module], x)[0], adapted, rtol=1e-5, atol=1e-6)
    model.unmerge_adapter()
    torch.testing.assert_close(lora.project([module], x)[0], adapted, rtol=1e-5, atol=1e-6)


def test_a_loaded_adapter_takes_the_first_ones_place(tmp_path: Path) -> None:
    other = build_lora(r=3)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    other.save_pretrained(tmp_path)
    model, x = build_lora(), torch.randn(7, 32)
    module = layer_of(model)
    first = lora.project([module], x)[0]
    model.load_adapter(str(tmp_path), adapter_name="other")
    model.set_adapter("other")
    assert not torch.allclose(lora.project([module], x)[0], first)
    torch.testing.assert_close(lora.project([module], x)[0], module(x), rtol=1e-5, atol=1e-6)
    model.set_adapter("default")
    torch.testing.assert_close(lora.project([module], x)[0], first)


def test_what_only_peft_computes_runs_its_own_forward() -> None:
    x = torch.randn(7, 32)
    for model in (build_lora(use_dora=True), build_lora()):
        module = layer_of(model)
        if isinstance(model, PeftModel) and not model.peft_config["default"].use_dora:
            model.add_adapter("second", model.peft_config["default"])
            model.base_model.set_adapter(["default", "second"])
        assert lora.read_linear(module) is None
        assert_as_peft(module, x)


def test_a_hook_on_the_layer_is_called() -> None:
    module = layer_of(build_lora())
    called: list[int] = []
    module.register_forward_hook(lambda *_: called.append(1))
    lora.project([module], torch.randn(7, 32))
    assert called == [1]


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_drops_what_peft_drops() -> None:
    module, x = layer_of(build_lora(lora_dropout=0.5)), torch.randn(7, 32)
    module.train()
    results = []
    for compute in (lambda given: lora.project([module], given)[0], module):
        module.zero_grad()
        torch.manual_seed(5)
        output = compute(x)
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
    for ours, peft in zip(*results, strict=True):
        torch.testing.assert_close(ours, peft, rtol=1e-5, atol=1e-6)
    torch.manual_seed(6)
    assert not torch.allclose(module(x), results[1][0])


def test_in_evaluation_nothing_is_dropped() -> None:
    module, x = layer_of(build_lora(lora_dropout=0.5)).eval(), torch.randn(7, 32)
    torch.testing.assert_close(lora.project([module], x)[0], module(x), rtol=1e-5, atol=1e-6)


# --- number formats --------------------------------------------------------------------------------------------------


def test_beside_a_bf16_base_products_are_bf16_and_gradients_float32() -> None:
    model = build_lora()
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    module = layer_of(model)
    [output] = lora.project([module], torch.randn(7, 32, dtype=torch.bfloat16))
    output.float().square().sum().backward()
    layer = lora.read_linear(module)
    assert layer is not None
    assert output.dtype == torch.bfloat16
    assert layer.lora_b.dtype == layer.lora_b.grad.dtype == torch.float32
    assert layer.lora_a.dtype == layer.lora_a.grad.dtype == torch.float32
