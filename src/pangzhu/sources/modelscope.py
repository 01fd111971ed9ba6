"""ModelScope (魔搭社区): what is in its cache on this disk, and how the rest gets there, through its own library.

The library is an extra (`pip install modelscope`); looking into the cache needs none. What this does not do: pin a
commit, since ModelScope names its revisions by branch.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from pangzhu.errors import ModelError
from pangzhu.messages import say
from pangzhu.sources.cache import disk_errors, locked
from pangzhu.sources.folder import refuse_code
from pangzhu.sources.hubs import NEVER, WANTED
from pangzhu.storage import is_disk_error

DEFAULT_REVISION = "master"


def modelscope_endpoint() -> str:
    """The address of ModelScope, as its library takes it from the environment."""
    return os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://www.modelscope.cn"


def modelscope_cache_dir() -> Path:
    """The cache folder of ModelScope's library, by its own rules."""
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def modelscope_cached(name: str, revision: str | None) -> Path | None:
    """The folder of `name` in the cache, whole or not, in the layouts of the library's versions, or None."""
    root, (owner, model) = modelscope_cache_dir(), name.split("/")
    folders = [root / "models" / f"{owner}--{model}" / "snapshots" / (revision or DEFAULT_REVISION)]
    if revision in (None, DEFAULT_REVISION):
        old = model.replace(".", "___")
        folders += [root / "models" / owner / old, root / "hub" / "models" / owner / old]
        folders += [root / owner / model, root / "hub" / owner / model]
    return next((folder for folder in folders if folder.is_dir()), None)


def modelscope_download(name: str, revision: str | None) -> Path:
    """Fetch `name`; the library goes on where it stopped and checks hashes.

    Raises:
        ModelError: the library is missing, or did not deliver.
    """
    if find_spec("modelscope") is None:
        raise ModelError("error.model.no_modelscope")
    say("source.downloading_modelscope", name=name)
    with disk_errors(modelscope_cache_dir()), locked(f"modelscope--{name}"):
        refuse_code(_snapshot(name, revision, patterns=["config.json"]) / "config.json")
        return _snapshot(name, revision, patterns=list(WANTED))


def _snapshot(name: str, revision: str | None, *, patterns: list[str]) -> Path:
    from modelscope import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=str(modelscope_cache_dir()),
            allow_patterns=patterns,
            ignore_patterns=[*NEVER, "*/*"],
        )
    except Exception as failed:  # the library's errors have changed from version to version
        if is_disk_error(failed):
            raise
        reason = f"{type(failed).__name__}: {failed}".splitlines()[0]
        raise ModelError("error.model.modelscope_failed", name=name, reason=reason[:200].rstrip(" .:(")) from failed
    return Path(folder)
