"""Base models from a folder: what is loaded, what is refused, what LoRA sits on, what tells bases apart."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pangzhu.config import LoraOptions
from pangzhu.errors import ModelError, UsageError
from pangzhu.messages import listening
from pangzhu.model import (
    attach_lora,
    base_fingerprint,
    build_skeleton,
    context_length,
    generation_stop_ids,
    load_base,
    load_tokenizer,
    num_parameters,
    read_config,
    read_json,
    trainable_parameters,
)
from pangzhu.sources import resolve
from tests.conftest import FAMILIES, build_lora, build_model, build_tokenizer, silently

UP = "model.layers.1.mlp.up_proj.weight"
FORMATS = {
    torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny Qwen2 that a test may spoil."""
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "model"))


def change_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# --- loading -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_remembers_fewer_words_gives_the_same_ids(folder: Path) -> None:
    texts = [f"word{number} 字{number}" for number in range(3000)]
    assert load_tokenizer(folder)(texts * 2)["input_ids"] == build_tokenizer()(texts * 2)["input_ids"]


def saved(tokenizer: Any, folder: Path) -> dict[str, bytes]:
    """All that a tokenizer is."""
    tokenizer.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_as_chosen_by_transformers(folder: Path, scratch: Path) -> None:
    found, expected = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(found) is type(expected)
    assert saved(found, scratch / "found") == saved(expected, scratch / "expected")
    text = "When is the office open?  合同法😀 e\u0301<|im_end|>\n\tdef f(x): return x - 10"
    assert found(text)["input_ids"] == expected(text)["input_ids"]
    assert found.chat_template == expected.chat_template
    assert found.all_special_ids == expected.all_special_ids


@pytest.mark.parametrize(
    "named", [None, "PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2Tokenizer", "Qwen2TokenizerFast"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_is_the_one_that_transformers_would_choose(
    family: str, named: str | None, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder(family), tmp_path / "model"))
    if named:
        change_json(folder / "tokenizer_config.json", tokenizer_class=named)
    assert_as_chosen_by_transformers(folder, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_holds_its_vocabulary_once(family: str, model_folder: Callable[[str], Path]) -> None:
    """In the tokenizers library, whose objects `vars` does not show."""
    tokenizer = load_tokenizer(model_folder(family))
    held = [name for name, value in vars(tokenizer).items() if isinstance(value, dict | list) and len(value) > 100]
    assert held == []
    assert len(tokenizer.get_vocab()) == len(build_tokenizer().get_vocab())


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"])
def test_so_is_that_of_a_packaged_base(name: str, tmp_path: Path) -> None:
    with listening(silently):
        folder = resolve(f"packaged:{name}").folder
    assert_as_chosen_by_transformers(folder, tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_description_of_a_tokenizer_that_is_none_is_an_error(content: str, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        load_tokenizer(folder)
    assert refused.value.key == "error.model.tokenizer_unreadable"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_loaded_frozen_in_evaluation_mode_as_it_was_saved(
    family: str, model_folder: Callable[[str], Path]
) -> None:
    model = load_base(model_folder(family), precision="float32")
    saved = build_model(family).state_dict()
    assert not model.training
    assert not trainable_parameters(model)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert context_length(model) == 2048


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_the_adapter_is_float32_beside_a_base_of_either_format(
    precision: Any, dtype: torch.dtype, folder: Path
) -> None:
    model = load_base(folder, precision=precision)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    adapter = trainable_parameters(attach_lora(model, LoraOptions()))
    assert adapter
    assert {parameter.dtype for parameter in adapter} == {torch.float32}


@pytest.mark.fault("B6")
def test_a_weight_that_is_in_no_file_is_refused_not_made_up(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop(UP))
    with pytest.raises(ModelError) as refused:
        load_base(folder, precision="float32")
    assert refused.value.key == "error.model.weights_missing"
    assert UP in refused.value.what


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({UP: weights[UP][:, :16].clone()}))
    with pytest.raises(ModelError) as refused:
        load_base(folder, precision="float32")
    assert refused.value.key == "error.model.weights_unreadable"


def test_a_cut_weights_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError) as refused:
        load_base(folder, precision="float32")
    assert refused.value.key == "error.model.weights_unreadable"


@pytest.mark.parametrize("build", [build_skeleton, lambda folder: load_base(folder, precision="float32")])
def test_a_config_that_no_model_can_be_built_from_is_refused(build: Callable[[Path], object], folder: Path) -> None:
    change_json(folder / "config.json", hidden_act="no_such_function")
    with pytest.raises(ModelError) as refused:
        build(folder)
    assert refused.value.key == "error.model.weights_unreadable"
    assert "no_such_function" in refused.value.what


def test_numbers_are_counted_by_the_headers_and_a_broken_header_is_refused(folder: Path) -> None:
    assert num_parameters(folder) == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 10)
    with pytest.raises(ModelError) as refused:
        num_parameters(folder)
    assert refused.value.key == "error.model.weights_unreadable"
    assert refused.value.where == str(folder / "model.safetensors")


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.fault("B5")
def test_a_pickle_in_place_of_the_weights_is_refused_and_does_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "sang")))
    with pytest.raises(ModelError):
        load_base(folder, precision="float32")
    assert not (tmp_path / "sang").exists()


def test_an_architecture_that_is_not_known_is_refused_by_name(folder: Path) -> None:
    change_json(folder / "config.json", architectures=["BloomForCausalLM"])
    with pytest.raises(ModelError) as refused:
        load_base(folder, precision="float32")
    assert "BloomForCausalLM" in refused.value.what
    assert "Qwen2ForCausalLM" in refused.value.fix


@pytest.mark.fault("B7")
def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'sang')!r}, 'w')", encoding="utf-8")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    load_base(folder, precision="float32")
    assert not (tmp_path / "sang").exists()


@pytest.mark.parametrize(
    "content", ["", "not json", '{"version": "1.0"}', '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}']
)
def test_a_broken_tokenizer_is_an_error_and_no_traceback(content: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        load_tokenizer(folder)
    assert refused.value.key == "error.model.tokenizer_unreadable"


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 100_000, None])
def test_a_json_file_that_is_none_is_an_error_and_no_traceback(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        read_json(tmp_path / "config.json")
    assert refused.value.where == str(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "expected"), [(None, ()), ({}, ()), ({"eos_token_id": 7}, (7,)), ({"eos_token_id": [7, 9]}, (7, 9))]
)
def test_generation_stops_where_the_model_says(content: dict[str, Any] | None, expected: Any, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    assert generation_stop_ids(tmp_path) == expected


# --- LoRA ----------------------------------------------------------------------------------------------------------


def lora_modules(model: Any) -> set[str]:
    return {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("q_proj,v_proj", {"q_proj", "v_proj"}),
        (" v_proj , q_proj,v_proj,", {"q_proj", "v_proj"}),
        ("up_proj", {"up_proj"}),
    ],
)
def test_lora_sits_on_the_named_modules_alone(wanted: str, expected: set[str]) -> None:
    model = build_lora(target_modules=wanted)
    assert lora_modules(model) == expected
    assert model.peft_config["default"].target_modules == expected


def test_an_unknown_module_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        build_lora(target_modules="q_porj")
    assert "q_proj" in refused.value.what
    assert "down_proj" in refused.value.fix
    assert refused.value.where == "--target_modules"


@pytest.mark.parametrize("head", ["lm_head", "embed_tokens"])
def test_the_head_is_refused(head: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_lora(target_modules=f"q_proj,{head}")
    assert refused.value.key == "error.model.target_head"


@pytest.mark.parametrize("nothing", ["", ",", "  "])
def test_no_module_at_all_is_refused(nothing: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_lora(target_modules=nothing)
    assert refused.value.key == "error.model.target_unknown"


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 32 / 4), (True, 32 / 2)])
def test_the_scale_is_alpha_over_r_or_over_its_root(rslora: bool, scaling: float) -> None:
    model = build_lora(r=4, lora_alpha=32, use_rslora=rslora)
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    assert layer.scaling["default"] == scaling


def test_dora_brings_a_magnitude_that_is_trained() -> None:
    names = [name for name, parameter in build_lora(use_dora=True).named_parameters() if parameter.requires_grad]
    assert any("lora_magnitude_vector" in name for name in names)


def test_b_starts_at_zero_and_a_does_not() -> None:
    for name, parameter in build_lora(moved=False).named_parameters():
        if "lora_" in name:
            assert bool(parameter.any()) == ("lora_A" in name)


# --- fingerprints --------------------------------------------------------------------------------------------------


def test_a_copy_has_the_same_fingerprint(folder: Path, model_folder: Callable[[str], Path]) -> None:
    assert base_fingerprint(folder) == base_fingerprint(model_folder("qwen2"))


def test_no_two_families_share_a_fingerprint(model_folder: Callable[[str], Path]) -> None:
    fingerprints = [base_fingerprint(model_folder(family)) for family in FAMILIES]
    assert len({fingerprint.config for fingerprint in fingerprints}) == len(FAMILIES)


SPOILT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "fewer layers": ("config", lambda folder: change_json(folder / "config.json", num_hidden_layers=1)),
    "another theta": ("config", lambda folder: change_json(folder / "config.json", rope_theta=5.0)),
    "trained further": ("tensors", lambda folder: change_weights(folder, lambda w: w["model.norm.weight"].add_(0.01))),
    "an adapter merged": (
        "tensors",
        lambda folder: change_weights(folder, lambda w: w[UP].add_(0.01 * torch.ones(64, 1) @ torch.ones(1, 32))),
    ),
    "a number for a tensor": ("tensors", lambda folder: change_weights(folder, lambda w: w.update(n=torch.tensor(1)))),
    "another shape": ("tensors", lambda folder: change_weights(folder, lambda w: w.update({UP: w[UP][:9].clone()}))),
    "another format": (
        "tensors",
        lambda folder: change_weights(folder, lambda w: w.update({name: w[name].bfloat16() for name in w})),
    ),
    "a tensor more": ("tensors", lambda folder: change_weights(folder, lambda w: w.update(extra=torch.ones(1)))),
    "another tokenizer": ("tokenizer", lambda folder: change_json(folder / "tokenizer.json", added_tokens=[])),
}


@pytest.mark.parametrize("difference", SPOILT)
@pytest.mark.fault("B4")
def test_a_fingerprint_names_the_part_that_differs(difference: str, folder: Path) -> None:
    part, spoil = SPOILT[difference]
    before = base_fingerprint(folder)
    spoil(folder)
    assert before.differences(base_fingerprint(folder)) == [part]


def test_a_fingerprint_does_not_look_at_what_changes_by_itself(folder: Path) -> None:
    before = base_fingerprint(folder)
    change_json(folder / "config.json", transformers_version="9.9", _name_or_path="elsewhere")
    assert base_fingerprint(folder) == before


def test_a_fingerprint_is_of_every_tensor_s_first_row_as_torch_has_it_in_float32(folder: Path) -> None:
    formats = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
    numbers = 37 * torch.randn(len(formats), 3, 5, generator=torch.Generator().manual_seed(3))
    tensors = {f"{number}": numbers[number].to(kind) for number, kind in enumerate(formats)}
    tensors |= {"one": torch.tensor(2.5), "row": numbers[0, 0].bfloat16(), "none": torch.zeros(0, 4)}
    save_file(tensors, folder / "model.safetensors")
    headers = {name: (list(tensor.shape), FORMATS[tensor.dtype]) for name, tensor in sorted(tensors.items())}
    rows = [tensors[name][:1] if tensors[name].dim() > 1 else tensors[name] for name in headers]
    evidence = [json.dumps(headers, sort_keys=True).encode(), *(row.float().numpy().tobytes() for row in rows)]
    assert base_fingerprint(folder).tensors == hashlib.sha256(b"".join(evidence)).hexdigest()[:16]


def test_the_fingerprint_of_a_broken_folder_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(ModelError):
        base_fingerprint(folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "error.model.quantized"),
        ({"architectures": 5}, "error.model.architecture"),
        ({"architectures": []}, "error.model.architecture"),
    ],
)
def test_a_config_that_no_plain_model_has_is_refused(change: dict[str, Any], key: str, folder: Path) -> None:
    change_json(folder / "config.json", **change)
    with pytest.raises(ModelError) as refused:
        load_base(folder, precision="float32")
    assert refused.value.key == key


def test_a_config_that_its_family_cannot_read_is_told(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nobody's"}), encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        read_config(folder)
    assert (refused.value.key, refused.value.where) == ("error.model.file_unreadable", str(folder / "config.json"))
