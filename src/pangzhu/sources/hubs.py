"""The Hugging Face hub, or a mirror of it: what is in its cache on this disk, and how the rest gets there.

Files land where every tool of the field looks for them, in huggingface_hub's own cache: contents in `blobs/`, a folder of
links for each commit in `snapshots/`, and the commit a branch stood at in `refs/`. Only configuration, tokenizer and
safetensors files are fetched; never code, never pickle. The commit is pinned before the first file, and the branch
points to it only when all files are there.

What this does not do: decide where to look (`resolve`), retry and check (`transfer`), look into the folder (`folder`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import storage
from pangzhu.errors import ModelError
from pangzhu.messages import say
from pangzhu.sources import transfer
from pangzhu.sources.cache import disk_errors, locked, need_space, size_text
from pangzhu.sources.folder import JSON_FILES, is_device_name, refuse_code
from pangzhu.sources.transfer import Download, RemoteFile, Source, fetch, patiently
from pangzhu.storage import DiskError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

WANTED = ("model.safetensors", "model-*-of-*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*")
NEVER = ("*.py", "*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.gguf", "*.zip")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
COMMIT = re.compile(r"[0-9a-f]{40}")
TRUE = ("1", "ON", "YES", "TRUE")


def hf_endpoint() -> str:
    """The hub's address as the environment gives it now; huggingface_hub reads it once, when first imported.

    Raises:
        ModelError: HF_ENDPOINT is not an address.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    if not re.match(r"https?://[^/\s]", endpoint):
        raise ModelError("error.model.bad_endpoint", endpoint=endpoint)
    return endpoint


def is_offline() -> bool:
    """Whether the user forbade the network."""
    return any(os.environ.get(name, "").upper() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def hf_cache_dir() -> Path:
    """huggingface_hub's cache folder, by its own rules."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(name):
            return Path(chosen).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else cache / "huggingface") / "hub"


def hf_cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of `name` in the cache, whole or not, or None."""
    storage = _storage(name)
    commit = revision or "main"
    if not COMMIT.fullmatch(commit):
        reference = storage / "refs" / commit
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    folder = storage / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


@dataclass(frozen=True)
class _Snapshot:
    """One commit of a model, on its way into the cache."""

    source: Source
    commit: str

    @property
    def storage(self) -> Path:
        """All commits of the model."""
        return _storage(self.source.name)

    @property
    def folder(self) -> Path:
        """The files of this commit."""
        return self.storage / "snapshots" / self.commit


def hf_download(name: str, revision: str | None) -> Path:
    """Fetch what the cache lacks of `name`; the snapshot's folder, named by its commit.

    Raises:
        ModelError: the hub does not deliver, or delivers something else.
        ResourceError: no room on the disk.
    """
    from huggingface_hub import get_token

    source = Source(hf_endpoint(), name, revision, get_token())
    info = _model_info(source)
    files = _wanted_files(info.siblings or (), source)
    snapshot = _Snapshot(source, info.sha or "")
    with disk_errors(snapshot.storage), locked(f"hf--{name}"):
        storage.make_folder(snapshot.storage)
        _announce(files, snapshot)
        for file in files:
            _place(file, snapshot)
        _write_ref(snapshot)
    return snapshot.folder


def _storage(name: str) -> Path:
    return hf_cache_dir() / f"models--{name.replace('/', '--')}"


def _model_info(source: Source) -> "ModelInfo":
    """Commit and files of the model, as the hub lists them."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=source.endpoint, token=source.token or False)
    try:
        info = patiently(
            lambda: api.model_info(
                source.name, revision=source.revision, files_metadata=True, timeout=transfer.PATIENCE.read_seconds
            ),
            source,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as not_a_hub:
        raise ModelError("error.model.hub_html", endpoint=source.endpoint) from not_a_hub
    if not COMMIT.fullmatch(info.sha or ""):
        raise ModelError("error.model.hub_html", endpoint=source.endpoint)
    return info


def _wanted_files(siblings: Sequence["RepoSibling"], source: Source) -> list[RemoteFile]:
    """The files to fetch, small ones first so that a model that is refused is refused early.

    Raises:
        ModelError: there are no safetensors among them.
    """
    files = [_remote_file(sibling) for sibling in siblings if _is_wanted(sibling.rfilename)]
    if not any(file.name.endswith(".safetensors") for file in files):
        raise ModelError("error.model.no_files", endpoint=source.endpoint, name=source.name)
    return sorted(files, key=lambda file: (file.size, file.name))


def _is_wanted(name: str) -> bool:
    wanted = any(fnmatch(name, pattern) for pattern in WANTED)
    is_plain = PLAIN_NAME.fullmatch(name) is not None and not is_device_name(name)
    return wanted and is_plain and not any(fnmatch(name, never) for never in NEVER)


def _remote_file(sibling: "RepoSibling") -> RemoteFile:
    lfs = sibling.lfs
    sha256 = lfs.sha256 if lfs and re.fullmatch(r"[0-9a-f]{64}", lfs.sha256 or "") else None
    git_sha1 = sibling.blob_id if COMMIT.fullmatch(sibling.blob_id or "") and not lfs else None
    return RemoteFile(sibling.rfilename, (lfs.size if lfs else sibling.size) or 0, sha256, git_sha1)


def _announce(files: Sequence[RemoteFile], snapshot: _Snapshot) -> None:
    """Say what is to be fetched, once it is sure that it fits on the disk."""
    missing = [file for file in files if not _is_placed(file, snapshot.folder / file.name)]
    num_bytes = sum(file.size for file in missing)
    need_space(snapshot.storage, num_bytes)
    if missing:
        source = snapshot.source
        size = size_text(num_bytes)
        say("source.downloading", name=source.name, endpoint=source.endpoint, num_files=len(missing), size=size)


def _is_placed(file: RemoteFile, pointer: Path) -> bool:
    return pointer.is_file() and pointer.stat().st_size == file.size


def _place(file: RemoteFile, snapshot: _Snapshot) -> None:
    """See to it that the snapshot holds `file`, and that it asks for no code."""
    pointer = snapshot.folder / file.name
    if not _is_placed(file, pointer):
        blob = snapshot.storage / "blobs" / file.identity
        if not _is_placed(file, blob):
            source = snapshot.source
            url = f"{source.endpoint}/{source.name}/resolve/{snapshot.commit}/{file.name}"
            fetch(Download(file, url, blob, source))
        _link(blob, pointer)
    if file.name in JSON_FILES:
        refuse_code(pointer)


def _link(blob: Path, pointer: Path) -> None:
    """A relative link as huggingface_hub makes it; where links are forbidden (Windows), the file itself moves."""
    storage.make_folder(pointer.parent)
    storage.remove(pointer)
    try:
        storage.link(pointer, Path("..") / ".." / "blobs" / blob.name)
    except DiskError:
        storage.move(blob, pointer)


def _write_ref(snapshot: _Snapshot) -> None:
    """Let the branch or tag point to the commit, now that all of it is here."""
    revision = snapshot.source.revision or "main"
    if revision == snapshot.commit:
        return
    reference = snapshot.storage / "refs" / revision
    storage.make_folder(reference.parent)
    storage.write_atomically(reference, snapshot.commit)
