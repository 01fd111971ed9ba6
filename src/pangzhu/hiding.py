"""Secrets stay out of every report: access tokens by name, and what stands before the @ of an address."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
ADDRESSES = ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT")
HIDDEN = "***"
LEAST_LETTERS = 4  # a shorter secret would take ordinary letters out of the report; no token is as short
CREDENTIALS = re.compile(
    r"(?<=://)\S*@|(?<![^\s\"'(=])[^/\s@:]+:(?!//)[^\s@]*@"
)  # with a scheme before them, or without
QUERY = re.compile(r"(?<=\?)[^\s#]+")


def known_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Tokens and passwords that the environment holds, the longest first, so that none hides only part of another."""
    found = {environ.get(name, "").strip() for name in TOKENS}
    for address in (*getproxies().values(), *(environ.get(name, "") for name in ADDRESSES)):
        found |= _passwords(address)
    return tuple(sorted((secret for secret in found if len(secret) >= LEAST_LETTERS), key=len, reverse=True))


def hide(text: str, secrets: Sequence[str]) -> str:
    """A text without the secrets and without the credentials of any address in it."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return CREDENTIALS.sub(f"{HIDDEN}@", text)


def hide_all(value: object, secrets: Sequence[str]) -> object:
    """A plain value, however deep, without secrets."""
    if isinstance(value, str):
        return hide(value, secrets)
    if isinstance(value, Mapping):
        return {str(name): hide_all(inner, secrets) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide_all(inner, secrets) for inner in value]
    return value


def public_address(address: str) -> str:
    """An address without credentials and without what follows a question mark."""
    return QUERY.sub(HIDDEN, CREDENTIALS.sub(f"{HIDDEN}@", address))


def _passwords(address: str) -> set[str]:
    """The password of an address, as it is written and as it is meant."""
    try:
        password = urlsplit(address if "://" in address else f"//{address}").password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
