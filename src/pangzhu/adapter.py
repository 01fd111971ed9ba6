"""The adapter folder: written, proven, read.

What lands in `output_dir` is peft's own format, loadable with no Pangzhu installed, and beside it what makes it
trustworthy: `prompt.json` (the PromptContract), `manifest.json` (sha256 of every file; which base, by fingerprint;
versions; metrics) and a model card. The weights are rounded to bf16 before they are proven and written, so what is proven
is what is shipped. The manifest is written last: a folder without one is not an adapter of ours.

Left to others: training (`pangzhu.train`), generating with it (`pangzhu.engines`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from pangzhu import storage
from pangzhu.data.findings import visible
from pangzhu.errors import ModelError, VerificationError
from pangzhu.messages import say, text
from pangzhu.model import BaseFingerprint, base_fingerprint, read_json, trainable_parameters
from pangzhu.storage import sha256_of
from pangzhu.template import PromptContract
from pangzhu.vetting import CONFIG as CONFIG  # both are names of this folder to everybody above
from pangzhu.vetting import WEIGHTS as WEIGHTS
from pangzhu.vetting import adds_nothing, check_config, check_weights, find_not_finite, is_plain_name
from pangzhu.vllm import VllmFit, vllm_fit

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

PROMPT = "prompt.json"
MANIFEST = "manifest.json"
CARD = "README.md"
CHAT_TEMPLATE = "chat_template.jinja"
REQUIRED = (WEIGHTS, CONFIG, PROMPT)  # what a manifest must vouch for
NUM_PROOF_LOGITS = 64
LIBRARIES = ("torch", "transformers", "peft", "pangzhu")


@dataclass(frozen=True, slots=True)
class BaseMismatch:
    """An adapter beside another base than its own: how its own was named, and the parts of the fingerprint that differ."""

    base: str
    parts: tuple[str, ...]


class Rows(Protocol):
    """Rows laid end to end, each `(1, T)`: a `pangzhu.batching.MicroBatch`, of a layer above this one."""

    @property
    def input_ids(self) -> "torch.Tensor":
        """Token ids."""

    @property
    def position_ids(self) -> "torch.Tensor":
        """Positions, restarting with each row."""


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base an adapter belongs to: how it was named, its public id where it has one, and its fingerprint."""

    name: str
    public_id: str | None
    revision: str | None
    fingerprint: BaseFingerprint


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds. `files` maps names to sha256, `metrics` what training reached, `data` what it was trained on
    (`pangzhu.data_summary`)."""

    base: BaseRecord
    data_sha256: str
    template_sha256: str
    files: dict[str, str]
    versions: dict[str, str]
    metrics: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest's text, the same bytes for the same content."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def library_versions() -> dict[str, str]:
    """Versions of what shapes the numbers."""
    return {name: version(name) for name in LIBRARIES}


def round_to_bf16(model: "PeftModel") -> None:
    """Round the adapter's float32 masters to what bf16 can hold, in place: what is proven is then what is saved."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))


@contextmanager
def rounded(model: "PeftModel") -> Iterator[None]:
    """Inside, the adapter's weights are rounded as they will be saved; after, they are the masters again."""
    import torch

    masters = [parameter.detach().clone() for parameter in trainable_parameters(model)]
    round_to_bf16(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, master in zip(trainable_parameters(model), masters, strict=True):
                parameter.copy_(master)


def write_adapter(
    folder: Path,
    model: "PeftModel",
    *,
    tokenizer: "PreTrainedTokenizerBase",
    contract: PromptContract,
    base: BaseRecord,
) -> None:
    """Write weights, peft's config, tokenizer and prompt into `folder`; the manifest is `publish`'s."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    storage.make_folder(folder)
    state = get_peft_model_state_dict(model)
    rounded = {name: state[name].detach().to("cpu", torch.bfloat16).contiguous() for name in sorted(state)}
    storage.write_atomically(folder / WEIGHTS, save(rounded, metadata={"format": "pt"}))
    _write_config(folder, model, base.public_id or base.name)
    with storage.library_writes(folder):
        tokenizer.save_pretrained(folder)
    storage.write_atomically(folder / CHAT_TEMPLATE, contract.chat_template)  # also where the base has none
    storage.write_atomically(folder / PROMPT, contract.to_json())


def prove_adapter(folder: Path, model: "PeftModel", rows: Rows) -> float:
    """Load the written adapter back from disk and hold it against the trained model, on the reference path.

    Args:
        folder: what `write_adapter` wrote.
        model: the trained model, its masters rounded.
        rows: to compare logits on.

    Returns:
        The largest difference between the adapter's logits and the base's.

    Raises:
        VerificationError: a weight or a logit is not finite, every B is zero, the adapter changes nothing, or what was
            loaded differs from what was trained.
    """
    import torch

    _prove_weights(folder)
    trained_name = model.active_adapter
    model.eval()
    with torch.no_grad():
        trained = _logits(model, rows)
        with model.disable_adapter():
            plain = _logits(model, rows)
        model.load_adapter(str(folder), adapter_name="proof", is_trainable=False)
        model.set_adapter("proof")
        loaded = _logits(model, rows)
    model.set_adapter(trained_name)
    model.delete_adapter("proof")
    if not trained.isfinite().all():  # and no NaN equals another
        raise VerificationError("error.adapter.logits_not_finite", where=str(folder))
    if not torch.equal(loaded, trained):
        raise VerificationError("error.adapter.loaded_differs", where=str(folder))
    change = float((trained.float() - plain.float()).abs().max())
    if change == 0.0:
        raise VerificationError("error.adapter.changes_nothing", where=str(folder))
    return change


def publish(staged: Path, output_dir: Path, manifest: Manifest) -> None:
    """Move a proven adapter to its place: every file by replacement, the manifest last."""
    storage.make_folder(output_dir)
    storage.remove(output_dir / MANIFEST)
    storage.sync_tree(staged)
    storage.move(staged, output_dir)
    storage.write_atomically(output_dir / MANIFEST, manifest.to_json())


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file of a staged adapter, by name."""
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file()}


def read_manifest(folder: Path) -> Manifest:
    """Read an adapter folder's manifest.

    Raises:
        ModelError: no adapter there, or one that Pangzhu did not finish.
    """
    if not (folder / MANIFEST).exists():
        key = "error.adapter.no_manifest" if (folder / CONFIG).exists() else "error.adapter.none_here"
        raise ModelError(key, where=str(folder))
    fields = read_json(folder / MANIFEST)
    try:
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(fields), strict=True)
        told = asdict(manifest)
        if json.dumps(told | fields, sort_keys=True) != json.dumps(told, sort_keys=True):
            raise ValueError("a field that no manifest has")
    except (ValueError, RecursionError) as broken:
        raise ModelError("error.adapter.manifest_broken", where=str(folder / MANIFEST), reason=str(broken)) from broken
    return manifest


def verify_files(folder: Path) -> Manifest:
    """The manifest, once every file has been found to be the one it names.

    Raises:
        ModelError: a file is missing or changed, a pickle stands in for the weights, a weight is no number, or there is
            no manifest.
    """
    if (folder / "adapter_model.bin").exists():
        raise ModelError("error.adapter.pickle", where=str(folder / "adapter_model.bin"))
    manifest = read_manifest(folder)
    for name in (*manifest.files, *REQUIRED):
        if not is_plain_name(name):
            raise ModelError("error.adapter.file_missing", where=f"{folder / MANIFEST}: {visible(name)}")
        file, promised = folder / name, manifest.files.get(name)
        if not file.is_file():
            raise ModelError("error.adapter.file_missing", where=str(file))
        if name != CARD and sha256_of(file) != promised:
            raise ModelError("error.adapter.file_changed", where=str(file))
    check_weights(folder, check_config(folder))
    return manifest


def check_base(
    manifest: Manifest, base_folder: Path, *, template_sha256: str | None = None, allow_mismatch: bool = False
) -> BaseMismatch | None:
    """Refuse a base other than the one the adapter was trained on; where it is allowed, say so and give what differs.

    Args:
        manifest: of the adapter.
        base_folder: the base it is to be used on.
        template_sha256: fingerprint of that base's chat template, where it is known.
        allow_mismatch: say what differs, and go on.

    Raises:
        ModelError: another base; names the parts that differ.
    """
    differences = manifest.base.fingerprint.differences(base_fingerprint(base_folder))
    if template_sha256 not in (None, manifest.template_sha256):
        differences.append("template")
    if not differences:
        return None
    if not allow_mismatch:
        raise ModelError(
            "error.adapter.wrong_base", where=str(base_folder), base=manifest.base.name, parts=", ".join(differences)
        )
    say("adapter.base_mismatch_allowed", base=manifest.base.name, parts=", ".join(differences))
    return BaseMismatch(manifest.base.name, tuple(differences))


@dataclass(frozen=True, slots=True)
class AdapterDescription:
    """What an adapter folder holds; `fault` is what is wrong with it, or None where every file is the promised one. Of a
    faulty one there is no manifest, and nothing is said about vLLM."""

    folder: Path
    manifest: Manifest | None
    fault: str | None
    vllm: VllmFit | None = None

    @property
    def exit_code(self) -> int:
        """That of a failed verification where the folder is not what its manifest promises."""
        return 0 if self.fault is None else VerificationError.exit_code

    def as_json(self) -> dict[str, object]:
        """The description as plain values."""
        return {
            "folder": str(self.folder),
            "intact": self.fault is None,
            "fault": self.fault,
            "vllm": self.vllm.as_json() if self.vllm else None,
            "manifest": asdict(self.manifest) if self.manifest else None,
        }

    def render(self) -> str:
        """The description in a few lines."""
        if self.manifest is None or self.vllm is None:
            return text("adapter.faulty", folder=self.folder, fault=self.fault)
        described = text(
            "adapter.described",
            folder=self.folder,
            base=self.manifest.base.name,
            learned=self.manifest.metrics.get("num_learned"),
            rows=self.manifest.metrics.get("num_rows"),
            steps=self.manifest.metrics.get("num_steps"),
            size=(self.folder / WEIGHTS).stat().st_size / 1e6,
        )
        return f"{described}\n{self.vllm.render()}"


def describe(folder: Path) -> AdapterDescription:
    """Read and verify an adapter folder; what is wrong with it is part of the description."""
    try:
        return AdapterDescription(folder, verify_files(folder), None, vllm_fit(folder))
    except ModelError as fault:
        return AdapterDescription(folder, None, f"{fault.what} ({fault.where})")


def _write_config(folder: Path, model: "PeftModel", base_name: str) -> None:
    """peft's own adapter_config.json, with the public base and the target modules in sorted order."""
    config = model.peft_config[model.active_adapter]
    with storage.library_writes(folder):
        config.save_pretrained(str(folder))
    fields = read_json(folder / CONFIG)
    fields["base_model_name_or_path"] = base_name
    fields["inference_mode"] = True
    if isinstance(fields.get("target_modules"), list):
        fields["target_modules"] = sorted(fields["target_modules"])
    storage.write_atomically(folder / CONFIG, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _prove_weights(folder: Path) -> None:
    file = folder / WEIGHTS
    if name := find_not_finite(file):
        raise VerificationError("error.adapter.not_finite", where=f"{file}: {name}")
    if adds_nothing(file):
        raise VerificationError("error.adapter.b_zero", where=str(file))


def _logits(model: "PeftModel", rows: Rows) -> "torch.Tensor":
    """`(1, NUM_PROOF_LOGITS, V)`, teacher-forced, of the last places: all of them would take gigabytes."""
    output = model(
        input_ids=rows.input_ids, position_ids=rows.position_ids, use_cache=False, logits_to_keep=NUM_PROOF_LOGITS
    )
    logits: torch.Tensor = output.logits
    return logits
