"""Personal data is found by its form and its check digits, and never shown whole."""

import pytest

from pangzhu.data.personal import BANK_CARD, EMAIL, IDENTITY, PHONE, find_personal


def keys(text: str) -> list[str]:
    return [piece.key for piece in find_personal(text)]


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        ("call 13800138000 today", PHONE, "138******00"),
        ("电话13800138000。", PHONE, "138******00"),
        ("+86 138-0013-8000", PHONE, "+86 ***-****-**00"),
        ("电话１３８００１３８０００", PHONE, "138******00"),
        ("办公室 010-62345678", PHONE, "010-******78"),
        ("ring +44 20 7946 0958", PHONE, "+44 ** **** **58"),
        ("身份证11010519491231002X", IDENTITY, "110*************2X"),
        ("id 110101199003070177", IDENTITY, "110*************77"),
        ("卡号 6222020200112230004", BANK_CARD, "622**************04"),
        ("card 4111 1111 1111 1111", BANK_CARD, "411* **** **** **11"),
        ("write to zhang.san@qq.com", EMAIL, "z***@qq.com"),
        ("邮箱：li_si@mail.tsinghua.edu.cn。", EMAIL, "l***@mail.tsinghua.edu.cn"),
    ],
)
def test_personal_data_is_found_and_masked(text: str, key: str, shown: str) -> None:
    [piece] = find_personal(text)
    assert (piece.key, piece.shown) == (key, shown)


@pytest.mark.parametrize(
    "text",
    [
        "11010519491231002 is one digit short",
        "110105194912310021 has a wrong check digit",
        "110105194913310029 has no such month",
        "4111 1111 1111 1112 fails Luhn",
        "9111111111111111 belongs to no issuer",
        "order A13800138000B",
        "12800138000 is no mobile number",
        "3.13800138000",
        "name@example.com, a@example.org, b@shop.example, c@x.test",
        "git clone git@github.com:owner/name.git",
        "@everyone, see @user and a@b",
        "2021-01-01 12:30:00",
        "圆周率 3.14159265358979",
        "第一千二百六十条",
    ],
)
def test_other_numbers_and_signs_are_left_alone(text: str) -> None:
    assert keys(text) == []


def test_a_text_with_everything_gives_each_kind_once() -> None:
    text = "13800138000 13900139000 a@qq.com 11010519491231002X 6222020200112230004"
    assert sorted(keys(text)) == sorted([PHONE, EMAIL, IDENTITY, BANK_CARD])


def test_a_long_text_of_digits_and_signs_is_searched_in_little_time() -> None:
    assert keys("1 " * 50_000 + "@" * 50_000 + "a" * 50_000 + "-" * 1000) == []
