"""A merged folder is its adapter: saved equals added up, published equals asked; whatever is lost on the way is caught."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pangzhu.adapter import CHAT_TEMPLATE, MANIFEST
from pangzhu.errors import UsageError, VerificationError
from pangzhu.export import merge as stage
from pangzhu.export import subject, update
from pangzhu.export.gguf import export
from pangzhu.export.merge import merge
from pangzhu.export.staging import PARITY, UNPROVEN
from pangzhu.export.update import TIED_HEAD, Update, read_updates, scale_of
from pangzhu.model import load_base
from pangzhu.sources.folder import check_folder
from pangzhu.storage import sha256_of
from tests.conftest import examples
from tests.export.conftest import NUM_GENERAL, Adapt, Adapted, every_family, teach, write_base
from tests.use_helpers import ENGLISH, load, with_system

IDS = torch.tensor([examples(24)[0].input_ids])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


def unmerged(made: Adapted) -> Any:
    return PeftModel.from_pretrained(load_base(made.base, precision="float32"), str(made.adapter)).eval()


def refused(made: Adapted, output_dir: Path, **options: Any) -> VerificationError:
    """The fault of an export that the gate does not let pass, and that is then not where it would have been."""
    with pytest.raises(VerificationError) as caught:
        merge(made.config(output_dir, **options))
    assert caught.value.exit_code == 8
    assert [entry.name for entry in output_dir.iterdir()] == [UNPROVEN]
    kept = json.loads((output_dir / UNPROVEN / PARITY).read_text(encoding="utf-8"))
    assert kept["faults"]
    return caught.value


# --- what is written ---------------------------------------------------------------------------------------------


@every_family
def test_the_merged_folder_gives_the_taught_answers_and_the_adapters_log_probabilities(
    adapted: Adapt, tmp_path: Path, family: str
) -> None:
    export = merge(adapted(family).config(tmp_path / "model"))
    assert export.parity is not None
    taught, general = export.parity.compared
    assert (taught.kind, taught.num_taught, taught.num_kept) == ("taught", len(ENGLISH), len(ENGLISH))
    assert (general.kind, general.num_questions) == ("general", NUM_GENERAL)
    assert general.num_tokens > 0
    assert max(taught.mean, general.mean) <= 0.05
    assert export.parity.num_prompts == export.parity.num_prompts_same == len(ENGLISH) + NUM_GENERAL


@every_family
def test_its_weights_are_the_bases_plus_what_peft_would_add_in_the_bases_type_and_under_its_names(
    adapted: Adapt, tmp_path: Path, family: str
) -> None:
    made = adapted(family)
    merge(made.config(tmp_path / "model", verify=False))
    base, merged = (load_file(folder / "model.safetensors") for folder in (made.base, tmp_path / "model"))
    wanted = unmerged(made).merge_and_unload().state_dict()
    assert merged.keys() == base.keys()
    changed = [name for name in base if not torch.equal(base[name], merged[name])]
    assert len(changed) == 14  # seven linear layers in each of two blocks
    for name, tensor in merged.items():
        assert tensor.dtype == base[name].dtype == torch.bfloat16
        torch.testing.assert_close(tensor, wanted[name].to(torch.bfloat16), rtol=2**-8, atol=0)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"use_dora": True}], ids=lambda options: next(iter(options)))
def test_rslora_and_dora_are_merged_as_they_were_trained(
    adapted: Adapt, tmp_path: Path, options: dict[str, bool]
) -> None:
    made = adapted("qwen2", r=16, lora_alpha=16, **options)
    updates = read_updates(made.adapter, made.base)
    wanted = unmerged(made).merge_and_unload().state_dict()
    base = load_file(made.base / "model.safetensors")
    for name, found in updates.items():
        torch.testing.assert_close(found.on(base[name]), wanted[name], rtol=1e-5, atol=1e-6)
    assert all((found.magnitude is None) is not options.get("use_dora", False) for found in updates.values())


def test_the_scale_is_alpha_over_r_and_of_rslora_alpha_over_its_root(tmp_path: Path) -> None:
    for use_rslora, scale in ((False, 2.0), (True, 8.0)):
        fields = {"r": 16, "lora_alpha": 32, "use_rslora": use_rslora}
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
        assert scale_of(tmp_path) == scale


def test_a_tied_embedding_stays_one_tensor(adapted: Adapt, tmp_path: Path) -> None:
    merge(adapted("gemma3").config(tmp_path / "model"))
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as tensors:
        assert TIED_HEAD not in tensors.keys()  # noqa: SIM118
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_base_in_several_files_is_merged_into_several(tmp_path: Path, one_core: None) -> None:
    base = write_base(tmp_path / "base", "qwen2", max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    made = Adapted(base, teach(base, tmp_path / "adapter"))
    export = merge(made.config(tmp_path / "model"))
    assert {file.name for file in base.glob("*.safetensors*")} <= set(export.files)
    assert export.parity is not None
    assert export.parity.faults == ()


def test_the_folder_is_a_base_model_like_any_other_and_decodes_greedily_to_its_end_token(
    adapted: Adapt, tmp_path: Path
) -> None:
    folder = merge(adapted().config(tmp_path / "model", verify=False)).folder
    check_folder(folder)
    assert load(folder).generate_many is not None
    config = json.loads((folder / "generation_config.json").read_text())
    assert (config["do_sample"], config["eos_token_id"]) == (False, [2])


def test_the_manifest_names_every_file_and_what_the_folder_was_made_of(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    folder = merge(made.config(tmp_path / "model", verify=False)).folder
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = {file.name: sha256_of(file) for file in folder.iterdir() if file.name != MANIFEST}
    assert manifest["files"] == files
    assert manifest["adapter_sha256"] == sha256_of(made.adapter / "adapter_model.safetensors")


def test_the_card_tells_the_figures_of_the_gate(adapted: Adapt, tmp_path: Path) -> None:
    export = merge(adapted().config(tmp_path / "model"))
    card = (export.folder / "README.md").read_text(encoding="utf-8")
    assert export.parity is not None
    assert f"| {export.parity.compared[0].mean:.4f} |" in card
    assert "library_name: transformers" in card


def test_nothing_that_is_published_tells_where_the_base_lies(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    merged = merge(made.config(tmp_path / "model", verify=False)).folder
    written = export(made.gguf(tmp_path / "gguf", verify=False)).folder
    for file in (*merged.iterdir(), *written.iterdir()):
        assert str(made.base.parent).encode() not in file.read_bytes(), file.name


# --- the prompt --------------------------------------------------------------------------------------------------


def test_a_system_text_of_the_contract_stands_in_the_template(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    adapter = with_system(Path(shutil.copytree(made.adapter, tmp_path / "adapter")), 'Speak "plainly".\n{{ 1 }} 简短。')
    export = merge(Adapted(made.base, adapter).config(tmp_path / "model"))
    assert export.parity is not None
    assert export.parity.num_prompts_same == export.parity.num_prompts > 0
    tokenizer = load(export.folder).tokenizer
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "one?"}], tokenize=False)
    assert 'Speak "plainly".\n{{ 1 }} 简短。' in rendered
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "one?"}]
    assert "plainly" not in tokenizer.apply_chat_template(own, tokenize=False)


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_a_wrong_scale_is_caught(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    monkeypatch.setattr(update, "scale_of", lambda folder: factor * scale_of(folder))
    assert "taught answers" in refused(adapted(), tmp_path / "model").what


@pytest.mark.parametrize("layer", ["layers.0.mlp.down_proj", "layers."])
def test_a_dropped_adapter_is_caught_and_so_is_one_of_its_layers(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    def dropping(adapter: Path, base: Path) -> dict[str, Update]:
        return {name: found for name, found in read_updates(adapter, base).items() if layer not in name}

    monkeypatch.setattr(stage, "read_updates", dropping)
    refused(adapted(), tmp_path / "model")


def test_an_update_of_no_weight_of_the_base_is_refused_before_anything_is_written(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "PREFIX", "base_model.")
    with pytest.raises(VerificationError) as caught:
        merge(adapted().config(tmp_path / "model"))
    assert caught.value.key == "error.export.no_such_weight"


@pytest.mark.parametrize(
    "spoil", [lambda template: template.replace("Be brief.", "Be long."), lambda template: template.replace("\\n", " ")]
)
def test_a_wrong_template_is_caught(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[str], str]
) -> None:
    monkeypatch.setattr(subject, "standalone_template", lambda contract: spoil(contract.chat_template))
    assert "10 of 10 prompts" in refused(adapted(), tmp_path / "model").what


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_an_untied_head_is_caught_even_where_it_is_the_same_matrix(
    adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    write = stage.write_merged

    def untying(found: subject.Subject, folder: Path) -> None:
        write(found, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors[TIED_HEAD] = factor * tensors["model.embed_tokens.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))

    monkeypatch.setattr(stage, "write_merged", untying)
    assert "two matrices" in refused(adapted("gemma3"), tmp_path / "model").what


def test_without_the_gate_it_is_published_and_said_to_be_unproven(
    adapted: Adapt, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "scale_of", lambda folder: 0.0)
    export = merge(adapted().config(tmp_path / "model", verify=False))
    assert export.parity is None
    assert PARITY not in export.files
    assert any("--no_verify" in sentence for sentence in said)
    assert "Nobody asked" in (export.folder / "README.md").read_text(encoding="utf-8")


def test_data_that_is_not_here_is_said_and_general_questions_are_asked_alone(
    adapted: Adapt, tmp_path: Path, said: list[str]
) -> None:
    made = adapted()
    alone = Adapted(made.base, Path(shutil.copytree(made.adapter, tmp_path / "elsewhere" / "adapter")))
    export = merge(alone.config(tmp_path / "model"))
    assert export.parity is not None
    assert [part.kind for part in export.parity.compared] == ["general"]
    assert any("adapter.jsonl" in sentence and "--dataset_path" in sentence for sentence in said)
    named = merge(alone.config(tmp_path / "other", dataset_path=made.adapter.with_suffix(".jsonl"), gate_questions=2))
    assert named.parity is not None
    assert named.parity.compared[0].num_questions == 2


# --- where it goes -----------------------------------------------------------------------------------------------


def test_what_lives_in_the_folder_is_left_alone_unless_it_is_the_same_export(adapted: Adapt, tmp_path: Path) -> None:
    made = adapted()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.docx").write_text("mine")
    with pytest.raises(UsageError) as caught:
        merge(made.config(tmp_path / "model"))
    assert caught.value.key == "error.export.folder_taken"
    (tmp_path / "model" / "thesis.docx").unlink()
    for _ in range(2):
        merge(made.config(tmp_path / "model", verify=False))
    assert CHAT_TEMPLATE in {entry.name for entry in (tmp_path / "model").iterdir()}


def test_a_try_after_a_failed_one_begins_anew(adapted: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(update, "scale_of", lambda folder: 0.0)
        refused(adapted(), tmp_path / "model")
    merge(adapted().config(tmp_path / "model"))
    assert not (tmp_path / "model" / UNPROVEN).exists()


@pytest.mark.parametrize(
    ("adapters", "key"), [((), "error.config.one_adapter"), (("a", "b"), "error.config.one_adapter")]
)
def test_one_adapter_is_merged_at_a_time(tmp_path: Path, adapters: tuple[str, ...], key: str) -> None:
    from pangzhu.export.options import MergeConfig

    with pytest.raises(UsageError) as caught:
        MergeConfig(adapter=adapters, output_dir=tmp_path)
    assert caught.value.key == key


def test_a_frozen_date_stands_in_the_template(adapted: Adapt, tmp_path: Path) -> None:
    dated = "{{- strftime_now('%d %b %Y') -}}{{- date_string }}\n"
    made = adapted()
    base = Path(shutil.copytree(made.base, tmp_path / "base"))
    (base / CHAT_TEMPLATE).write_text(dated + (base / CHAT_TEMPLATE).read_text(encoding="utf-8"), encoding="utf-8")
    export = merge(Adapted(base, teach(base, tmp_path / "adapter")).config(tmp_path / "model"))
    assert export.parity is not None
    assert export.parity.faults == ()
    template = (export.folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    rendered = load(base).tokenizer.apply_chat_template(
        [{"role": "user", "content": "one?"}], tokenize=False, chat_template=template
    )
    assert rendered.startswith("26 Jul 202426 Jul 2024")
