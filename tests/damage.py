"""Ways in which a safetensors file comes to harm; none of them leaves one that can be read as it was."""

from collections.abc import Callable

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "four bytes": lambda content: content[:4],
    "eight bytes": lambda content: content[:8],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "a flipped length": lambda content: bytes([content[0] ^ 64]) + content[1:],
    "a huge header": lambda content: b"\xff" * 8 + content[8:],
    "no header": lambda content: content[:8] + b"x" * (len(content) - 8),
    "a header that is a list": lambda content: (2).to_bytes(8, "little") + b"[]",
}
