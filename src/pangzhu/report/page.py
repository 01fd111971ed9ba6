"""What stands on a report page, and its HTML: one file, no script, nothing fetched, every text escaped.

The page is plain data (`Page`); where it comes from is `pangzhu.report.build`'s business. Jinja's autoescaping keeps what
people wrote from becoming markup, a content security policy forbids scripts and everything from elsewhere.

Try it: open the `report.html` of any finished run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pangzhu.messages import language, text
from pangzhu.report.charts import Curve, draw
from pangzhu.report.marking import Piece
from pangzhu.report.verdict import Tone

WORDS = (  # of the page itself
    "report.curves",
    "report.expected",
    "report.marking.added",
    "report.marking.after",
    "report.marking.before",
    "report.marking.between",
    "report.marking.missing",
    "report.questions",
    "report.use",
)
LANGUAGE_TAGS = {"zh": "zh-CN", "en": "en"}


@dataclass(frozen=True, slots=True)
class Table:
    """A section with a table; the first cell of a row is its heading."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    intro: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entries:
    """A section of labels with their values."""

    heading: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """A model's answer in pieces; `mark` says in a character whether it is right, `note` what else is to be known of it."""

    model: str
    pieces: tuple[Piece, ...]
    mark: str = ""
    tone: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ShownQuestion:
    """A question, what was expected (None where nothing was), and the answers."""

    text: str
    expected: str | None
    answers: tuple[ShownAnswer, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Questions of one kind under a heading that unfolds them; `counts` says what they come to, `is_open` whether they are
    unfolded from the start."""

    heading: str
    questions: tuple[ShownQuestion, ...]
    counts: str = ""
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """A report, from its verdict down to how the adapter is loaded; a part that is empty is left out.

    Args:
        title: what is reported on.
        verdict: one sentence.
        tone: how good the news is.
        remarks: further sentences.
        tables: figures.
        curves: what was logged, over optimizer steps, each with the line under it.
        groups: every question with its answers.
        facts: of the run: result, plan against actual, data, settings, environment, fingerprints.
        commands: how to go on, each with what it does.
    """

    title: str
    verdict: str
    tone: Tone
    remarks: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    curves: tuple[tuple[Curve, str], ...] = ()
    groups: tuple[Group, ...] = ()
    facts: tuple[Table | Entries, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


def render(page: Page) -> str:
    """The page as HTML, in the language in force."""
    words = {key: text(key) for key in WORDS}
    html = _template().render(page=page, curves=_drawn(page.curves), language=LANGUAGE_TAGS[language()], words=words)
    return f"{html}\n"


def _drawn(curves: Sequence[tuple[Curve, str]]) -> list[tuple[Markup, str]]:
    """Each curve that has a finite value, as markup, with its caption."""
    drawings = ((draw(curve), caption) for curve, caption in curves)
    return [(Markup(drawing), caption) for drawing, caption in drawings if drawing]  # `draw` escapes what it was given


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pangzhu.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("page.html.jinja")
