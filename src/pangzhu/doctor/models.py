"""What is in the caches: packaged models held against their hashes, the default base, and downloads left half done."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pangzhu.config import DEFAULT_MODEL, DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, note, wrong
from pangzhu.errors import ModelError
from pangzhu.messages import say, text
from pangzhu.sources.cache import cache_root, read_stamp, size_text
from pangzhu.sources.folder import check_folder
from pangzhu.sources.hubs import hf_cache_dir, hf_cached
from pangzhu.sources.modelscope import modelscope_cache_dir, modelscope_cached
from pangzhu.sources.packaged import MODELS, PackagedModel
from pangzhu.storage import sha256_of

State = Literal["absent", "half made", "damaged", "whole"]

STATES: dict[State, str] = {
    "absent": "doctor.state.absent",
    "half made": "doctor.state.half_made",
    "damaged": "doctor.state.damaged",
    "whole": "doctor.state.whole",
}
HUGGING_FACE_HALVES = ("models--*/blobs/*.part", "models--*/blobs/*.incomplete")  # ours, and the library's own
MODELSCOPE_HALVES = ("._____temp/**/*", "*/._____temp/**/*", "*/*/._____temp/**/*")
PACKAGED_HALVES = ("packaged/*.tmp-*/**/*",)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one model looks like on this disk."""

    name: str
    state: State
    findings: tuple[Finding, ...] = ()


def examine(_config: DoctorConfig) -> Examination:
    """Hash what is packaged (about two seconds a gigabyte), look into the hubs' caches."""
    looks = [_default(), *map(_packaged, MODELS)]
    halves = half_downloads()
    states = {look.name: look.state for look in looks}
    shown = "\n".join(f"{look.name}: {text(STATES[look.state])}" for look in looks)
    facts = (
        Fact("doctor.base_models", states, shown),
        Fact("doctor.half_downloads", [str(file) for file in halves], str(len(halves))),
    )
    return Examination(facts, (*(finding for look in looks for finding in look.findings), *_half_done(halves)))


def half_downloads() -> list[Path]:
    """Files of downloads and conversions that did not end, in the caches of both hubs and in Pangzhu's own."""
    places = (
        (hf_cache_dir(), HUGGING_FACE_HALVES),
        (modelscope_cache_dir(), MODELSCOPE_HALVES),
        (cache_root(), PACKAGED_HALVES),
    )
    found = (file for root, patterns in places for pattern in patterns for file in root.glob(pattern))
    return sorted({file for file in found if file.is_file()})


def _default() -> _Look:
    """The default base in a hub's cache; a copy that is not whole is fetched again by itself where a network is."""
    folders = [folder for look in (hf_cached, modelscope_cached) if (folder := look(DEFAULT_MODEL, None))]
    faults = []
    for folder in folders:
        try:
            check_folder(folder)
        except ModelError as fault:
            faults.append(
                note("finding.doctor.copy_not_whole", where=fault.where, name=DEFAULT_MODEL, fault=fault.what)
            )
    if len(faults) < len(folders):
        return _Look(DEFAULT_MODEL, "whole")
    return _Look(DEFAULT_MODEL, "half made" if faults else "absent", tuple(faults))


def _packaged(model: PackagedModel) -> _Look:
    name = model.full_name
    if model.is_here():
        damaged = tuple(
            wrong("finding.doctor.cache_damaged", where=str(file), name=name, file=file)
            for file in _changed_files(model)
        )
        return _Look(name, "damaged" if damaged else "whole", damaged)
    if model.folder.is_dir() or model.gguf.is_file():
        return _Look(name, "half made", (note("finding.doctor.half_made", where=str(model.folder), name=name),))
    return _Look(name, "absent")


def _changed_files(model: PackagedModel) -> Iterator[Path]:
    """Files of a model whose bytes are not those the stamp or the code promises, although they are as long."""
    say("doctor.hashing", name=model.full_name)
    if sha256_of(model.gguf) != model.gguf_sha256:
        yield model.gguf
    promised = (read_stamp(model.folder) or {}).get("files")
    for name, file in promised.items() if isinstance(promised, dict) else ():
        if sha256_of(model.folder / name) != file.get("sha256"):
            yield model.folder / name


def _half_done(files: list[Path]) -> Iterator[Finding]:
    if files:
        size = size_text(sum(file.stat().st_size for file in files))
        yield note("finding.doctor.half_downloads", where=str(files[0]), num=len(files), size=size)
