"""The page at `/`: one file, and the policy under which a browser runs that file alone."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

INLINE = {
    "script": re.compile(r"<script>(.*?)</script>", re.DOTALL),
    "style": re.compile(r"<style>(.*?)</style>", re.DOTALL),
}


@cache
def page() -> str:
    """The file."""
    return (files("pangzhu.serve") / "web" / "index.html").read_text(encoding="utf-8")


@cache
def policy() -> str:
    """Content-Security-Policy: only the scripts and styles that stand in the file, known by their hashes."""
    allowed = [f"{kind}-src {' '.join(map(_hash, inline.findall(page())))}" for kind, inline in INLINE.items()]
    rest = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    return "; ".join([rest, "frame-ancestors 'none'", *allowed])


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
