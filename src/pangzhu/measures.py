"""What an answer is worth beside the expected one: pure functions of two texts.

Right or not is one question (`normalized`, `named_choice`, `canonical_json`); how near a wrong answer comes is another
(`rouge_l`), and means nothing without the floor that any other answer of the same kind would reach (`rouge_floor`): texts
of law share a tenth to a fifth of their characters whatever they say. Whether the law's article is named rightly
(`cites_rightly`) and whether a program can read the answer (`keeps_format`) are asked apart.

Left to others: which rows are asked what (`pangzhu.compare`), how far a figure can be trusted (`pangzhu.intervals`).
"""

import json
import random
import re
import unicodedata
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, NoReturn

AnswerFormat = Literal["json", "tool_call"]

MEANT_SIGNS = "%‰"  # punctuation to Unicode, part of a figure to a reader
FLOOR_SEED = 20261125
DIGITS = {
    char: value
    for value, chars in enumerate(("零〇0", "一1", "二两2", "三3", "四4", "五5", "六6", "七7", "八8", "九9"))
    for char in chars
}
UNITS = {"十": 10, "百": 100, "千": 1000}
TEN_THOUSAND = "万"
NUMERAL = f"[{''.join((*DIGITS, *UNITS, TEN_THOUSAND))}]+"
ARTICLE = re.compile(rf"第\s*({NUMERAL})\s*条(?:\s*之\s*({NUMERAL}))?|\barticle\s+([0-9]+)", re.IGNORECASE)
TOOL_CALL = re.compile(r"<tool_call>(.*)</tool_call>", re.DOTALL)


def normalized(answer: str) -> str:
    """An answer without white space and punctuation, full-width forms folded; what separates or belongs to figures
    (`1.5`, `3-5`, `5%`) stays, as does an answer that is nothing but punctuation."""
    folded = unicodedata.normalize("NFKC", answer).strip()
    neighbours = zip(f" {folded}", folded, f"{folded[1:]} ", strict=False)
    return "".join(char for before, char, after in neighbours if not _set_aside(before, char, after)) or folded


def named_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice an answer opens with, set off from what follows (`B`, `B. 15 分钟`, `（B）`; not `A good answer`); else
    the only one that stands alone in it (`答案是B`; not the `A` of `Answer`); None where there are several, or none."""
    folded = unicodedata.normalize("NFKC", answer).strip()
    one_of = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    if opening := re.match(rf"[(\[]?({one_of})\s*(?:[.,:;)\]、。]|$)", folded, re.MULTILINE):
        return opening[1]
    alone = set(re.findall(rf"(?<![A-Za-z])(?:{one_of})(?![A-Za-z])", folded))
    return alone.pop() if len(alone) == 1 else None


def canonical_json(answer: str) -> str | None:
    """A text's value as JSON of one spelling, where it is an object or a list, else None. Text, because Python holds
    `true` and `1` for equal."""
    value = _parsed(answer)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else None


def keeps_format(answer: str, wanted: AnswerFormat) -> bool:
    """Whether a program can read an answer.

    Args:
        answer: as it was written; white space around it is no fault, words around it are.
        wanted: `json` is an object or a list; `tool_call` an object with `name`, a text, and `arguments`, an object, bare or
            between `<tool_call>` and `</tool_call>`.
    """
    if wanted == "json":
        return canonical_json(answer) is not None
    tagged = TOOL_CALL.fullmatch(answer.strip())
    call = _parsed(tagged[1] if tagged else answer)
    if not isinstance(call, dict):
        return False
    name = call.get("name")
    return isinstance(name, str) and bool(name.strip()) and isinstance(call.get("arguments"), dict)


def rouge_l(answer: str, expected: str) -> float:
    """F1 of the longest common subsequence of two texts, by character, from 0 to 1 (C.-Y. Lin, ROUGE: A Package for
    Automatic Evaluation of Summaries, 2004). Two empty texts are equal."""
    if not answer or not expected:
        return float(answer == expected)
    return 2 * _length_in_common(answer, expected) / (len(answer) + len(expected))


def rouge_floor(answers: Sequence[str], expected: Sequence[str], *, seed: int = FLOOR_SEED) -> float | None:
    """The mean ROUGE-L of answers against another row's expected answer, drawn at random: what knowing nothing of the
    question reaches. None where all rows expect the same.

    Args:
        answers: a model's.
        expected: of the same rows.
        seed: the same seed draws the same others, so that every model is held against the same ones.
    """
    others = _other_answers(expected, random.Random(seed))
    return fmean(map(rouge_l, answers, others)) if others else None


def cited_articles(answer: str) -> frozenset[str]:
    """The article numbers a text names, in digits: `第一千二百六十条`, `第1260条` and `Article 1260` are all `1260`,
    `第一百二十条之一` is `120-1`. The law they belong to is not asked."""
    cited = set()
    for number, inserted, english in ARTICLE.findall(unicodedata.normalize("NFKC", answer)):
        first = int(english) if english else _value(number)
        cited.add(f"{first}-{_value(inserted)}" if inserted else f"{first}")
    return frozenset(cited)


def cites_rightly(answer: str, expected: str) -> bool | None:
    """Whether an answer names the expected articles and no other; None where none is expected."""
    wanted = cited_articles(expected)
    return cited_articles(answer) == wanted if wanted else None


def _set_aside(before: str, char: str, after: str) -> bool:
    if before.isdigit() and after.isdigit() and char != ",":
        return char.isspace()
    return char.isspace() or (unicodedata.category(char)[0] == "P" and char not in MEANT_SIGNS)


def _parsed(answer: str) -> object:
    """A text's value as JSON; None where it is none. NaN and infinity, which Python would take, are none."""
    try:
        value: object = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _length_in_common(first: str, second: str) -> int:
    """Characters of the longest common subsequence, all columns of a row of the usual table at once: a bit is one where the
    row does not rise (H. Hyyrö, Bit-Parallel LCS-length Computation Revisited, 2004)."""
    places: dict[str, int] = {}
    for place, char in enumerate(first):
        places[char] = places.get(char, 0) | 1 << place
    every = (1 << len(first)) - 1
    level = every
    for char in second:
        matched = level & places.get(char, 0)
        level = (level + matched | level - matched) & every
    return len(first) - level.bit_count()


def _other_answers(expected: Sequence[str], draw: random.Random) -> list[str]:
    """For each row an expected answer other than its own; nothing where there is no other."""
    distinct = sorted(set(expected))
    if len(distinct) < 2:
        return []
    own = {answer: number for number, answer in enumerate(distinct)}
    drawn = [draw.randrange(len(distinct) - 1) for _ in expected]
    return [distinct[number + (number >= own[answer])] for answer, number in zip(expected, drawn, strict=True)]


def _value(numeral: str) -> int:
    """A numeral in Chinese characters or digits, or both: `一千零四`, `一〇〇四`, `1004`, `1千`."""
    whole = section = figure = 0
    for char in numeral:
        if char in DIGITS:
            figure = figure * 10 + DIGITS[char]
        elif char in UNITS:
            section += (figure or 1) * UNITS[char]
            figure = 0
        else:
            whole += (section + figure or 1) * 10_000
            section = figure = 0
    return whole + section + figure
