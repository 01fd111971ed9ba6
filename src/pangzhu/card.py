"""The model card: an adapter folder's README.md, which says what the report says, in Markdown.

It is made of the same page (`pangzhu.report.page`), so that the two cannot differ; curves and single answers stay in the
report. On top stands the front matter that model hubs read. Published with the adapter, and once more when the adapter has been
asked, unless its owner has edited it since.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from pangzhu import storage
from pangzhu.adapter import CARD, MANIFEST, BaseRecord, read_manifest
from pangzhu.messages import say, text
from pangzhu.report.build import commands_for
from pangzhu.report.page import Entries, Page, Table
from pangzhu.storage import sha256_of

ACTIVE = re.compile(r"[\\`*<|]|\](?=\()")  # what would be markup in a cell or a sentence
FENCE = "```"
OWN_FILE = "model_card.md"  # outside an adapter's folder, where README.md may be anybody's


def model_card(page: Page, base: BaseRecord, folder: Path) -> str:
    """The card of the adapter that a page reports on.

    Args:
        page: what is known of it.
        base: what it belongs to.
        folder: it is called by the folder's name, since whoever gets it puts it elsewhere.
    """
    remarks = (_plain(remark) for remark in page.remarks)
    parts = [
        f"---\n{_front_matter(base)}---\n\n# {_plain(page.title)}",
        f"**{_plain(page.verdict)}**",
        *remarks,
        text("card.intro"),
        *(part for section in page.tables for part in _section(section)),
        *(part for section in page.facts for part in _section(section)),
        f"## {text('report.use')}",
        *(_command(*how) for how in commands_for(folder.resolve().name, base)),
        text("card.trust"),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(file: Path, page: Page, folder: Path) -> Path:
    """Write the card of an adapter somewhere else than into its folder, and say where.

    Raises:
        ModelError: no adapter there.
    """
    storage.write_atomically(file, model_card(page, read_manifest(folder).base, folder))
    say("card.written", file=file)
    return file


def renew_card(folder: Path, page: Page) -> None:
    """Put a card that says more in the place of the published one, and its hash into the manifest. A card that its owner edited
    is left alone, and that is said.

    Raises:
        ModelError: no adapter there.
    """
    manifest, card = read_manifest(folder), folder / CARD
    if not card.is_file() or sha256_of(card) != manifest.files.get(CARD):
        say("card.edited", file=card)
        return
    storage.write_atomically(card, model_card(page, manifest.base, folder))
    renewed = replace(manifest, files=manifest.files | {CARD: sha256_of(card)})
    storage.write_atomically(folder / MANIFEST, renewed.to_json())


def _front_matter(base: BaseRecord) -> str:
    """What hubs read; a base without a public id is none they could link to."""
    known: dict[str, object] = {"base_model": base.public_id} if base.public_id else {}
    known |= {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "pangzhu"]}
    return str(yaml.safe_dump(known, sort_keys=False, allow_unicode=True))


def _command(caption: str, command: str) -> str:
    return f"{_plain(caption)}\n\n{FENCE}\n{command}\n{FENCE}"


def _section(section: Table | Entries) -> Iterator[str]:
    """A heading and what stands below it."""
    yield f"## {_plain(section.heading)}"
    if isinstance(section, Entries):
        yield _table(("", ""), section.entries)
        return
    if section.intro:
        yield _plain(section.intro)
    yield _table(section.columns, section.rows)
    yield from map(_plain, section.notes)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _plain(cell) for cell in line)} |" for line in lines)


def _plain(words: str) -> str:
    """Words that stay words in Markdown, on one line."""
    return ACTIVE.sub(r"\\\g<0>", words).replace("\n", "<br>")
