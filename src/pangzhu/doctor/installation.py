"""Python, Pangzhu and the libraries: which versions are here, which are needed, which were tested.

What is needed is what the installed package requires; what was tested stands in `requirements.txt`, once, and a wheel
carries that file as `tested.txt` beside this module.
"""

import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pangzhu import __version__
from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, note, wrong

PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Library:
    """A library that Pangzhu needs.

    Args:
        name: as the package index spells it.
        needed: versions that will do, `>=2.6`.
        tested: the version this release was tested with, where one is recorded.
        installed: the version that is here, or None.
    """

    name: str
    needed: str
    tested: str | None
    installed: str | None

    @property
    def fits(self) -> bool:
        """Whether the installed version will do."""
        return self.installed is not None and Requirement(f"x{self.needed}").specifier.contains(
            self.installed, prereleases=True
        )

    @property
    def is_newer(self) -> bool:
        """Whether it is newer than what was tested; a build's own mark (`2.13.0+cpu`) makes no version newer."""
        if self.installed is None or self.tested is None:
            return False
        return Version(Version(self.installed).public) > Version(self.tested)


def examine(_config: DoctorConfig) -> Examination:
    """Versions, and what is missing, too old or newer than tested."""
    bits = 64 if sys.maxsize > 2**32 else 32
    python = f"{platform.python_version()} ({platform.python_implementation()}, {bits} bit)"
    libraries = needed_libraries()
    versions = {library.name: library.installed for library in libraries}
    facts = (
        Fact("doctor.python", python),
        Fact("doctor.system", platform.platform()),
        Fact("doctor.pangzhu", __version__),
        Fact("doctor.libraries", versions, ", ".join(f"{name} {found or '–'}" for name, found in versions.items())),
    )
    return Examination(facts, tuple(_findings(libraries)))


def needed_libraries() -> list[Library]:
    """Every library the installed package requires; none where Pangzhu is not installed in this Python."""
    tested = {canonicalize_name(name): pinned for name, pinned in PINNED.findall(tested_versions().read_text("utf-8"))}
    needed = (Requirement(line) for line in _requirements())
    return [
        Library(need.name, str(need.specifier), tested.get(canonicalize_name(need.name)), _installed(need.name))
        for need in needed
        if need.marker is None or need.marker.evaluate({"extra": ""})
    ]


def tested_versions() -> Path:
    """The file of exact versions: beside this module in a wheel, in the checkout this module stands in."""
    here = Path(__file__).resolve()
    carried = here.with_name("tested.txt")
    return carried if carried.exists() else here.parents[3] / "requirements.txt"


def _requirements() -> list[str]:
    try:
        return requires("pangzhu") or []
    except PackageNotFoundError:
        return []


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _findings(libraries: list[Library]) -> list[Finding]:
    if not libraries:
        return [wrong("finding.doctor.not_installed", where=sys.executable, python=sys.executable)]
    found = [_misfit(library) for library in libraries if not library.fits]
    if newer := [library for library in libraries if library.fits and library.is_newer]:
        listed = ", ".join(f"{library.name} {library.installed}" for library in newer)
        pins = " ".join(f'"{library.name}=={library.tested}"' for library in newer)
        found.append(note("finding.doctor.newer_than_tested", libraries=listed, pins=pins))
    return found


def _misfit(library: Library) -> Finding:
    values = {"name": library.name, "needed": library.needed}
    if library.installed is None:
        return wrong("finding.doctor.library_missing", **values)
    return wrong("finding.doctor.library_unfit", installed=library.installed, **values)
