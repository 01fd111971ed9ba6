"""The verb `adapters`: what adapter folders hold, and whether they are whole."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import Options
from pangzhu.messages import text

SEARCH_DEPTH = 3  # folders below the current one, where no folder was named
CONFIG_FILE = "adapter_config.json"  # peft's; what makes a folder an adapter


class AdaptersOptions(Options):
    """Which folders; none means those found below the current one."""

    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AdapterList:
    """One description an adapter."""

    descriptions: tuple[Rendered, ...]

    @property
    def exit_code(self) -> int:
        """The worst of its adapters'."""
        return max((int(getattr(description, "exit_code", 0)) for description in self.descriptions), default=0)

    def as_json(self) -> dict[str, object]:
        """`{"adapters": [...]}`."""
        return {"adapters": [description.as_json() for description in self.descriptions]}

    def render(self) -> RenderableType:
        """One below the other."""
        if not self.descriptions:
            return text("cli.adapters.none")
        return Group(*(description.render() for description in self.descriptions))


@verb(AdaptersOptions, positional=("folders", "FOLDER"))
def adapters(config: AdaptersOptions) -> AdapterList:
    """Describe and verify the adapters named, or all near the current folder."""
    from pangzhu.adapter import describe

    folders = config.folders or sorted(find_adapters(Path()))
    return AdapterList(tuple(describe(folder) for folder in folders))


def find_adapters(root: Path, *, depth: int = SEARCH_DEPTH) -> Iterator[Path]:
    """The adapter folders at or below `root`, without what lies inside an adapter (its checkpoints) or is hidden."""
    if (root / CONFIG_FILE).is_file():
        yield root
    elif depth:
        for folder in _folders(root):
            yield from find_adapters(folder, depth=depth - 1)


def _folders(root: Path) -> Iterable[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except PermissionError:
        return []
