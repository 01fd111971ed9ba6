"""What surrounds the program: the console's encoding, Windows' limit on paths, variables that steer threads."""

import os
import re
import sys
from collections.abc import Iterator, Mapping

from pangzhu import machine
from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, note

SAMPLE = "旁注 ⟦ ⟧ →"  # what reports and previews print
NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT")
THREAD_VARIABLES = (*NUMBERS, "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
COUNT = re.compile(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*")
LONG_PATHS = r"SYSTEM\CurrentControlSet\Control\FileSystem"


def examine(_config: DoctorConfig) -> Examination:
    """Encodings, long paths, thread variables."""
    encoding = sys.stdout.encoding or "?"
    names = {"console": encoding, "files": sys.getfilesystemencoding()}
    set_here = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    facts = [
        Fact("doctor.encoding", names, f"{names['console']}, {names['files']}"),
        Fact("doctor.thread_variables", set_here, ", ".join(f"{name}={set_here[name]}" for name in set_here) or "–"),
    ]
    findings = [*_poor_encoding(encoding), *_odd_threads(set_here)]
    if sys.platform == "win32":
        allowed = long_paths_are_allowed()
        facts.append(Fact("doctor.long_paths", allowed))
        findings += [] if allowed else [note("finding.doctor.long_paths_off")]
    return Examination(tuple(facts), tuple(findings))


def long_paths_are_allowed() -> bool:
    """Whether Windows lets paths be longer than 260 characters; files of the hubs' caches often are."""
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, LONG_PATHS) as key:  # type: ignore[attr-defined,unused-ignore]
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])  # type: ignore[attr-defined,unused-ignore]
    except FileNotFoundError:
        return False


def _poor_encoding(encoding: str) -> Iterator[Finding]:
    try:
        SAMPLE.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        yield note("finding.doctor.poor_encoding", encoding=encoding)


def _odd_threads(variables: Mapping[str, str]) -> Iterator[Finding]:
    for name in NUMBERS:
        value = variables.get(name)
        if value is not None and not COUNT.fullmatch(value):
            yield note("finding.doctor.no_thread_count", where=name, name=name, value=value)
    limit = variables.get("OMP_THREAD_LIMIT", "")
    cores = machine.num_physical_cores()
    if COUNT.fullmatch(limit) and "," not in limit and int(limit) < cores:
        yield note("finding.doctor.thread_limit", where="OMP_THREAD_LIMIT", limit=int(limit), cores=cores)
