"""Inputs made from valid ones, a little wrong: in their bytes, or in the structure that the bytes spell.

hypothesis draws what is changed and where, so that an input that breaks something is made smaller by itself.
"""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

MOST_CHANGES = 4
PIECES = (  # what readers are known to stumble over
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\r\n", b"\t", b" ", b"\0", b"\x7f", b"'"),
    *(
        b"\xff",
        b"\xfe",
        b"\xc3",
        b"\xe4\xbd",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xef\xbf\xbd",
        b"\xe2\x80\xa8",
    ),
    *(
        b"\xb2\xe2\xca\xd4",
        b"\xc2\x85",
        b"\xf0\x9f\x99\x82",
        b"\\u0000",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\ud83d\\ude42",
    ),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"0x1",
        b"1_000",
        b"null",
        b"true",
        b"9" * 400,
        b'""',
        b"{}",
        b"[]",
        b"[{}]",
    ),
    *(
        b'"instruction"',
        b'"output"',
        b'"messages"',
        b'"data"',
        b'"role"',
        b'"r"',
        b'"files"',
        b'{"instruction": "',
        b"../",
        b"C:\\\\",
    ),
    *(b"[" * 2000, b'{"a":' * 2000, b"<|im_end|>", b"\xef\xbc\x8c", b"%s", b"{0}", b"$(true)", b"//", b"/*", b"#"),
)
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 8, 2**31, 2**63, 10**30, 0.0, -0.0, 0.5, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "\ud800", "\ufffd", "\u2028", "\x00", "..", "../../x", "C:\\x", "LORA", "none", "q_proj", "(a+)+$"),
    *("user", "assistant", "system", "tool", "<|im_end|>", "x" * 3000, "2024-07-26", "f" * 64, "{}", "NaN"),
)

numbers = st.integers(0, 2**20)


def deep(value: Any, depth: int) -> Any:
    """A value inside so many lists."""
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four changes: cut, doubled, taken out, put in, a bit flipped, or spliced with another seed."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        place = draw(numbers) % (len(content) + 1)
        stop = min(len(content), place + draw(st.integers(0, 40)))
        match draw(st.integers(0, 6)):
            case 0:
                content = content[:place]
            case 1:
                content = content[:place] + content[stop:]
            case 2:
                content = content[:stop] + content[place:]
            case 3:
                content = content[:place] + draw(st.sampled_from(PIECES)) + content[place:]
            case 4:
                content = content[:place] + draw(st.sampled_from(PIECES)) + content[stop:]
            case 5 if place < len(content):
                content = (
                    content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
                )
            case _:
                other = draw(st.sampled_from(seeds))
                content = content[:place] + other[draw(numbers) % (len(other) + 1) :]
    return content


values = st.one_of(
    st.sampled_from(SCALARS),
    st.text(max_size=12),
    st.integers(),
    st.floats(),
    st.lists(st.sampled_from(SCALARS), max_size=3),
    st.dictionaries(
        st.sampled_from(("role", "content", "from", "value", "a", "r", "")), st.sampled_from(SCALARS), max_size=3
    ),
    st.builds(deep, st.sampled_from(SCALARS), st.sampled_from((1, 30, 400))),
)


@st.composite
def changed_values(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """A value parsed from a seed with up to four places replaced, taken out, renamed, doubled or put one deeper."""
    value = json.loads(json.dumps(draw(st.sampled_from(seeds))))
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        value = _changed(draw, value)
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 19)) == 0:
        return draw(values)
    if isinstance(value, list):
        place = draw(numbers) % len(value)
        match draw(st.integers(0, 3)):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value[: place + 1] + value[place:]
            case _:
                return [*value[:place], _changed(draw, value[place]), *value[place + 1 :]]
    name = sorted(value)[draw(numbers) % len(value)]
    rest = {key: inner for key, inner in value.items() if key != name}
    match draw(st.integers(0, 5)):
        case 0:
            return rest
        case 1:
            return rest | {
                draw(st.sampled_from(("", "extra", "ouput", "messages", "\ud800", "name", "R"))): value[name]
            }
        case 2:
            return value | {draw(st.text(max_size=6)): draw(values)}
        case _:
            return value | {name: _changed(draw, value[name])}


@st.composite
def spelled(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """A changed value as JSON, in one of the ways in which JSON is written, strict or not."""
    value = draw(changed_values(seeds))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from((None, 0, 2))))
    if draw(st.integers(0, 9)) == 0 and text.startswith("{") and len(text) > 2:
        first = text[1:].lstrip()
        text = "{" + first[: first.find(":")] + ": 1, " + first if ":" in first else text  # a key given twice
    return text.encode("utf-8", "surrogatepass")
