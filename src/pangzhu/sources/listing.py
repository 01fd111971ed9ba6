"""What `pangzhu models` lists: models on this disk, and models that can be had."""

from collections.abc import Iterator
from pathlib import Path

from pangzhu.config import DEFAULT_MODEL
from pangzhu.errors import ModelError
from pangzhu.sources.base_model import Listing
from pangzhu.sources.folder import PUBLIC_ID, check_folder
from pangzhu.sources.hubs import hf_cache_dir, hf_cached
from pangzhu.sources.modelscope import modelscope_cache_dir, modelscope_cached
from pangzhu.sources.packaged import MODELS, PackagedModel

DEFAULT_BYTES = 999_000_000  # Qwen2.5-0.5B-Instruct: weights and tokenizer files
LICENCES = {DEFAULT_MODEL: "Apache-2.0"} | {model.public_id: model.licence for model in MODELS}


def available() -> tuple[Listing, ...]:
    """Everything here and everything that can be fetched by a short name; asks no network."""
    cached = {listing.name: listing for listing in _cached()}
    default = cached.pop(DEFAULT_MODEL, None) or Listing(
        DEFAULT_MODEL, "can be fetched", DEFAULT_BYTES, LICENCES[DEFAULT_MODEL], "hf", None
    )
    return (default, *(_packaged(model) for model in MODELS), *(cached[name] for name in sorted(cached)))


def _packaged(model: PackagedModel) -> Listing:
    if model.is_here():
        size = _size(model.folder) + model.gguf_bytes
        return Listing(model.full_name, "here", size, model.licence, "packaged", model.folder)
    return Listing(model.full_name, "can be fetched", model.download_bytes, model.licence, "packaged", None)


def _cached() -> Iterator[Listing]:
    """Whole models in the hubs' caches."""
    for name in sorted(_names_in_caches()):
        folders = (hf_cached(name, None), modelscope_cached(name, None))
        for folder in folders:
            if folder and _is_whole(folder):
                yield Listing(name, "here", _size(folder), LICENCES.get(name), "cache", folder)
                break


def _names_in_caches() -> set[str]:
    """`org/name` of every folder in the caches' layouts; a dash pair stands for the slash."""
    paired = [*hf_cache_dir().glob("models--*--*"), *(modelscope_cache_dir() / "models").glob("*--*")]
    names = {folder.name.removeprefix("models--").replace("--", "/", 1) for folder in paired}
    for root in (modelscope_cache_dir() / "models", modelscope_cache_dir() / "hub" / "models"):
        names |= {f"{folder.parent.name}/{folder.name.replace('___', '.')}" for folder in root.glob("*/*")}
    return {name for name in names if PUBLIC_ID.fullmatch(name)}


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except ModelError:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
