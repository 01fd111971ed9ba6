"""GGUF files compute what their adapter does, in llama.cpp itself; what is lost or misplaced on the way is caught."""

import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from pangzhu.adapter import MANIFEST
from pangzhu.data.findings import BadRowsError
from pangzhu.errors import ModelError, ResourceError, UsageError, VerificationError
from pangzhu.export import gguf as stage
from pangzhu.export import gguf_family, gguf_file, subject, update
from pangzhu.export.gguf import export
from pangzhu.export.gguf_family import Architecture
from pangzhu.export.gguf_vocab import read_vocabulary
from pangzhu.export.llamacpp import GgufReader, LlamaCppVoice, _is_cut
from pangzhu.export.staging import PARITY, UNPROVEN
from pangzhu.export.update import read_updates, scale_of
from pangzhu.template import PromptContract
from tests.conftest import build_tokenizer
from tests.export.conftest import NUM_GENERAL, Adapt, Adapted, every_family, teach, write_base
from tests.use_helpers import CHINESE, ENGLISH, write_rows

pytest.importorskip("xllamacpp")


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def refused(made: Adapted, output_dir: Path, **options: Any) -> VerificationError:
    """The fault of an export that the gate does not let pass, and that is then not where it would have been."""
    with pytest.raises(VerificationError) as caught:
        export(made.gguf(output_dir, **options))
    assert caught.value.exit_code == 8
    assert [entry.name for entry in output_dir.iterdir()] == [UNPROVEN]
    assert json.loads((output_dir / UNPROVEN / PARITY).read_text(encoding="utf-8"))["faults"]
    return caught.value


# --- every family, every kind of file ----------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(
    ("content", "outtype", "bound"),
    [("merged", "f16", 0.05), ("merged", "q8_0", 0.3), ("lora", "f16", 0.05), ("lora", "q8_0", 0.3)],
)
def test_the_file_gives_the_taught_answers_and_the_adapters_log_probabilities(
    adapted: Adapt, tmp_path: Path, family: str, content: str, outtype: str, bound: float
) -> None:
    found = export(adapted(family).gguf(tmp_path / "gguf", content=content, outtype=outtype)).parity
    assert found is not None
    taught, general = found.compared
    assert found.bound == bound
    assert (taught.num_taught, taught.num_kept) == (len(ENGLISH), len(ENGLISH))
    assert max(taught.mean, general.mean) <= bound
    assert found.num_prompts == found.num_prompts_same == len(ENGLISH) + NUM_GENERAL


@every_family
def test_the_base_alone_is_held_against_itself(adapted: Adapt, tmp_path: Path, family: str) -> None:
    done = export(adapted(family).gguf(tmp_path / "gguf", content="base", outtype="f16"))
    assert done.parity is not None
    assert [part.kind for part in done.parity.compared] == ["general"]
    assert sorted(done.files) == ["base-f16.gguf", PARITY]


def test_the_files_are_f16_and_q8_0_but_for_vectors(adapted: Adapt, tmp_path: Path) -> None:
    for outtype in ("f16", "q8_0"):
        folder = export(adapted().gguf(tmp_path / outtype, outtype=outtype, verify=False)).folder
        tensors = GGUFReader(folder / f"law-{outtype}.gguf").tensors
        matrices = {tensor.tensor_type for tensor in tensors if len(tensor.shape) > 1}
        assert matrices == {GGMLQuantizationType[outtype.upper()]}
        assert {tensor.tensor_type for tensor in tensors if len(tensor.shape) == 1} == {GGMLQuantizationType.F32}


def test_answers_in_characters_of_several_tokens_are_proven_too(tmp_path: Path, one_core: None) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    made = Adapted(base, teach(base, tmp_path / "adapter", CHINESE))
    found = export(made.gguf(tmp_path / "gguf", outtype="f16")).parity
    assert found is not None
    taught = found.compared[0]
    assert taught.num_kept == len(CHINESE)
    assert 0 < taught.num_tokens < sum(len(answer.encode()) + 1 for answer in CHINESE)


@pytest.mark.parametrize(
    ("text", "cut"),
    [(b"a", False), ("法".encode(), False), ("法".encode()[:2], True), ("😀".encode()[:3], True), (b"\xad", False), (b"\xf0\xdcK", True), (b"\xf0\xdcK\x92", False), (b"", False)],
)  # fmt: skip
def test_text_is_cut_where_its_last_character_lacks_bytes(text: bytes, cut: bool) -> None:
    assert _is_cut(text) is cut


@pytest.mark.parametrize("puts_it", [True, False])
def test_a_first_token_that_the_template_writes_is_there_once(tmp_path: Path, puts_it: bool) -> None:
    base = write_base(tmp_path / "base", "llama")
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    if puts_it:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(base)
    done = export(Adapted(base, base).gguf(tmp_path / "gguf", content="base", outtype="f16"))
    assert done.parity is not None
    assert done.parity.num_prompts_same == done.parity.num_prompts == NUM_GENERAL
    assert fields(done.folder / "base-f16.gguf")["tokenizer.ggml.add_bos_token"] is puts_it


# --- LoRA files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("use_rslora", "alpha"), [(False, 16.0), (True, 64.0)])
def test_alpha_over_r_of_the_file_is_the_adapters_scale(
    adapted: Adapt, tmp_path: Path, use_rslora: bool, alpha: float
) -> None:
    made = adapted("qwen2", r=16, lora_alpha=16, use_rslora=use_rslora)
    done = export(made.gguf(tmp_path / "gguf", content="lora", outtype="f16"))
    told = fields(done.folder / "law-lora.gguf")
    assert told["adapter.lora.alpha"] == alpha
    assert told["adapter.lora.alpha"] / 16 == scale_of(made.adapter)
    assert (told["general.type"], told["adapter.type"], told["general.architecture"]) == ("adapter", "lora", "qwen2")
    assert done.parity is not None
    assert done.parity.faults == ()


def test_a_lora_file_holds_the_adapters_own_numbers(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    done = export(made.gguf(tmp_path / "gguf", content="lora", outtype="f16", verify=False))
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(done.folder / "law-lora.gguf").tensors}
    updates = read_updates(made.adapter, made.base)
    assert len(tensors) == 2 * len(updates)
    found = updates["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(torch.tensor(tensors["blk.1.ffn_down.weight.lora_a"]), found.a)
    assert torch.equal(torch.tensor(tensors["blk.1.ffn_down.weight.lora_b"]), found.b)


def test_a_lora_file_on_a_base_that_is_here_is_written_alone(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    base = export(made.gguf(tmp_path / "base", content="base", outtype="f16", verify=False)).folder / "base-f16.gguf"
    done = export(made.gguf(tmp_path / "gguf", content="lora", base_gguf=base))
    assert json.loads((done.folder / MANIFEST).read_text(encoding="utf-8"))["kind"] == "gguf/lora/present"
    assert sorted(done.files) == ["law-lora.gguf", PARITY]
    assert done.parity is not None
    assert (done.parity.bound, done.parity.faults, done.parity.num_prompts) == (0.3, (), 0)
    assert str(base) in done.hints[0]


def test_dora_is_refused_as_a_lora_file_with_the_reason_and_can_be_merged(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted("qwen2", r=16, lora_alpha=16, use_dora=True)
    with pytest.raises(ModelError) as caught:
        export(made.gguf(tmp_path / "lora", content="lora"))
    assert caught.value.key == "error.export.dora"
    assert "--content merged" in caught.value.fix
    assert not (tmp_path / "lora").exists()
    found = export(made.gguf(tmp_path / "merged", outtype="f16")).parity
    assert found is not None
    assert found.faults == ()


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["merged", "lora"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_scale_is_caught(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, factor: float
) -> None:
    monkeypatch.setattr(update, "scale_of", lambda folder: factor * scale_of(folder))
    refused(adapted(), tmp_path / "gguf", content=content)


def test_a_dropped_adapter_is_caught(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "read_updates", lambda adapter, base: {})
    assert "taught answers" in refused(adapted(), tmp_path / "gguf").what


def test_a_wrong_template_is_caught(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subject, "standalone_template", lambda contract: contract.chat_template.replace("brief", "long")
    )
    assert "10 of 10 prompts" in refused(adapted(), tmp_path / "gguf").what


def test_a_lost_head_is_caught(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp takes the input embedding where a file holds no output matrix."""

    def losing(base: Path) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in update.shapes_of(base).items() if name != "lm_head.weight"}

    monkeypatch.setattr(gguf_file, "shapes_of", losing)
    assert "one matrix" in refused(adapted(), tmp_path / "gguf").what


@pytest.mark.parametrize("content", ["merged", "lora"])
def test_rows_in_transformers_order_are_caught(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(gguf_family, "_neighbours", lambda num_rows, heads: torch.arange(num_rows))
    refused(adapted("llama"), tmp_path / "gguf", content=content, outtype="f16")


def test_gemmas_attention_at_llamacpps_scale_is_caught(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model asks for 1 / 16 with heads of 8, llama.cpp takes 1 / √8."""
    architecture = Architecture(adapted("gemma3").base)
    assert architecture._attention_factor() == pytest.approx(math.sqrt(8) / 16)
    monkeypatch.setattr(Architecture, "_attention_factor", lambda self: 1.0)
    refused(adapted("gemma3"), tmp_path / "gguf", outtype="f16")


def test_without_llamacpp_the_gate_is_an_error_and_never_left_out(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ResourceError) as caught:
        export(adapted().gguf(tmp_path / "gguf"))
    assert caught.value.key == "error.export.no_llamacpp"
    assert [entry.name for entry in (tmp_path / "gguf").iterdir()] == [UNPROVEN]


# --- what is not written -----------------------------------------------------------------------------------------


def test_a_family_without_files_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "phi3")
    with pytest.raises(ModelError) as caught:
        export(Adapted(base, base).gguf(tmp_path / "gguf", content="base"))
    assert caught.value.key == "error.export.architecture"
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("family", "changed", "name"),
    [
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type"),
        ("gemma3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_what_llamacpp_computes_otherwise_is_refused(
    tmp_path: Path, family: str, changed: dict[str, object], name: str
) -> None:
    base = write_base(tmp_path / "base", family)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelError) as caught:
        Architecture(base)
    assert (caught.value.key, caught.value.values["name"]) == ("error.export.config", name)


def test_llama_3s_frequencies_stand_in_the_file(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama")
    config = json.loads((base / "config.json").read_text())
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 64, "rope_theta": 500000.0}
    (base / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    found = export(Adapted(base, base).gguf(tmp_path / "gguf", content="base", outtype="f16"))
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(found.folder / "base-f16.gguf").tensors}
    assert tensors["rope_freqs.weight"][0] == 1.0
    assert tensors["rope_freqs.weight"].max() == pytest.approx(8.0)


# --- K-quants ----------------------------------------------------------------------------------------------------

COPIER = """#!{python}
import shutil, sys
source, target, outtype = sys.argv[1:]
assert outtype == "Q4_K_M" and source.endswith("-f16.gguf")
shutil.copyfile(source, target)
"""


def test_a_k_quant_needs_llamacpps_own_program(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        export(adapted().gguf(tmp_path / "gguf", outtype="q4_k_m"))
    assert caught.value.key == "error.export.no_quantizer"
    assert not (tmp_path / "gguf").exists()


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_k_quant_is_made_of_f16_by_that_program_and_proven(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / stage.QUANTIZER
    program.parent.mkdir()
    program.write_text(COPIER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    done = export(adapted().gguf(tmp_path / "gguf", outtype="q4_k_m"))
    assert sorted(done.files) == ["law-q4_k_m.gguf", PARITY]
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no')\n")
    with pytest.raises(ModelError) as caught:
        export(adapted().gguf(tmp_path / "failed", outtype="q4_k_m"))
    assert caught.value.values["reason"] == "no"


# --- what cannot be read or held ---------------------------------------------------------------------------------


def test_numbers_that_f16_cannot_hold_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    weights = base / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(VerificationError) as caught:
        export(Adapted(base, base).gguf(tmp_path / "gguf", content="base", outtype="f16", verify=False))
    assert caught.value.key == "error.export.overflow"
    assert "up_proj" in caught.value.what


def test_a_tensor_that_llamacpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    weights = base / "model.safetensors"
    save_file(
        load_file(weights) | {"model.layers.0.extra.weight": torch.ones(2, 2)}, weights, metadata={"format": "pt"}
    )
    with pytest.raises(ModelError) as caught:
        export(Adapted(base, base).gguf(tmp_path / "gguf", content="base", verify=False))
    assert "model.layers.0.extra.weight" in caught.value.what


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<!doctype html>", b"GGUF\x03" + bytes(19)])
@pytest.mark.parametrize("kind", ["gguf", "ollama"])
def test_a_base_file_that_is_no_gguf_is_told(adapted: Adapt, tmp_path: Path, content: bytes, kind: str) -> None:
    file = tmp_path / "base.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        export(adapted().gguf(tmp_path / "gguf", content="lora", base_gguf=file, format=kind))
    assert (caught.value.key, caught.value.where) == ("error.export.llamacpp", str(file))


def test_a_base_file_that_is_not_there_is_told(adapted: Adapt, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export(adapted().gguf(tmp_path / "gguf", content="lora", base_gguf=tmp_path / "nowhere.gguf"))
    assert caught.value.key == "error.config.no_base_gguf"


def test_a_row_that_cannot_be_asked_is_told(adapted: Adapt, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"instruction": "long " * 2000, "output": "yes"}])
    with pytest.raises(BadRowsError):
        export(adapted().gguf(tmp_path / "gguf", dataset_path=rows))


def test_tokens_that_llamacpp_tells_otherwise_than_it_writes_them_are_no_figures(adapted: Adapt) -> None:
    made = adapted()
    architecture = Architecture(made.base)
    vocabulary = read_vocabulary(made.base, architecture.vocab_size)
    contract = PromptContract.read(made.adapter / "prompt.json")
    voice = LlamaCppVoice.__new__(LlamaCppVoice)
    voice._reader = GgufReader("", made.base, None, vocabulary, contract, 8)
    with pytest.raises(ModelError) as caught:
        voice._told([100, 101], [{"id": 100, "logprob": -1.0}])
    assert caught.value.key == "error.export.llamacpp"


def test_a_vocabulary_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        read_vocabulary(tmp_path, 1)
    assert caught.value.key == "error.export.tokenizer"
