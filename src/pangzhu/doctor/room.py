"""Memory and disk: how much there is, whether it is enough for the default base, whether folders can be written."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from pangzhu import machine
from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, note, wrong
from pangzhu.sources.cache import cache_root, size_text
from pangzhu.sources.packaged import QWEN

LEAST_MEMORY = 4 * QWEN.num_parameters + 10**9  # the default base in float32, and what computing takes beside it
LEAST_OUTPUT = 200 * 10**6  # an adapter twice and three checkpoints of it with their optimizer, at the default rank


def examine(config: DoctorConfig) -> Examination:
    """Memory, the disk of the output folder, the disk of the cache."""
    output, cache = config.output_dir.expanduser().resolve(), cache_root()
    total, available = int(psutil.virtual_memory().total), machine.available_memory()
    memory = {"available": available, "total": total}
    facts = (
        Fact("doctor.memory", memory, f"{size_text(available)} / {size_text(total)}"),
        _disk("doctor.output_disk", output),
        _disk("doctor.cache_disk", cache),
    )
    findings = [*_tight_memory(available), *_folder(output, LEAST_OUTPUT), *_folder(cache, _needed_in_cache())]
    return Examination(facts, tuple(findings))


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the first one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _needed_in_cache() -> int:
    """Bytes that fetching and converting the packaged default takes; none where it is here."""
    return 0 if QWEN.is_here() else QWEN.download_bytes + QWEN.gguf_bytes + QWEN.converted_bytes


def _disk(key: str, folder: Path) -> Fact:
    free = shutil.disk_usage(nearest_folder(folder)).free
    return Fact(key, {"folder": str(folder), "free": free}, f"{size_text(free)} ({_short(folder)})")


def _short(folder: Path) -> str:
    """A path as people write it."""
    home = Path.home()
    return f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else str(folder)


def _tight_memory(available: int) -> Iterator[Finding]:
    if available < LEAST_MEMORY:
        yield note("finding.doctor.little_memory", available=size_text(available), need=size_text(LEAST_MEMORY))


def _folder(folder: Path, num_bytes: int) -> Iterator[Finding]:
    """What hinders writing `num_bytes` bytes into a folder."""
    there = nearest_folder(folder)
    free = shutil.disk_usage(there).free
    if free < num_bytes:
        yield note("finding.doctor.little_disk", where=str(folder), free=size_text(free), need=size_text(num_bytes))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as refused:
        yield wrong("finding.doctor.not_writable", where=str(there), reason=refused.strerror or str(refused))
