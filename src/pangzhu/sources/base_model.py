"""What the sources hand over: a folder with a base model in it, and where it came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Origin = Literal["folder", "cache", "hf", "modelscope", "packaged"]


@dataclass(frozen=True)
class BaseModel:
    """A base model on this disk, checked to be whole.

    Args:
        folder: config.json, safetensors and tokenizer files.
        name: as the user named it, or the default's name.
        origin: where this command got it; `cache` is a hub's cache on this disk.
        public_id: `org/name` on the hubs, where it is known; adapters name their base by it.
        revision: commit of the hub, where it is known.
        gguf: the same weights for fast chat, where there is such a file.
        why: one sentence for the user: which base is used and why.
    """

    folder: Path
    name: str
    origin: Origin
    public_id: str | None
    revision: str | None
    gguf: Path | None
    why: str


@dataclass(frozen=True)
class Listing:
    """A line of `pangzhu models`.

    Args:
        name: what `--model_name_or_path` takes.
        state: on this disk, or to be fetched.
        num_bytes: size on the disk where it is here, else of the download.
        licence: SPDX name, or None where it is not known here.
        origin: where it is, or where it would come from.
        folder: where it is, or None.
    """

    name: str
    state: Literal["here", "can be fetched"]
    num_bytes: int
    licence: str | None
    origin: Origin
    folder: Path | None
