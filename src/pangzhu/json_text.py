"""JSON that every reader takes: NaN and infinity, which JSON has not, become null, paths text."""

import json
import math
from collections.abc import Mapping
from pathlib import Path


def to_json(content: Mapping[str, object], *, indent: int | None = None, ascii_only: bool = False) -> str:
    """A mapping as one JSON object.

    Args:
        content: plain values, lists and mappings of them.
        indent: spaces a level; None for one line.
        ascii_only: spell other characters out, for a stream that cannot write them.
    """
    return json.dumps(_plain(content), ensure_ascii=ascii_only, allow_nan=False, indent=indent)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
