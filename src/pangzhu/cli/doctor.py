"""The verb `doctor`: what this machine can do, and what is wrong with the installation."""

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import DoctorConfig


@verb(DoctorConfig)
def doctor(config: DoctorConfig) -> Rendered:
    """Examine machine, installation, caches, adapters and the way to the hubs."""
    from pangzhu.doctor import diagnose

    return diagnose(config)
