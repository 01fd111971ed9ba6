"""An export is written aside, in `unproven` below its folder, and moved into place once it is proven, its manifest last.

What failed stays aside with its `parity.json`, to be looked at; the next try begins anew. A folder holds one export: the
same one again takes its place, another is refused. While it is moved, `publishing.json` tells what it is going to be, so that
the same command finishes what was broken off.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu import storage
from pangzhu.adapter import MANIFEST, file_hashes, library_versions
from pangzhu.errors import UsageError
from pangzhu.json_text import to_json
from pangzhu.messages import text
from pangzhu.model import read_json
from pangzhu.sources.cache import need_space

if TYPE_CHECKING:
    from rich.console import Group

    from pangzhu.export.parity import Parity

UNPROVEN = "unproven"
PUBLISHING = "publishing.json"
PARITY = "parity.json"


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported.

    Args:
        folder: where it is.
        files: its own files, by name; the manifest names all of them.
        parity: how it compares with its adapter; None where that was left out.
        hints: how it is used, a sentence or a command each.
    """

    folder: Path
    files: tuple[str, ...]
    parity: "Parity | None"
    hints: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        """The export as plain values."""
        parity = self.parity.as_json() if self.parity else None
        return {"folder": str(self.folder), "files": list(self.files), "parity": parity}

    def render(self) -> "Group":
        """The table of the gate, what was written, and how it is used."""
        from rich.console import Group
        from rich.text import Text

        tables = [self.parity.table()] if self.parity else []
        written = text("export.written", files=", ".join(self.files), folder=self.folder)
        return Group(*tables, *map(Text, (written, *self.hints)))


def begin(output_dir: Path, kind: str, *, num_bytes: int) -> Path:
    """An empty folder to write an export into.

    Args:
        output_dir: where it is to be in the end.
        kind: what is exported, told by its manifest.
        num_bytes: what it will take on the disk.

    Raises:
        UsageError: something else lives in `output_dir`.
        ResourceError: not enough room.
    """
    staged = output_dir / UNPROVEN
    present = [entry for entry in output_dir.iterdir() if entry != staged] if output_dir.is_dir() else []
    if present and _kind_in(output_dir) != kind:
        raise UsageError("error.export.folder_taken", where=str(output_dir), name=min(entry.name for entry in present))
    storage.remove_tree(staged)
    need_space(output_dir, num_bytes)
    storage.make_folder(staged)
    return staged


def publish(output_dir: Path, kind: str, about: Mapping[str, object]) -> tuple[str, ...]:
    """Move what was written into place: every file by replacement, the manifest last. Gives the files' names."""
    staged = output_dir / UNPROVEN
    files = file_hashes(staged)
    manifest = {**about, "kind": kind, "files": files, "versions": library_versions()}
    storage.sync_tree(staged)
    storage.write_atomically(output_dir / PUBLISHING, json.dumps({"kind": kind}) + "\n")
    storage.remove(output_dir / MANIFEST)
    storage.move(staged, output_dir)
    storage.write_atomically(output_dir / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    storage.remove(output_dir / PUBLISHING)
    return tuple(files)


def keep_parity(staged: Path, parity: "Parity") -> None:
    """Keep the gate's figures beside the export."""
    storage.write_atomically(staged / PARITY, to_json(parity.as_json(), indent=2) + "\n")


def _kind_in(folder: Path) -> object:
    told = next((folder / name for name in (PUBLISHING, MANIFEST) if (folder / name).is_file()), None)
    return read_json(told).get("kind") if told else None
