"""What a stranger's adapter may hold, also where its manifest vouches for every byte: plain LoRA, whole, finite, no more."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pangzhu.adapter import describe, publish, round_to_bf16, sha256_of, verify_files
from pangzhu.config import ModelOptions
from pangzhu.engines.transformers import load_engine
from pangzhu.errors import ModelError
from pangzhu.vetting import CONFIG, WEIGHTS, check_config, check_weights, is_plain_path
from tests.conftest import FAMILIES, build_lora
from tests.damage import CUTS
from tests.test_adapter import KINDS, manifest_for, stage
from tests.test_model import change_json

A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"


@pytest.fixture(scope="module")
def original(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as a finished training leaves it."""
    folder = tmp_path_factory.mktemp("adapter")
    model = build_lora()
    round_to_bf16(model)
    recorded = stage(folder / "staged", model, model_folder("qwen2"))
    publish(folder / "staged", folder / "out", manifest_for(folder / "staged", recorded))
    return folder / "out"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "adapter"))


def vouch(folder: Path) -> None:
    """Write the manifest of a folder anew, as whoever changed its files would."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: sha256_of(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def refused(folder: Path) -> ModelError:
    vouch(folder)
    with pytest.raises(ModelError) as caught:
        verify_files(folder)
    assert caught.value.fix
    assert describe(folder).exit_code == 8
    return caught.value


def change(folder: Path, changing: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    changing(weights)
    save_file(weights, folder / WEIGHTS)


def put(weights: dict[str, torch.Tensor], name: str, value: float) -> None:
    weights[name][-1, -1] = value


# --- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_that_is_published_is_accepted(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    stage(tmp_path / "staged", build_lora(**KINDS[kind]), model_folder("qwen2"))
    check_weights(tmp_path / "staged", check_config(tmp_path / "staged"))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_every_family_are_accepted(
    family: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    stage(tmp_path / "staged", build_lora(family), model_folder(family))
    check_weights(tmp_path / "staged", check_config(tmp_path / "staged"))


@pytest.mark.fault("B2")
@pytest.mark.parametrize("damage", CUTS)
def test_weights_that_are_cut_are_refused_even_where_their_hash_was_made_anew(damage: str, folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(CUTS[damage](file.read_bytes()))
    assert refused(folder).key == "error.adapter.weights_unreadable"


@pytest.mark.fault("B2")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [A, B])
def test_a_number_that_is_none_is_refused_by_tensor(value: float, name: str, folder: Path) -> None:
    change(folder, lambda weights: put(weights, name, value))
    error = refused(folder)
    assert (error.key, error.values["name"]) == ("error.adapter.tensor_not_finite", name)


def test_the_largest_number_of_bf16_is_a_number(folder: Path) -> None:
    change(folder, lambda weights: put(weights, A, torch.finfo(torch.bfloat16).max))
    vouch(folder)
    verify_files(folder)


@pytest.mark.fault("B2")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int16, torch.uint8])
def test_another_type_is_refused_by_tensor(dtype: torch.dtype, folder: Path) -> None:
    change(folder, lambda weights: weights.update({B: weights[B].to(dtype)}))
    error = refused(folder)
    assert (error.key, error.values["name"]) == ("error.adapter.tensor_type", B)


MISFITS: dict[str, tuple[str, str, Callable[[dict[str, torch.Tensor]], object]]] = {
    "no A": ("tensor_missing", A, lambda weights: weights.pop(A)),
    "no B": ("tensor_missing", B, lambda weights: weights.pop(B)),
    "a layer without": ("tensor_missing", A.rpartition(".lora_A")[0], lambda weights: [weights.pop(A), weights.pop(B)]),
    "a module nowhere": (
        "tensor_missing",
        "down_proj",
        lambda weights: [weights.pop(name) for name in list(weights) if "down_proj" in name],
    ),
    "no first layer": (
        "tensor_missing",
        "base_model.model.model.layers.0.mlp.down_proj",
        lambda weights: [weights.pop(name) for name in list(weights) if ".0." in name],
    ),
    "a module too many": (
        "tensor_unknown",
        A.replace("q_proj", "lm_head"),
        lambda weights: weights.update({A.replace("q_proj", "lm_head"): weights[A].clone()}),
    ),
    "a part too many": (
        "tensor_unknown",
        A.replace("lora_A.weight", "lora_magnitude_vector"),
        lambda weights: weights.update({A.replace("lora_A.weight", "lora_magnitude_vector"): weights[A][0].clone()}),
    ),
    "a name of nothing": ("tensor_unknown", "evil", lambda weights: weights.update({"evil": weights[A].clone()})),
    "another rank": ("tensor_shape", A, lambda weights: weights.update({A: weights[A][:1].clone()})),
    "a flat B": ("tensor_shape", B, lambda weights: weights.update({B: weights[B].flatten()})),
    "nothing at all": ("tensor_missing", "down_proj", lambda weights: weights.clear()),
}


@pytest.mark.fault("B2")
@pytest.mark.parametrize("misfit", MISFITS)
def test_tensors_too_many_too_few_or_of_another_shape_are_refused_by_name(misfit: str, folder: Path) -> None:
    key, name, changing = MISFITS[misfit]
    change(folder, changing)
    error = refused(folder)
    assert (error.key, error.values["name"]) == (f"error.adapter.{key}", name)


@pytest.mark.fault("B2")
def test_dora_without_a_magnitude_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "staged"
    stage(folder, build_lora(use_dora=True), model_folder("qwen2"))
    change(folder, lambda weights: weights.pop(next(name for name in weights if "magnitude" in name)))
    with pytest.raises(ModelError) as caught:
        check_weights(folder, check_config(folder))
    assert "lora_magnitude_vector" in str(caught.value.where)


@pytest.mark.fault("B2")
def test_layers_that_the_base_has_not_are_refused_although_peft_would_leave_them_out(
    folder: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    shorter = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "shorter"))
    change_json(shorter / "config.json", num_hidden_layers=1, layer_types=["full_attention"])
    options = ModelOptions(model_name_or_path=str(shorter), device="cpu", precision="float32")
    with pytest.raises(ModelError) as caught:
        load_engine(options, [str(folder)], allow_base_mismatch=True)
    assert caught.value.key == "error.adapter.tensor_unknown"
    assert "layers.1" in str(caught.value.values["name"])


# --- adapter_config.json -----------------------------------------------------------------------------------------------


REFUSED_FIELDS: list[tuple[str, object]] = [
    ("peft_type", "IA3"),
    ("peft_type", ["LORA"]),
    ("task_type", "SEQ_CLS"),
    ("r", 0),
    ("r", -8),
    ("r", True),
    ("r", 8.0),
    ("r", "8"),
    ("r", 10**9),
    ("lora_alpha", math.nan),
    ("lora_alpha", math.inf),
    ("lora_alpha", None),
    ("lora_dropout", 1),
    ("lora_dropout", "0"),
    ("target_modules", "(a+)+$"),  # a pattern
    ("target_modules", "all-linear"),
    ("target_modules", []),
    ("target_modules", ["q_proj", "q_proj"]),
    ("target_modules", ["lm_head"]),
    ("target_modules", ["../q_proj"]),
    ("target_modules", {"q_proj": 1}),
    ("use_dora", 1),
    ("base_model_name_or_path", "../../elsewhere"),
    ("base_model_name_or_path", "models\\..\\..\\elsewhere"),
    ("base_model_name_or_path", "a\nb"),
    ("base_model_name_or_path", "x" * 100_000),
    ("base_model_name_or_path", 7),
    ("revision", "../main"),
    ("auto_mapping", {"base_model_class": "X", "parent_library": "evil"}),
    ("rank_pattern", {"q_proj": 1}),
    ("alpha_pattern", {"(a+)+$": 1}),
    ("layer_replication", [[0, 2]]),
    ("trainable_token_indices", [1]),
    ("eva_config", {"path": "x"}),
    ("megatron_core", "evil.module"),
    ("lora_bias", True),
    ("a_field_of_tomorrow", "on"),
]


@pytest.mark.fault("B3")
@pytest.mark.parametrize(("name", "value"), REFUSED_FIELDS, ids=lambda part: str(part)[:30])
def test_a_field_that_is_not_that_of_plain_lora_is_refused_by_name(name: str, value: object, folder: Path) -> None:
    change_json(folder / CONFIG, **{name: value})
    error = refused(folder)
    assert (error.key, error.values["name"]) == ("error.adapter.config_refused", name)


@pytest.mark.fault("B3")
@pytest.mark.parametrize("name", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_a_field_that_must_be_there_is_missed_by_name(name: str, folder: Path) -> None:
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    del fields[name]
    (folder / CONFIG).write_text(json.dumps(fields), encoding="utf-8")
    assert refused(folder).values["name"] == name


@pytest.mark.fault("B3")
@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "error.model.file_unreadable"),
        (b"r = 8", "error.model.file_unreadable"),
        (b"[]", "error.model.file_unreadable"),
        (b'"LORA"', "error.model.file_unreadable"),
        (b"\xff\xfe{", "error.model.file_unreadable"),
        (b"[" * 100_000, "error.model.file_unreadable"),
        (b'{"r": ' * 100_000, "error.model.file_unreadable"),
        (b'{"r": 8, "x": "' + b"y" * 10_000_000 + b'"}', "error.model.file_too_large"),
    ],
    ids=["empty", "not JSON", "list", "text", "not UTF-8", "deep list", "deep object", "10 MB"],
)
def test_a_config_that_is_no_json_too_deep_or_too_large_is_refused(content: bytes, key: str, folder: Path) -> None:
    (folder / CONFIG).write_bytes(content)
    assert refused(folder).key == key


def test_a_field_that_is_not_known_may_be_empty(folder: Path) -> None:
    change_json(folder / CONFIG, a_field_of_tomorrow=None, another={})
    vouch(folder)
    verify_files(folder)


@pytest.mark.parametrize(
    ("path", "is_plain"),
    [
        (None, True),
        ("Qwen/Qwen2.5-0.5B-Instruct", True),
        ("packaged:smollm2-135m-instruct", True),
        ("/data/模型/qwen　2", True),
        ("C:\\Users\\me\\model", True),
        ("a..b/c", True),
        ("", False),
        ("..", False),
        ("a/../b", False),
        ("a\x00b", False),
    ],
)
def test_a_plain_path_stays_where_it_says(path: str | None, is_plain: bool) -> None:
    assert is_plain_path(path) is is_plain


# --- the base it names -------------------------------------------------------------------------------------------------


@pytest.mark.fault("B3")
@pytest.mark.parametrize("name", ["\\\\evil\\share\\model", "//evil/share", "../../secret", ""])
def test_a_base_elsewhere_is_not_opened_on_the_adapters_word(name: str, folder: Path) -> None:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["base"]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_engine(ModelOptions(), [str(folder)])
    assert caught.value.key == "error.adapter.base_elsewhere"
    assert "--model_name_or_path" in caught.value.fix


@pytest.mark.fault("B4")
def test_a_base_with_another_chat_template_is_refused_and_that_is_the_part_named(
    original: Path, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The adapter is left as it is: what it was trained on is what it would be asked by."""
    changed = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "base"))
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("Be brief.", "Be rude."), encoding="utf-8")
    manifest = json.loads((original / "manifest.json").read_text(encoding="utf-8"))
    prompt = json.loads((original / "prompt.json").read_text(encoding="utf-8"))
    adapter = Path(shutil.copytree(original, tmp_path / "adapter"))
    change_json(
        adapter / "manifest.json", template_sha256=prompt["template_sha256"], data_sha256=manifest["data_sha256"]
    )
    options = ModelOptions(model_name_or_path=str(changed), device="cpu", precision="float32")
    with pytest.raises(ModelError) as caught:
        load_engine(options, [str(adapter)])
    assert (caught.value.key, caught.value.values["parts"]) == ("error.adapter.wrong_base", "template")


@pytest.mark.parametrize(
    "change_",
    [{"data_sha256": 7}, {"template_sha256": None}, {"files": {"a": 1}}, {"versions": {"torch": 2}}, {"versions": 3}],
)
@pytest.mark.fault("B3")
def test_a_manifest_whose_fields_are_of_another_type_is_refused(change_: dict[str, object], folder: Path) -> None:
    change_json(folder / "manifest.json", **change_)
    with pytest.raises(ModelError) as caught:
        verify_files(folder)
    assert caught.value.key == "error.adapter.manifest_broken"


@pytest.mark.parametrize("name", ["../outside", "a/b", "9" * 5000, "a\x00b", "NUL", "", ".", "C:x", "x\ny"])
def test_a_manifest_that_names_what_is_no_plain_file_is_refused(name: str, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = "f" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        verify_files(folder)
    assert caught.value.key == "error.adapter.file_missing"
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", ["", [], [["a", 1]]])
@pytest.mark.parametrize("name", ["files", "metrics", "versions"])
def test_what_only_resembles_a_mapping_is_no_mapping(name: str, value: object, folder: Path) -> None:
    change_json(folder / "manifest.json", **{name: value})
    with pytest.raises(ModelError) as caught:
        verify_files(folder)
    assert caught.value.key == "error.adapter.manifest_broken"
