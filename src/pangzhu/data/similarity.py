"""Which texts of many are nearly the same: 100,000 of them in seconds, without comparing each with each.

A text is folded (case, width, white space and punctuation set aside) and cut into shingles, all runs of three letters.
Two texts are as alike as their sets of shingles: the size of the intersection over that of the union. Sixty hashes of
the shingles, the least value of each kept, agree in just that share of places (MinHash); texts that agree in all five
places of one of twelve bands become candidates, and only candidates are compared. Of pairs that are 80% alike this finds
99%, of pairs that are 90% alike practically all.

Sources: A. Broder, "On the resemblance and containment of documents" (1997); the bands: J. Leskovec, A. Rajaraman and
J. Ullman, "Mining of Massive Datasets", chapter 3.

Try it: `alike(fold("What is LoRA?"), fold("what is ＬｏＲＡ"))`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
NUM_BANDS, HASHES_A_BAND = 12, 5
NUM_HASHES = NUM_BANDS * HASHES_A_BAND
MIN_ALIKE = 0.8
MIN_EQUAL_HASHES = round(0.6 * NUM_HASHES)  # of a pair that is 80% alike, one in ten thousand has fewer
MOST_COMPARED = 8  # texts of one band that a further one is compared with; many that are only half alike may share it
LETTERS_A_BATCH = 300_000  # hashed together: their shingles stay in the processor's cache

KEPT_PUNCTUATION = "#%‰&*@/\\.-"  # part of what is said: C#, 5%, a/b; the last two beside digits only
NUMERALS = "零〇一二三四五六七八九十百千万亿两"
NUMBER = re.compile(rf"\d+(?:\.\d+)?|第[{NUMERALS}]+|[{NUMERALS}]{{2,}}")

Signatures = NDArray[np.uint32]
_U32 = np.uint32


def fold(text: str) -> str:
    """A text without what may differ by accident: case, width, white space, punctuation.

    A point between digits and a minus before one stay; a text of nothing else is given back as it is.
    """
    return _unsaid().sub("", unicodedata.normalize("NFKC", text).casefold()) or text


def alike(left: str, right: str) -> bool:
    """Whether two folded texts share at least 80% of their shingles and name the same numbers: articles 82 and 83 of a
    law are two matters, however alike the sentences."""
    if left == right:
        return True
    return resemblance(left, right) >= MIN_ALIKE and _numbers(left) == _numbers(right)


def resemblance(left: str, right: str) -> float:
    """Shared shingles over all shingles of two folded texts."""
    mine, theirs = _shingles(left), _shingles(right)
    return len(mine & theirs) / len(mine | theirs)


def pair_up(
    texts: Iterable[str], is_pair: Callable[[int, int], bool], *, num_references: int | None = None
) -> dict[int, int]:
    """Which text is nearly the same as which earlier one, by index.

    Args:
        texts: folded.
        is_pair: the last word on two candidates, a later and an earlier one.
        num_references: so many texts at the head are those the others are compared with, and nothing else is; None
            compares every text with those before it that are not paired themselves.
    """
    signatures = _sign_all(texts)
    found: dict[int, int] = {}
    refused: set[tuple[int, int]] = set()

    def partner(index: int, standing: Sequence[int]) -> int | None:
        for other in standing[-MOST_COMPARED:]:
            if (index, other) not in refused:
                if _may_be_alike(signatures, index, other) and is_pair(index, other):
                    return other
                refused.add((index, other))
        return None

    for group in _groups(signatures):
        standing: list[int] = []
        for index in group:
            is_later = num_references is None or index >= num_references
            if index in found:
                continue
            if is_later and (other := partner(index, standing)) is not None:
                found[index] = other
            elif num_references is None or not is_later:
                standing.append(index)
    return found


@cache
def _unsaid() -> re.Pattern[str]:
    """What folding takes away; all of it stands below U+10000."""
    unsaid = (
        letter
        for letter in map(chr, range(0x10000))
        if letter not in KEPT_PUNCTUATION
        and ((kind := unicodedata.category(letter))[0] in "PZ" or kind in ("Cc", "Cf"))
    )
    return re.compile(rf"[{''.join(map(re.escape, unsaid))}]+|\.(?!\d)|(?<!\d)\.|-(?!\d)")


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


@cache
def _hash_constants() -> tuple[Signatures, Signatures]:
    """Odd factors and summands, the same in every run."""
    drawn = np.frombuffer(shake_256(b"pangzhu").digest(8 * NUM_HASHES), dtype="<u4")
    return drawn[:NUM_HASHES] | _U32(1), drawn[NUM_HASHES:]


def _sign_all(texts: Iterable[str]) -> Signatures:
    """The signature of each text, `(number of texts, NUM_HASHES)`; of a huge text that of its head."""
    signed = [np.empty((0, NUM_HASHES), dtype=_U32)]
    batch: list[str] = []
    num_letters = 0
    for text in texts:
        batch.append(text[:LETTERS_A_BATCH])
        num_letters += len(batch[-1])
        if num_letters >= LETTERS_A_BATCH:
            signed.append(_sign(batch))
            batch, num_letters = [], 0
    return np.concatenate([*signed, _sign(batch)] if batch else signed)


def _sign(texts: Sequence[str]) -> Signatures:
    """The least value of each hash over the shingles of each text, `(len(texts), NUM_HASHES)`."""
    filled = [text.ljust(SHINGLE, "\0") for text in texts]
    ends = np.cumsum([len(text) for text in filled])
    letters = np.frombuffer("".join(filled).encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    hashes = _mixed(letters)
    inside = np.ones(len(hashes), dtype=bool)
    for reach in range(1, SHINGLE):  # shingles that begin so near a text's end go on into the next text
        inside[ends[:-1] - reach] = False
    own = hashes[inside]
    starts = np.concatenate([[0], ends[:-1]]) - (SHINGLE - 1) * np.arange(len(texts))
    columns = [
        np.minimum.reduceat(own * factor + summand, starts) for factor, summand in zip(*_hash_constants(), strict=True)
    ]
    return np.stack(columns, axis=1)


def _mixed(letters: NDArray[np.uint32]) -> Signatures:
    """One hash a shingle: its letters multiplied into one number, whose bits are then mixed (MurmurHash3's last step)."""
    first, second, third = letters[:-2], letters[1:-1], letters[2:]
    value: Signatures = first * _U32(0x9E3779B1) + second * _U32(0x85EBCA77) + third * _U32(0xC2B2AE3D)
    value ^= value >> _U32(16)
    value *= _U32(0x85EBCA6B)
    value ^= value >> _U32(13)
    value *= _U32(0xC2B2AE35)
    value ^= value >> _U32(16)
    return value


def _groups(signatures: Signatures) -> Iterator[list[int]]:
    """Indices, in order, of texts that agree in a whole band; band by band."""
    for start in range(0, NUM_HASHES, HASHES_A_BAND):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(start, start + HASHES_A_BAND):
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + signatures[:, column]
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        begins = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        sizes = np.diff(begins, append=len(order))
        for begin, size in zip(begins[sizes > 1], sizes[sizes > 1], strict=True):
            yield order[begin : begin + size].tolist()


def _may_be_alike(signatures: Signatures, index: int, other: int) -> bool:
    return int(np.count_nonzero(signatures[index] == signatures[other])) >= MIN_EQUAL_HASHES
