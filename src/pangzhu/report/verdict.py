"""One sentence on what an adapter is worth, and what else a reader must know, from figures alone.

A fault that makes an adapter useless is the verdict; else what it reached is, and lesser faults are remarks that keep the
praise from being whole. Each threshold is a constant with its reason, so that a reader can disagree with it.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from pangzhu.adapter import BaseMismatch

Tone = Literal["good", "partly", "bad"]

LEAST_TAUGHT = 0.95  # below, rows asked for by heart are missing
LEAST_HALF = 0.5  # below half of the taught answers nobody would call it taught
LEAST_ENDED = 0.5  # where most answers run on, their end was not learned
LEAST_REWORDED = 0.8  # what three to six wordings a fact are expected to reach
MOST_RECITED = 0.1  # a taught answer to another question is worse than none
LEAST_AGREEMENT = 0.9  # with the base's own words on general prompts
BROKEN_AGREEMENT = 0.6  # below, general answers are no longer the base's
FALLEN_LOSS = 0.5  # of what it was at first: more than the difference between two batches


@dataclass(frozen=True, slots=True)
class Counted:
    """`num` of `total`; no share where there is nothing to count."""

    num: int
    total: int

    @property
    def value(self) -> float | None:
        """From 0 to 1."""
        return self.num / self.total if self.total else None

    def below(self, least: float) -> bool:
        """Whether it is known to be less."""
        return self.value is not None and self.value < least


NOT_ASKED = Counted(0, 0)


@dataclass(frozen=True, slots=True)
class Reached:
    """What was measured of one adapter; a share over nothing was not measured.

    Args:
        unchanged: every answer is the base's own, and no probability moved on general prompts.
        same_answers: every answer is the base's own; whether more moved was not measured.
        broken_off: answers that broke off, of all, where some probability was no number; None where all were.
        mismatch: the base is another one than the adapter was trained on.
        losses: of the first and the last logged optimizer step of its training, nats a learned token.
        nearer: its taught answers come nearer to the right ones than the base's do, by more than chance explains.
        taught: taught questions answered rightly.
        taught_begun: taught questions whose answer begins with the right one, whether or not it goes on.
        taught_ended: taught questions whose answer ended by itself.
        reworded: the same facts asked in wordings never trained.
        recited: untaught questions answered with a taught answer.
        agreement: share of tokens of the base's own answers to general prompts that are the adapter's first choice too.
        choices_lost: multiple choice, base minus adapter, and whether its 95% interval leaves out 0.
    """

    unchanged: bool = False
    same_answers: bool = False
    broken_off: Counted | None = None
    mismatch: BaseMismatch | None = None
    losses: tuple[float, float] | None = None
    nearer: bool | None = None
    taught: Counted = NOT_ASKED
    taught_begun: Counted = NOT_ASKED
    taught_ended: Counted = NOT_ASKED
    reworded: Counted = NOT_ASKED
    recited: Counted = NOT_ASKED
    agreement: float | None = None
    choices_lost: tuple[float, bool] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence of the catalogue with its values, and how good the news is."""

    key: str
    tone: Tone
    values: dict[str, object] = field(default_factory=dict)


def judge(reached: Reached) -> tuple[Verdict, ...]:
    """The verdict, then what else is worth a remark, worst first."""
    found = [verdict for verdict in _faults(reached) if verdict]
    if found and (found[0].tone == "bad" or found[0].key == "verdict.partly_learned"):
        return tuple(found)
    praise = _praise(reached)
    return (replace(praise, tone="partly") if found else praise, *found)


def _faults(reached: Reached) -> list[Verdict | None]:
    """What is wrong, those that make an adapter useless first; beside the first two nothing else means anything."""
    if reached.broken_off:
        return [_of("verdict.not_numbers", "bad", reached.broken_off)]
    if reached.unchanged:
        return [Verdict("verdict.unchanged", "bad")]
    found = [_wrong_base(reached), _learned_other(reached), _runs_on(reached), _not_learned(reached)]
    found += [_broken(reached), _choices_lost(reached), _recites(reached), _by_heart(reached), _same_answers(reached)]
    return sorted(found, key=lambda verdict: verdict is None or verdict.tone != "bad")


def _wrong_base(reached: Reached) -> Verdict | None:
    """Another base may be a near relative of its own, on which the answers are still right."""
    if reached.mismatch is None:
        return None
    learned = reached.taught.value is not None and not reached.taught.below(LEAST_TAUGHT)
    values: dict[str, object] = {"base": reached.mismatch.base, "parts": ", ".join(reached.mismatch.parts)}
    return Verdict("verdict.wrong_base", "partly" if learned else "bad", values)


def _learned_other(reached: Reached) -> Verdict | None:
    """A loss that fell while no answer came nearer is that of something else; on another base it tells nothing."""
    if reached.losses is None or reached.mismatch or reached.nearer is not False:
        return None
    before, after = reached.losses
    if after > FALLEN_LOSS * before or not reached.taught.below(LEAST_HALF):
        return None
    counts: dict[str, object] = {"num": reached.taught.num, "total": reached.taught.total}
    return Verdict("verdict.learned_other", "bad", {"before": before, "after": after} | counts)


def _begun(reached: Reached) -> bool:
    """Whether most taught answers begin as taught; those that run on are learned all the same."""
    return reached.taught_begun.value is not None and not reached.taught_begun.below(LEAST_HALF)


def _runs_on(reached: Reached) -> Verdict | None:
    """Answers that do not end: the end-of-turn token was never learned, or unlearned."""
    return _of("verdict.runs_on", "bad", reached.taught_ended) if reached.taught_ended.below(LEAST_ENDED) else None


def _not_learned(reached: Reached) -> Verdict | None:
    if _learned_other(reached):
        return None
    if _runs_on(reached) and _begun(reached):
        return _of("verdict.begun", "partly", reached.taught_begun)
    if reached.taught.below(LEAST_HALF):
        return _of("verdict.not_learned", "bad", reached.taught)
    return _of("verdict.partly_learned", "partly", reached.taught) if reached.taught.below(LEAST_TAUGHT) else None


def _broken(reached: Reached) -> Verdict | None:
    """What the base could do and the adapter no longer can."""
    agreement = reached.agreement
    if agreement is not None and agreement < LEAST_AGREEMENT:
        tone: Tone = "bad" if agreement < BROKEN_AGREEMENT else "partly"
        return Verdict("verdict.drifted" if tone == "partly" else "verdict.broken", tone, {"agreement": agreement})
    return None


def _choices_lost(reached: Reached) -> Verdict | None:
    if reached.choices_lost is not None and reached.choices_lost[0] > 0 and reached.choices_lost[1]:
        return Verdict("verdict.choices_lost", "partly", {"points": 100 * reached.choices_lost[0]})
    return None


def _recites(reached: Reached) -> Verdict | None:
    too_often = (reached.recited.value or 0) > MOST_RECITED
    return _of("verdict.recites", "partly", reached.recited) if too_often else None


def _by_heart(reached: Reached) -> Verdict | None:
    known = not reached.taught.below(LEAST_HALF) and reached.taught.value is not None
    return (
        _of("verdict.by_heart", "partly", reached.reworded)
        if known and reached.reworded.below(LEAST_REWORDED)
        else None
    )


def _same_answers(reached: Reached) -> Verdict | None:
    """Without drift, equal answers to a few questions do not prove that nothing moved."""
    return Verdict("verdict.same_answers", "partly") if reached.same_answers else None


def _praise(reached: Reached) -> Verdict:
    if reached.taught.value is None and reached.reworded.value is not None:
        return _of("verdict.reworded_only", "partly", reached.reworded)
    if reached.taught.value is None:
        return Verdict("verdict.nothing_asked", "partly")
    if reached.reworded.value is None:
        return _of("verdict.taught", "good", reached.taught)
    values: dict[str, object] = {"reworded": reached.reworded.num, "num_reworded": reached.reworded.total}
    return Verdict("verdict.learned", "good", values | {"num": reached.taught.num, "total": reached.taught.total})


def _of(key: str, tone: Tone, share: Counted) -> Verdict:
    return Verdict(key, tone, {"num": share.num, "total": share.total})
