"""The bar that `--fail_under` sets: which kinds of question must be answered rightly how often, and which fell short.

The figures are shown and written all the same; the command then ends with the exit code of a failed verification.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pangzhu.errors import UsageError, VerificationError, nearest
from pangzhu.intervals import NOTHING, Share
from pangzhu.messages import say, text
from pangzhu.questions import kind_name


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A share that is less than what was asked for."""

    share: Share
    required: float

    def __str__(self) -> str:
        share = self.share
        return text(
            "gate.shortfall",
            model=share.model,
            kind=kind_name(share.kind),
            num=share.num_right,
            total=share.num_rows,
            percent=100 * share.value,
            required=100 * self.required,
        )

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        share = self.share
        return {"model": share.model, "kind": share.kind, "share": share.value, "required": self.required}


def require_kinds(thresholds: Mapping[str, float], kinds: Iterable[str], *, answered: Iterable[str]) -> None:
    """Refuse a bar for a kind of question that the file has not, or has without answers: of none, none are right.

    Args:
        thresholds: the bars.
        kinds: of all questions.
        answered: kinds of the questions whose right answer is known.

    Raises:
        UsageError: names it and those there are.
    """
    asked, counted = dict.fromkeys(kinds), dict.fromkeys(answered)
    known = ", ".join(counted) or NOTHING
    for kind in thresholds:
        if kind not in asked:
            hint = nearest(kind, counted)
            raise UsageError("error.gate.no_such_kind", where="--fail_under", kind=kind, known=known, hint=hint)
        if kind not in counted:
            raise UsageError("error.gate.nothing_counted", where="--fail_under", kind=kind_name(kind), known=known)


def find_shortfalls(thresholds: Mapping[str, float], shares: Iterable[Share], *, base: str) -> tuple[Shortfall, ...]:
    """Every share below the bar of its kind; the base is held against it only where it is alone."""
    found = list(shares)
    held = [share for share in found if share.model != base] or found
    return tuple(
        Shortfall(share, thresholds[share.kind])
        for share in held
        if share.kind in thresholds and share.value < thresholds[share.kind]
    )


def exit_code(shortfalls: Sequence[Shortfall]) -> int:
    """What the command ends with: 0 where nothing fell short."""
    return VerificationError.exit_code if shortfalls else 0


def report(shortfalls: Iterable[Shortfall]) -> None:
    """Say what fell short, if anything did."""
    if sentences := "".join(f"\n    {shortfall}" for shortfall in shortfalls):
        say("gate.fault", fault=VerificationError("error.gate.fell_short", shortfalls=sentences))
