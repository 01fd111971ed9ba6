"""Texts that are nearly the same are found, and those that only look so are not."""

import random
import string

import pytest

from pangzhu.data.similarity import MIN_ALIKE, alike, fold, pair_up, resemblance

SENTENCE = "the quick brown fox jumps over the lazy dog while the farmer counts his sheep at dusk"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What is LoRA?", "what is lora"),
        ("ＬｏＲＡ是什么？", "LoRA 是什么"),
        ("a\tb\n c", "A B C"),
        ("“离婚冷静期”多少天？", "离婚冷静期多少天"),
        ("sum up: done…", "Sum up -- done"),
    ],
)
def test_texts_that_differ_in_case_width_space_and_punctuation_fold_to_the_same(left: str, right: str) -> None:
    assert fold(left) == fold(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("C#", "C"),
        ("3.5 times", "35 times"),
        ("2-3", "23"),
        ("2+3", "23"),
        ("5%", "5"),
        ("👍", "👎"),
        ("กี่", "ก"),
        ("?", "!"),
    ],
)
def test_what_is_part_of_the_meaning_survives_folding(left: str, right: str) -> None:
    assert fold(left) != fold(right)


def test_a_text_of_punctuation_alone_folds_to_itself() -> None:
    assert fold("???") == "???"


def test_resemblance_is_the_share_of_common_shingles() -> None:
    assert resemblance("abcd", "abcd") == 1
    assert resemblance("abcd", "bcde") == pytest.approx(1 / 3)
    assert resemblance("ab", "cd") == 0


def test_a_changed_word_in_a_long_text_leaves_it_alike() -> None:
    assert alike(fold(SENTENCE), fold(SENTENCE.replace("lazy", "hazy")))
    assert not alike(fold(SENTENCE), fold(SENTENCE[::-1]))


@pytest.mark.parametrize(("one", "other"), [("82", "83"), ("第八十二条", "第八十三条"), ("3.5", "3.6")])
def test_texts_that_name_other_numbers_are_not_alike(one: str, other: str) -> None:
    text = "依据劳动合同法{}的规定，用人单位应当向劳动者每月支付二倍的工资，直到补签书面劳动合同为止，员工可以申请仲裁"
    assert resemblance(fold(text.format(one)), fold(text.format(other))) >= MIN_ALIKE
    assert not alike(fold(text.format(one)), fold(text.format(other)))


def random_texts(count: int) -> list[str]:
    draw = random.Random(5)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 9))) for _ in range(400)]
    return [" ".join(draw.choices(words, k=25)) for _ in range(count)]


def test_among_many_texts_the_few_copies_with_a_slip_are_paired_with_their_originals() -> None:
    texts = random_texts(3000)
    copies = {3000 + number: 7 * number for number in range(50)}
    texts += [texts[original][:70] + "x" + texts[original][71:] for original in copies.values()]
    assert pair_up(texts, lambda later, earlier: alike(texts[later], texts[earlier])) == copies


def test_of_many_copies_of_one_text_each_is_paired_with_the_first() -> None:
    assert pair_up([SENTENCE] * 200, lambda later, earlier: True) == dict.fromkeys(range(1, 200), 0)


def test_with_references_only_later_texts_are_paired_and_only_with_them() -> None:
    texts = [SENTENCE, SENTENCE + "a", SENTENCE + "b", *random_texts(5)]
    found = pair_up(texts, lambda later, earlier: alike(texts[later], texts[earlier]), num_references=2)
    assert set(found) == {2}
    assert found[2] in (0, 1)


@pytest.mark.parametrize("texts", [[], ["a"], ["", ""], ["ab", "cd"], ["\ud800" * 4, "\ud800" * 4]])
def test_few_and_short_texts_are_no_matter(texts: list[str]) -> None:
    pairs = pair_up(texts, lambda later, earlier: texts[later] == texts[earlier])
    assert pairs == ({1: 0} if len(texts) == 2 and texts[0] == texts[1] else {})


def test_huge_texts_are_compared_too_and_keep_their_places_among_the_others() -> None:
    huge = SENTENCE * 5000
    texts = ["short text of its own", huge, SENTENCE, huge, "another short one", SENTENCE]
    assert pair_up(texts, lambda later, earlier: texts[later] == texts[earlier]) == {3: 1, 5: 2}
