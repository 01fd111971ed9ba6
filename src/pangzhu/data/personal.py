"""Personal data in a text, found by its form: identity numbers, bank cards, phone numbers, e-mail addresses.

A Chinese identity number is known by its date and its check digit (GB 11643-1999, that is ISO 7064 MOD 11-2), a bank
card by its issuer's first digits and Luhn's check digit (ISO/IEC 7812-1), so that other long numbers are left alone.
E-mail addresses of domains reserved for examples (RFC 2606) are nobody's, nor is `git@host`. Names and addresses have no
form and are not found. What is shown is masked.

Try it: `find_personal("call 13800138000")`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

IDENTITY = "warning.identity_number"
BANK_CARD = "warning.bank_card"
PHONE = "warning.phone_number"
EMAIL = "warning.email_address"

_ALONE, _END = r"(?<![0-9A-Za-z.])", r"(?![0-9A-Za-z])"
_HINT = re.compile(r"\d(?:[ ()-]{0,2}\d){6}|@")  # without one of these there is nothing to look for
_IDENTITY = re.compile(rf"{_ALONE}[1-8]\d{{5}}(?:19|20)\d{{9}}[\dXx]{_END}")
_CARD = re.compile(rf"{_ALONE}\d{{4}}(?:[ -]?\d{{4}}){{2,3}}(?:[ -]?\d{{1,3}})?{_END}")
_ISSUED = re.compile(r"62\d{14,17}|4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}")
_PHONE = re.compile(
    rf"{_ALONE}(?:(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{{4}}[ -]?\d{{4}}"  # mobile, China
    rf"|\(?0\d{{2,3}}[)-][ ]?[2-9]\d{{6,7}}"  # landline with its area code, China
    rf"|\+[1-9]\d{{0,2}}(?:[ .-]?\(?\d{{2,4}}\)?){{2,5}}){_END}"  # international
)
_EMAIL = re.compile(r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z._%+-]{1,64}@((?:[0-9A-Za-z-]{1,63}\.){1,8}[A-Za-z]{2,24})")
_RESERVED = re.compile(r"(?:.*\.)?example(?:\.(?:com|net|org))?|.*\.(?:test|invalid|localhost)", re.IGNORECASE)

_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS = "10X98765432"


@dataclass(frozen=True, slots=True)
class Personal:
    """One piece of personal data: the key of its warning, and what of it may be shown."""

    key: str
    shown: str


def find_personal(text: str) -> Iterator[Personal]:
    """What of a text looks like personal data, the first of each kind."""
    if not _HINT.search(text):
        return
    rest = text if text.isascii() else unicodedata.normalize("NFKC", text)
    for key, pattern, holds, mask in _KINDS:
        found = [match for match in pattern.finditer(rest) if holds(match)]
        if found:
            yield Personal(key, mask(found[0][0]))
        for match in found:  # so that an identity number is not taken for a bank card too
            rest = rest[: match.start()] + " " * len(match[0]) + rest[match.end() :]


def _is_identity(match: re.Match[str]) -> bool:
    number = match[0].upper()
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_IDENTITY_WEIGHTS, number[:17], strict=True))
    return _IDENTITY_CHECKS[total % 11] == number[17]


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return _ISSUED.fullmatch(digits) is not None and _luhn(digits)


def _luhn(digits: str) -> bool:
    """Every second digit from the right doubled, the digits of the products added: a multiple of ten."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0


def _is_someones(match: re.Match[str]) -> bool:
    return _RESERVED.fullmatch(match[1]) is None and not match[0].startswith("git@")


def _always(_match: re.Match[str]) -> bool:
    return True


def _masked(number: str) -> str:
    """The first three and the last two characters of a number; the rest is covered."""
    return number[:3] + re.sub(r"[0-9A-Za-z]", "*", number[3:-2]) + number[-2:]


def _masked_address(address: str) -> str:
    """The first letter and the domain of an address."""
    return f"{address[0]}***{address[address.index('@') :]}"


_Kind = tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool], Callable[[str], str]]
_KINDS: tuple[_Kind, ...] = (
    (IDENTITY, _IDENTITY, _is_identity, _masked),
    (BANK_CARD, _CARD, _is_card, _masked),
    (PHONE, _PHONE, _always, _masked),
    (EMAIL, _EMAIL, _is_someones, _masked_address),
)
