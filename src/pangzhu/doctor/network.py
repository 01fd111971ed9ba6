"""The way to the hubs: addresses, proxies, tokens, and whether anything answers; secrets are never told."""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from urllib.request import getproxies

from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, from_error, note, wrong
from pangzhu.errors import ModelError
from pangzhu.hiding import TOKENS, public_address
from pangzhu.messages import text
from pangzhu.sources import probe
from pangzhu.sources.hubs import hf_endpoint, is_offline
from pangzhu.sources.modelscope import modelscope_endpoint

ANSWERS = {True: "doctor.hub.answers", False: "doctor.hub.silent", None: "doctor.hub.not_asked"}


def examine(config: DoctorConfig) -> Examination:
    """Ask each hub once, for three seconds at the most, unless told to stay offline."""
    try:
        hf = hf_endpoint()
    except ModelError as not_an_address:
        return Examination(tuple(_settings()), (from_error(not_an_address),))
    asks = not (config.offline or is_offline())
    answers = {endpoint: probe.ask(endpoint) if asks else None for endpoint in (hf, modelscope_endpoint())}
    public = {public_address(endpoint): answer for endpoint, answer in answers.items()}
    shown = "\n".join(f"{endpoint}: {text(ANSWERS[answer])}" for endpoint, answer in public.items())
    facts = (Fact("doctor.hubs", public, shown), *_settings())
    return Examination(facts, (*_proxy_findings(getproxies()), *_token_findings(), *_silent_hubs(public)))


def _settings() -> Iterator[Fact]:
    """What the environment says of the network, without its secrets."""
    proxies = {name: public_address(address) for name, address in sorted(getproxies().items())}
    tokens = [name for name in TOKENS if os.environ.get(name)]
    yield Fact("doctor.proxies", proxies, ", ".join(f"{name}={proxies[name]}" for name in proxies) or "–")
    yield Fact("doctor.tokens", tokens, ", ".join(f"{name}=***" for name in tokens) or "–")
    yield Fact("doctor.offline", is_offline(), text("doctor.yes" if is_offline() else "doctor.no"))


def _proxy_findings(proxies: Mapping[str, str]) -> Iterator[Finding]:
    """A SOCKS proxy without the package for it breaks every request, even of addresses that have another proxy."""
    for name, address in proxies.items():
        if name != "no" and address.lower().startswith("socks") and find_spec("socksio") is None:
            yield wrong("finding.doctor.socks", where=f"{name}_proxy", address=public_address(address))


def _token_findings() -> Iterator[Finding]:
    for name in TOKENS:
        token = os.environ.get(name, "")
        if token and (token.strip("\"' \r\n\t") != token or len(token.split()) > 1):
            yield note("finding.doctor.odd_token", where=name, name=name)


def _silent_hubs(answers: Mapping[str, bool | None]) -> Iterator[Finding]:
    silent = [endpoint for endpoint, answer in answers.items() if answer is False]
    if silent and len(silent) == len(answers):
        yield note("finding.doctor.no_hub", tried=", ".join(silent))
        return
    for endpoint in silent:
        yield note("finding.doctor.silent_hub", where=endpoint, endpoint=endpoint)
