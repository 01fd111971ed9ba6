"""The verbs `pull` and `models`: base models fetched, and base models listed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from pangzhu.cli.options import verb
from pangzhu.config import ModelOptions, Options
from pangzhu.messages import text

if TYPE_CHECKING:
    from pangzhu.sources.base_model import BaseModel, Listing

STATES = {"here": "cli.models.here", "can be fetched": "cli.models.can_be_fetched"}


@dataclass(frozen=True)
class PullResult:
    """A base model that is on this disk now."""

    base: "BaseModel"

    def as_json(self) -> dict[str, object]:
        """Where it is, and where it came from."""
        return asdict(self.base)

    def render(self) -> str:
        """Which model and why, and its folder."""
        return f"{self.base.why}\n{text('cli.pull.done', name=self.base.name, folder=self.base.folder)}"


@dataclass(frozen=True)
class ModelList:
    """The base models that are here, and those that can be had."""

    listings: Sequence["Listing"]

    def as_json(self) -> dict[str, object]:
        """`{"models": [...]}`."""
        return {"models": [asdict(listing) for listing in self.listings]}

    def render(self) -> RenderableType:
        """A table, a model a row; names and folders are never cut."""
        from pangzhu.sources.cache import size_text

        table = Table(title=text("cli.models.title"), title_justify="left", box=None, pad_edge=False)
        for heading in ("cli.models.name", "cli.models.state", "cli.models.size", "cli.models.licence"):
            table.add_column(text(heading), no_wrap=True)
        table.add_column(text("cli.models.folder"), overflow="fold")
        for listing in self.listings:
            state, size = text(STATES[listing.state]), size_text(listing.num_bytes)
            table.add_row(listing.name, state, size, listing.licence or "", str(listing.folder or ""))
        return table


@verb(ModelOptions, positional=("model_name_or_path", "NAME"), only=("model_name_or_path", "hub", "revision"))
def pull(config: ModelOptions) -> PullResult:
    """Fetch, verify and convert a base model, and say where it is."""
    from pangzhu.sources import resolve

    return PullResult(resolve(config.model_name_or_path, hub=config.hub, revision=config.revision))


@verb(Options)
def models(_config: Options) -> ModelList:
    """List the base models that are here, and those that can be had."""
    from pangzhu.sources import available

    return ModelList(available())
