"""What is exported: a base and the adapter on it, both checked, and how they are spoken to.

An export is used by programs that know nothing of a PromptContract, so its template carries all of it (`template`): the system
text that conversations without one get, and the frozen date.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.adapter import PROMPT, WEIGHTS, Manifest, check_base, verify_files
from pangzhu.engines.named_models import named_folders, with_recorded_base
from pangzhu.preparation import PreparedBase, prepare_base
from pangzhu.storage import sha256_of
from pangzhu.template import PromptContract, standalone_template

if TYPE_CHECKING:
    from pangzhu.export.options import MergeConfig


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter of an export, its files found to be those that its manifest names."""

    name: str
    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported.

    Args:
        base: the model and its tokenizer.
        adapter: on it; None where the base is exported alone.
        contract: the adapter's, else the base's own.
    """

    base: PreparedBase
    adapter: Adapter | None
    contract: PromptContract

    @property
    def name(self) -> str:
        """What files are called: the adapter's name, else the base's last one."""
        return self.adapter.name if self.adapter else self.base.source.name.rstrip("/\\").rpartition("/")[2]

    @property
    def base_name(self) -> str:
        """How the base is named to others: by its public id where it has one; a folder of this computer without the way to
        it."""
        name = self.base.source.name
        return self.base.source.public_id or (Path(name).name if Path(name).is_absolute() else name)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the base and of the adapter."""
        return (self.base.source.folder, *([self.adapter.folder] if self.adapter else []))

    @property
    def template(self) -> str:
        """The chat template that renders, by itself, what the contract renders."""
        return standalone_template(self.contract)

    def origin(self) -> dict[str, object]:
        """What an export was made of, for its manifest."""
        made_of: dict[str, object] = {
            "base": self.base_name,
            "revision": self.base.source.revision,
            "template_sha256": self.contract.template_sha256,
        }
        if self.adapter:
            made_of |= {"adapter": self.adapter.name, "adapter_sha256": sha256_of(self.adapter.folder / WEIGHTS)}
        return made_of


def find_subject(config: "MergeConfig") -> Subject:
    """The base and the adapter that are named; where no base is, the one that the adapter's manifest records.

    Raises:
        ModelError: no such base or adapter, or an adapter of another base.
    """
    adapters = [Adapter(name, folder, verify_files(folder)) for name, folder in named_folders(config.adapter).items()]
    base = prepare_base(with_recorded_base(config, [adapter.manifest for adapter in adapters]))
    if not adapters:
        return Subject(base, None, base.contract)
    [adapter] = adapters
    check_base(adapter.manifest, base.source.folder, template_sha256=base.contract.template_sha256)
    return Subject(base, adapter, PromptContract.read(adapter.folder / PROMPT))
