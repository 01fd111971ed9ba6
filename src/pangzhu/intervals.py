"""How far a figure can be trusted: 95% intervals, and the difference of two models on the same rows.

A share has Wilson's interval. A difference is paired, since both models answered the same questions, and resampled over
facts, since wordings of one fact are learned or missed together: rows of one fact are drawn together or not at all.

Left to others: what is counted (`pangzhu.measures`), and for which rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

NOTHING = "–"  # in a table, for a figure that does not exist
NORMAL_975 = 1.959964  # 97.5% of a normal distribution lie below, so that 95% lie between this and its negative
NUM_RESAMPLES = 2000
SEED = 20261125
MOST_DRAWN = 1_000_000  # numbers held at a time while resampling


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95% interval; the interval is None where all rows belong to one fact, or the mean is no number."""

    value: float
    low: float | None = None
    high: float | None = None

    def in_points(self) -> str:
        """A difference in percentage points, for a table."""
        mean, *interval = (round(100 * part) for part in (self.value, self.low, self.high) if part is not None)
        return f"{mean:+d} [{interval[0]},{interval[1]}]" if interval else f"{mean:+d}"


@dataclass(frozen=True, slots=True)
class Share:
    """Of `num_rows` rows of a kind a model has `num_right` right; `gain` is its share minus the base's, None for the base."""

    model: str
    kind: str
    num_right: int
    num_rows: int
    gain: Estimate | None = None

    @property
    def value(self) -> float:
        """From 0 to 1; 0 where there are no rows."""
        return self.num_right / self.num_rows if self.num_rows else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share."""
        return wilson_interval(self.num_right, self.num_rows)

    def as_json(self) -> dict[str, object]:
        """The figures as plain values."""
        low, high = self.interval
        return asdict(self) | {"share": self.value, "low": low, "high": high}


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """95% score interval of a share, from 0 to 1 (E. B. Wilson, Probable Inference, JASA 22, 1927); honest for few rows
    and for none or all right, where the usual p ± z·sqrt(p(1-p)/n) has no width. All of 0 to 1 where there are no rows."""
    if not num_rows:
        return 0.0, 1.0
    z_squared = NORMAL_975**2
    middle = num_right + z_squared / 2
    reach = NORMAL_975 * math.sqrt(num_right * (num_rows - num_right) / num_rows + z_squared / 4)
    low, high = ((middle + side) / (num_rows + z_squared) for side in (-reach, reach))
    return max(0.0, round(low, 6)), round(high, 6)  # the sums miss 0 and 1 by a last digit


def bootstrap_mean(totals: Sequence[float], counts: Sequence[float], groups: Sequence[str]) -> Estimate:
    """sum(totals) / sum(counts) with its 95% percentile interval over resampled groups (B. Efron, Bootstrap Methods: Another
    Look at the Jackknife, Annals of Statistics 7, 1979). Seeded: the same rows give the same interval.

    Args:
        totals: of each row.
        counts: what each row counts, 1 for a row, its tokens for a mean over tokens.
        groups: the fact each row belongs to.
    """
    _, members = np.unique(np.array(groups), return_inverse=True)
    total = np.bincount(members, weights=totals)
    count = np.bincount(members, weights=counts)
    mean = float(total.sum() / count.sum())
    if len(total) < 2 or not math.isfinite(mean):
        return Estimate(mean)
    draw = np.random.default_rng(SEED)
    means: list[float] = []
    while len(means) < NUM_RESAMPLES:
        num = min(NUM_RESAMPLES - len(means), max(1, MOST_DRAWN // len(total)))
        drawn = draw.integers(len(total), size=(num, len(total)))
        means += (total[drawn].sum(axis=1) / count[drawn].sum(axis=1)).tolist()
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(mean, float(low), float(high))


def paired_gain(base: Sequence[float], other: Sequence[float], groups: Sequence[str]) -> Estimate:
    """Mean of other minus base, row by row, with its interval over resampled groups."""
    differences = [mine - its for its, mine in zip(base, other, strict=True)]
    return bootstrap_mean(differences, [1.0] * len(differences), groups)


def shares_of(
    right: Mapping[str, Sequence[bool]], *, base: str, kinds: Sequence[str], groups: Sequence[str]
) -> list[Share]:
    """Each model's share of right rows, kind by kind.

    Args:
        right: of each model, by row.
        base: which of the models the others are held against.
        kinds: of each row.
        groups: the fact each row belongs to.
    """
    shares = []
    for kind in dict.fromkeys(kinds):
        rows = [number for number, own in enumerate(kinds) if own == kind]
        before = [float(right[base][number]) for number in rows]
        facts = [groups[number] for number in rows]
        for model, by_row in right.items():
            found = [float(by_row[number]) for number in rows]
            gain = None if model == base else paired_gain(before, found, facts)
            shares.append(Share(model, kind, int(sum(found)), len(rows), gain))
    return shares


def shown_share(num_right: int, num_rows: int) -> str:
    """A share in percent with its interval, for a table."""
    if not num_rows:
        return NOTHING
    share, low, high = (f"{100 * part:.0f}" for part in (num_right / num_rows, *wilson_interval(num_right, num_rows)))
    return f"{share}% [{low}–{high}]"


def shown_percent(found: Estimate) -> str:
    """A share in percent with one digit and its interval, for a table."""
    interval = "" if found.low is None or found.high is None else f" [{100 * found.low:.1f}–{100 * found.high:.1f}]"
    return f"{100 * found.value:.1f}%{interval}"


def shown_nats(found: Estimate) -> str:
    """A figure in nats with its interval, for a table."""
    interval = "" if found.low is None or found.high is None else f" [{found.low:.3f}–{found.high:.3f}]"
    return f"{found.value:.3f}{interval}"
