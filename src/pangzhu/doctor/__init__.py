"""What this machine can do, and what is wrong with the installation.

Each part of the examination is a module here and looks at one thing: it gives facts (what is) and findings (what to act
on, each with its remedy). A finding is either wrong, and the command fails, or a note. Parts are imported one by one, so
that a library that is missing or broken is a finding and not the end of the examination.

What this does not do: change anything, or judge a dataset (`check`) or a run (`plan`).

Try it: `pangzhu doctor`, or `pangzhu doctor --adapter lora_output --json`.
"""

import os
from collections.abc import Callable
from importlib import import_module

from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Diagnosis, Examination, Part, wrong
from pangzhu.hiding import known_secrets

PARTS = {  # module of this package -> heading, in the order of the report
    "installation": "doctor.installation",
    "compute": "doctor.compute",
    "room": "doctor.room",
    "surroundings": "doctor.surroundings",
    "models": "doctor.models",
    "adapters": "doctor.adapters",
    "network": "doctor.network",
}


def diagnose(config: DoctorConfig) -> Diagnosis:
    """Examine everything; what cannot be examined is a finding too.

    Raises:
        UsageError: two adapters of one name, or a name that cannot be one.
    """
    parts = tuple(Part(heading, _examine(module, config)) for module, heading in PARTS.items())
    return Diagnosis(parts, known_secrets(os.environ))


def _examine(module: str, config: DoctorConfig) -> Examination:
    try:
        examine: Callable[[DoctorConfig], Examination] = import_module(f"pangzhu.doctor.{module}").examine
        return examine(config)
    except (ImportError, OSError) as failed:
        reason = f"{type(failed).__name__}: {failed}"
        return Examination((), (wrong("finding.doctor.not_examined", where=module, reason=reason),))
