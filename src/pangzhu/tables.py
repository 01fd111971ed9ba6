"""Tables of figures for a screen: a line for each kind of question and model, readable at 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pangzhu.intervals import NOTHING, Share, shown_share
from pangzhu.messages import text
from pangzhu.questions import kind_name

if TYPE_CHECKING:
    from rich.table import Table


def figures_table(title: str, headings: Sequence[str], lines: Sequence[tuple[str, ...]]) -> "Table":
    """Figures by kind of question and model.

    Args:
        title: above the table.
        headings: of the columns after kind and model.
        lines: kind, model, and a figure for each heading; lines of one kind stand together.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for heading in (text("compare.kind"), text("compare.model")):
        table.add_column(heading, overflow="fold")
    unbroken = {text("compare.share"), text("compare.gain")}
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=heading in unbroken)
    kinds = [kind for kind, *_ in lines]
    for number, (kind, *cells) in enumerate(lines):
        named = "" if number and kinds[number - 1] == kind else kind_name(kind)
        table.add_row(Text(named), *map(Text, cells), end_section=kinds[number + 1 : number + 2] != [kind])
    return table


def shares_table(title: str, right: str, shares: Sequence[Share]) -> "Table":
    """Counts under the heading `right`, shares with their intervals, and gains on the base."""
    headings = [right, text("compare.share"), text("compare.gain")]
    return figures_table(title, headings, [_line(share) for share in shares])


def counted(num: int, total: int) -> str:
    """`3/4`, or a dash where there is nothing to count."""
    return f"{num}/{total}" if total else NOTHING


def _line(share: Share) -> tuple[str, ...]:
    gain = share.gain.in_points() if share.gain else NOTHING
    count = counted(share.num_right, share.num_rows)
    return share.kind, share.model, count, shown_share(share.num_right, share.num_rows), gain
