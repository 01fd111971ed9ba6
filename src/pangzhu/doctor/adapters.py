"""The adapters named on the command line: every file the one its manifest names, or what is wrong with them."""

from pangzhu.adapter import Manifest, verify_files
from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, from_error
from pangzhu.engines.named_models import named_folders
from pangzhu.errors import ModelError
from pangzhu.messages import text


def examine(config: DoctorConfig) -> Examination:
    """Verify each adapter; nothing is loaded.

    Raises:
        UsageError: two adapters of one name, or a name that cannot be one.
    """
    looks: dict[str, Manifest | ModelError] = {}
    for name, folder in named_folders(config.adapter).items():
        try:
            looks[name] = verify_files(folder)
        except ModelError as fault:
            looks[name] = fault
    intact = {name: isinstance(look, Manifest) for name, look in looks.items()}
    shown = "\n".join(f"{name}: {_shown(look)}" for name, look in looks.items())
    facts = (Fact("doctor.adapter_states", intact, shown),) if looks else ()
    return Examination(facts, tuple(from_error(look) for look in looks.values() if isinstance(look, ModelError)))


def _shown(look: Manifest | ModelError) -> str:
    if isinstance(look, ModelError):
        return text("doctor.state.damaged")
    return text("doctor.adapter_of", base=look.base.name)
