"""The adapter folder: what is written is what was trained, what is read is what was written, nothing else is accepted."""

import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pangzhu import adapter
from pangzhu.adapter import (
    BaseRecord,
    Manifest,
    check_base,
    describe,
    file_hashes,
    library_versions,
    prove_adapter,
    publish,
    read_manifest,
    round_to_bf16,
    verify_files,
    write_adapter,
)
from pangzhu.batching import MicroBatch, lay_end_to_end
from pangzhu.errors import ModelError, VerificationError
from pangzhu.model import base_fingerprint, load_base, load_tokenizer
from pangzhu.storage import DiskError, sha256_of
from pangzhu.template import PromptContract, contract_for
from tests.conftest import build_lora, build_tokenizer, examples
from tests.test_model import Canary, change_json, change_weights

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "attention only": {"target_modules": "v_proj,q_proj"},
    "dropout": {"lora_dropout": 0.3},
}


@pytest.fixture
def base(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny Qwen2 that a test may spoil."""
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "base"))


def proof_batch() -> MicroBatch:
    return lay_end_to_end(list(enumerate(examples(9, 14))))


def stage(folder: Path, model: Any, base: Path, *, public_id: str | None = None) -> BaseRecord:
    """Write an adapter as training does, without its manifest."""
    recorded = BaseRecord(str(base), public_id, None, base_fingerprint(base))
    tokenizer = build_tokenizer()
    write_adapter(folder, model, tokenizer=tokenizer, contract=contract_for(tokenizer), base=recorded)
    return recorded


def manifest_for(staged: Path, recorded: BaseRecord) -> Manifest:
    metrics = {"num_learned": 5, "num_rows": 6, "num_steps": 9}
    return Manifest(recorded, "d" * 64, "t" * 64, file_hashes(staged), library_versions(), metrics)


@pytest.fixture
def published(base: Path, tmp_path: Path) -> Path:
    """A folder as a finished training leaves it."""
    model = build_lora()
    round_to_bf16(model)
    recorded = stage(tmp_path / "staged", model, base)
    (tmp_path / "staged" / "README.md").write_text("card", encoding="utf-8")
    publish(tmp_path / "staged", tmp_path / "out", manifest_for(tmp_path / "staged", recorded))
    return tmp_path / "out"


# --- rounding and writing --------------------------------------------------------------------------------------------


def test_rounding_leaves_only_what_bf16_can_hold_and_touches_nothing_of_the_base() -> None:
    model = build_lora()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    round_to_bf16(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        expected = before[name].bfloat16().float() if "lora_" in name else before[name]
        assert torch.equal(parameter, expected), name


def test_weights_are_saved_in_bf16_as_safetensors(published: Path) -> None:
    with safe_open(published / "adapter_model.safetensors", framework="pt") as weights:
        types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  # not a dict
    assert types == {"BF16"}


def test_the_same_adapter_is_the_same_bytes(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        stage(tmp_path / name, build_lora(), base)
    assert file_hashes(tmp_path / "one") == file_hashes(tmp_path / "two")


def test_target_modules_are_written_in_order(published: Path) -> None:
    """peft writes them in hash order, another one each time."""
    config = json.loads((published / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 7


@pytest.mark.parametrize(
    ("public_id", "named"), [("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"), (None, None)]
)
def test_the_base_is_named_by_its_public_id_where_it_has_one(
    public_id: str | None, named: str | None, base: Path, tmp_path: Path
) -> None:
    stage(tmp_path / "staged", build_lora(), base, public_id=public_id)
    config = json.loads((tmp_path / "staged" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == (named or str(base))


def test_tokenizer_template_and_prompt_come_with_the_adapter(published: Path) -> None:
    names = {file.name for file in published.iterdir()}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "prompt.json", "manifest.json"}
    assert PromptContract.read(published / "prompt.json") == contract_for(build_tokenizer())


# --- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_saved_equals_loaded_to_the_bit(kind: str, base: Path, tmp_path: Path) -> None:
    model = build_lora(**KINDS[kind])
    round_to_bf16(model)
    stage(tmp_path / "staged", model, base)
    assert prove_adapter(tmp_path / "staged", model, proof_batch()) > 0
    loaded = PeftModel.from_pretrained(load_base(base, precision="float32"), tmp_path / "staged").eval()
    with torch.no_grad():
        mine, theirs = (adapter._logits(one, proof_batch()) for one in (model.eval(), loaded))
    assert (mine - theirs).abs().max() == 0.0


def test_the_proof_leaves_the_model_as_it_was(base: Path, tmp_path: Path) -> None:
    model = build_lora()
    round_to_bf16(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    stage(tmp_path / "staged", model, base)
    prove_adapter(tmp_path / "staged", model, proof_batch())
    assert model.active_adapter == "default"
    assert list(model.peft_config) == ["default"]
    assert {name for name, _ in model.named_parameters()} == set(before)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_plain_script_without_pangzhu_loads_the_very_same_model(published: Path, base: Path, tmp_path: Path) -> None:
    """peft and transformers alone, in a process of its own."""
    script = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
base, folder, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False)
with torch.no_grad():
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
assert not any(name.partition(".")[0] == "pangzhu" for name in sys.modules)
save_file({"logits": logits, "ids": torch.tensor(ids)}, out)
"""
    subprocess.run(
        [sys.executable, "-c", script, str(base), str(published), str(tmp_path / "logits")],
        check=True,
        capture_output=True,
    )
    theirs = load_file(tmp_path / "logits")
    model = build_lora()
    round_to_bf16(model)
    with torch.no_grad():
        mine = model.eval()(input_ids=theirs["ids"][None], use_cache=False).logits[0]
    assert (mine - theirs["logits"]).abs().max() == 0.0


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_merged_equals_adapter(kind: str) -> None:
    model = build_lora(**KINDS[kind]).eval()
    with torch.no_grad():
        adapted = adapter._logits(model, proof_batch())
        batch = proof_batch()
        merged = model.merge_and_unload()(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)


def spoil(model: Any, value: float, *, only: str) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.fill_(value)


def test_an_adapter_whose_every_b_is_zero_is_refused(base: Path, tmp_path: Path) -> None:
    model = build_lora(moved=False)
    stage(tmp_path / "staged", model, base)
    with pytest.raises(VerificationError) as refused:
        prove_adapter(tmp_path / "staged", model, proof_batch())
    assert refused.value.key == "error.adapter.b_zero"
    assert refused.value.exit_code == 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.fault("A12")
def test_an_adapter_with_a_number_that_is_none_is_refused_by_tensor(value: float, base: Path, tmp_path: Path) -> None:
    model = build_lora()
    spoil(model, value, only="layers.1.mlp.up_proj.lora_B")
    stage(tmp_path / "staged", model, base)
    with pytest.raises(VerificationError) as refused:
        prove_adapter(tmp_path / "staged", model, proof_batch())
    assert refused.value.key == "error.adapter.not_finite"
    assert "layers.1.mlp.up_proj.lora_B" in str(refused.value.where)


def test_an_adapter_that_changes_no_logit_is_refused(base: Path, tmp_path: Path) -> None:
    model = build_lora()
    spoil(model, 1e-30, only="lora_B")
    round_to_bf16(model)
    stage(tmp_path / "staged", model, base)
    with pytest.raises(VerificationError) as refused:
        prove_adapter(tmp_path / "staged", model, proof_batch())
    assert refused.value.key == "error.adapter.changes_nothing"


def test_an_adapter_that_is_not_the_trained_one_is_refused(base: Path, tmp_path: Path) -> None:
    model = build_lora()
    round_to_bf16(model)
    stage(tmp_path / "staged", model, base)
    file = tmp_path / "staged" / "adapter_model.safetensors"
    weights = load_file(file)
    first = sorted(name for name in weights if "lora_B" in name)[0]
    weights[first][0, 0] += 0.5
    save_file(weights, file)
    with pytest.raises(VerificationError) as refused:
        prove_adapter(tmp_path / "staged", model, proof_batch())
    assert refused.value.key == "error.adapter.loaded_differs"


def test_unrounded_masters_do_not_pass_for_what_was_written(base: Path, tmp_path: Path) -> None:
    model = build_lora()
    stage(tmp_path / "staged", model, base)
    with pytest.raises(VerificationError):
        prove_adapter(tmp_path / "staged", model, proof_batch())


@pytest.mark.parametrize("fault", ["b zero", "nan"])
@pytest.mark.fault("A12")
def test_a_refused_adapter_leaves_the_published_one_as_it_is(
    fault: str, published: Path, base: Path, tmp_path: Path
) -> None:
    before = file_hashes(published)
    model = build_lora()
    spoil(model, 0.0 if fault == "b zero" else math.nan, only="lora_B")
    stage(tmp_path / "staged", model, base)
    with pytest.raises(VerificationError):
        prove_adapter(tmp_path / "staged", model, proof_batch())
    assert file_hashes(published) == before
    assert describe(published).fault is None


# --- publishing and the manifest -------------------------------------------------------------------------------------


def test_the_manifest_names_every_file_with_its_hash(published: Path) -> None:
    manifest = read_manifest(published)
    others = {file.name for file in published.iterdir()} - {"manifest.json"}
    assert set(manifest.files) == others
    assert all(sha256_of(published / name) == sha256 for name, sha256 in manifest.files.items())
    assert set(manifest.versions) == {"torch", "transformers", "peft", "pangzhu"}


def test_a_manifest_reads_back_as_it_was_written(published: Path, base: Path) -> None:
    manifest = read_manifest(published)
    assert manifest.base == BaseRecord(str(base), None, None, base_fingerprint(base))
    assert manifest.to_json() == (published / "manifest.json").read_text(encoding="utf-8")


def test_the_staged_folder_is_gone_once_it_is_published(published: Path, tmp_path: Path) -> None:
    assert not (tmp_path / "staged").exists()
    assert not (published / "manifest.json.tmp").exists()


def test_a_publication_that_is_cut_short_leaves_no_manifest(
    published: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half new, half old must not look like an adapter."""
    recorded = stage(tmp_path / "staged", build_lora(r=2), base)
    manifest = manifest_for(tmp_path / "staged", recorded)
    replace, moved = Path.replace, []

    def failing(self: Path, target: Path) -> Path:
        moved.append(self.name)
        if len(moved) == 3:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(DiskError) as full:
        publish(tmp_path / "staged", published, manifest)
    assert (full.value.key, full.value.exit_code) == ("error.disk.full", 5)
    with pytest.raises(ModelError) as refused:
        verify_files(published)
    assert refused.value.key == "error.adapter.no_manifest"


def test_a_manifest_from_before_it_told_its_data_is_still_read(published: Path) -> None:
    file = published / "manifest.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    assert fields.pop("data") == {}
    file.write_text(json.dumps(fields), encoding="utf-8")
    assert verify_files(published).data == {}


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "prompt.json", "tokenizer.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
@pytest.mark.fault("B2")
def test_a_changed_cut_or_missing_file_is_refused_by_name(name: str, damage: str, published: Path) -> None:
    file = published / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError) as refused:
        verify_files(published)
    assert refused.value.key == f"error.adapter.file_{'missing' if damage == 'missing' else 'changed'}"
    assert refused.value.where == str(file)


def test_the_card_may_be_edited_by_hand(published: Path) -> None:
    (published / "README.md").write_text("My own words.", encoding="utf-8")
    verify_files(published)


@pytest.mark.parametrize("forgotten", ["adapter_model.safetensors", "adapter_config.json", "prompt.json"])
@pytest.mark.fault("B2")
def test_a_manifest_that_does_not_vouch_for_the_weights_is_refused(forgotten: str, published: Path) -> None:
    manifest = json.loads((published / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"][forgotten]
    (published / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError):
        verify_files(published)


@pytest.mark.fault("B3")
def test_a_manifest_that_names_a_path_is_refused(published: Path) -> None:
    (published.parent / "outside").write_text("x", encoding="utf-8")
    manifest = json.loads((published / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../outside"] = sha256_of(published.parent / "outside")
    (published / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError):
        verify_files(published)


@pytest.mark.parametrize(
    "change",
    [{"base": None}, {"base": {"name": "x"}}, {"files": ["a"]}, {"files": 3}, {"metrics": None}, {"unknown": 1},
     {"base": {"name": "x", "public_id": None, "revision": None, "fingerprint": "abc"}}],
)  # fmt: skip
def test_a_broken_manifest_is_an_error_and_no_traceback(change: dict[str, Any], published: Path) -> None:
    change_json(published / "manifest.json", **change)
    with pytest.raises(ModelError) as refused:
        verify_files(published)
    assert refused.value.key == "error.adapter.manifest_broken"


@pytest.mark.parametrize("content", ["", "[" * 100_000, "null"])
def test_a_manifest_that_is_no_json_is_an_error_and_no_traceback(content: str, published: Path) -> None:
    (published / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError):
        verify_files(published)


def test_a_folder_without_adapter_is_told_from_one_that_was_not_finished(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as nothing:
        read_manifest(tmp_path / "empty")
    (published / "manifest.json").unlink()
    with pytest.raises(ModelError) as unfinished:
        read_manifest(published)
    assert (nothing.value.key, unfinished.value.key) == ("error.adapter.none_here", "error.adapter.no_manifest")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.fault("B5")
def test_a_pickle_is_refused_and_does_not_run(beside: bool, published: Path, tmp_path: Path) -> None:
    (published / "adapter_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "sang")))
    if not beside:
        (published / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError) as refused:
        verify_files(published)
    assert refused.value.key == "error.adapter.pickle"
    assert not (tmp_path / "sang").exists()


@pytest.mark.fault("B5")
def test_a_pickle_under_the_name_of_the_weights_is_refused_and_does_not_run(published: Path, tmp_path: Path) -> None:
    (published / "adapter_model.safetensors").write_bytes(pickle.dumps(Canary(tmp_path / "sang")))
    assert describe(published).fault is not None
    assert not (tmp_path / "sang").exists()


# --- the base it belongs to ------------------------------------------------------------------------------------------


def test_the_right_base_is_accepted_without_a_word(published: Path, base: Path, said: list[str]) -> None:
    check_base(read_manifest(published), base)
    assert said == []


@pytest.mark.parametrize(
    ("spoilt", "parts"),
    [
        (lambda base: change_json(base / "config.json", num_hidden_layers=1), "config"),
        (lambda base: change_weights(base, lambda w: w["model.norm.weight"].mul_(2)), "tensors"),
        (lambda base: change_json(base / "tokenizer.json", truncation={"max_length": 3}), "tokenizer"),
    ],
)
@pytest.mark.fault("B4")
def test_a_wrong_base_is_refused_with_the_parts_that_differ(
    spoilt: Callable[[Path], object], parts: str, published: Path, base: Path
) -> None:
    spoilt(base)
    with pytest.raises(ModelError) as refused:
        check_base(read_manifest(published), base)
    assert refused.value.values["parts"] == parts
    assert parts in refused.value.what


@pytest.mark.fault("B4")
def test_another_family_is_refused(published: Path, model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError) as refused:
        check_base(read_manifest(published), model_folder("llama"))
    assert refused.value.values["parts"] == "config, tensors"


def test_a_wrong_base_can_be_forced_and_that_is_said(published: Path, base: Path, said: list[str]) -> None:
    change_json(base / "config.json", num_hidden_layers=1)
    check_base(read_manifest(published), base, allow_mismatch=True)
    assert len(said) == 1
    assert "config" in said[0]


# --- description -----------------------------------------------------------------------------------------------------


def test_an_intact_folder_is_described_with_what_it_reached(published: Path) -> None:
    description = describe(published)
    assert description.fault is None
    assert "5 of 6" in description.render()
    assert description.render().endswith("vLLM: takes it beside its base, with --max-lora-rank 8")
    assert description.as_json()["intact"] is True
    assert description.as_json()["vllm"] == {"suits": True, "max_lora_rank": 8, "refused": {}}


def test_a_faulty_folder_is_described_by_its_fault(published: Path) -> None:
    (published / "prompt.json").unlink()
    description = describe(published)
    assert description.fault is not None
    assert "prompt.json" in description.render()
    assert description.as_json()["intact"] is False
    assert description.as_json()["vllm"] is None


def test_the_weights_can_be_read_by_others(published: Path) -> None:
    assert (published / "adapter_model.safetensors").stat().st_mode & 0o044 == 0o044


def test_the_template_is_published_even_where_the_base_has_none(base: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    contract = contract_for(tokenizer)
    recorded = BaseRecord("b", None, None, base_fingerprint(base))
    write_adapter(tmp_path / "out", build_lora(), tokenizer=tokenizer, contract=contract, base=recorded)
    assert load_tokenizer(tmp_path / "out").chat_template == contract.chat_template


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", "EVIL"),
        ("lora_alpha", 1e308),
        ("lora_alpha", -1),
        ("r", 0),
        ("r", "8"),
        ("init_lora_weights", "pissa"),
        ("modules_to_save", ["lm_head"]),
        ("bias", "all"),
    ],
)
@pytest.mark.fault("B3")
def test_a_config_that_is_not_plain_lora_is_refused_even_where_its_hash_was_made_anew(
    name: str, value: object, published: Path
) -> None:
    change_json(published / "adapter_config.json", **{name: value})
    manifest = json.loads((published / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["adapter_config.json"] = sha256_of(published / "adapter_config.json")
    (published / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        adapter.verify_files(published)
    assert (refused.value.key, refused.value.values["name"]) == ("error.adapter.config_refused", name)
