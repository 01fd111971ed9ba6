"""Bytes to text: which encoding a file is in, and no guess where guessing could spoil a text.

Read are UTF-8 with and without a byte order mark, UTF-16 and UTF-32 with one, and GB18030 (GBK, GB2312). Everything
is decoded strictly: a byte that does not fit stops the reading with its offset and line, so that U+FFFD never comes
from here. A file of UTF-8 and GB18030 lines mixed would decode as GB18030 without complaint, into nonsense; it is
recognised by its UTF-8 runs and refused with the command that converts it.

Try it: `decode("中文".encode("gb18030"), Path("a.csv"))` gives `("中文", "GB18030")`.
"""

import codecs
import os
import re
import shlex
import subprocess
from pathlib import Path

from pangzhu.errors import DataError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with BOM"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32 LE"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32 BE"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16 LE"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16 BE"),
)

_FOREIGN_RUN = re.compile(rb"[\x80-\xff]+")
_SHORTEST_RUN = 6  # bytes: two three-byte characters; less is no evidence

# No quotation mark inside, so that cmd, PowerShell and sh all pass it on unchanged.
_CONVERT = (
    "import sys, pathlib as p; p.Path(sys.argv[3]).write_bytes(p.Path(sys.argv[2]).read_bytes()"
    ".decode(sys.argv[1]).encode())"
)
_CONVERT_LINES = (
    "import sys, pathlib as p; p.Path(sys.argv[4]).write_bytes(bytes().join("
    "a if a.decode(errors=sys.argv[1]).encode() == a else a.decode(sys.argv[2]).encode() "
    "for a in p.Path(sys.argv[3]).read_bytes().splitlines(True)))"
)


def decode(raw: bytes, path: Path) -> tuple[str, str]:
    """The text of a file and the name of its encoding.

    Raises:
        DataError: the bytes are no text, or no single encoding fits them; names the offset, the line and a command.
    """
    refuse_binary(raw, path)
    for mark, codec, name in MARKS:
        if raw.startswith(mark):
            return _decode_marked(raw, path, mark=mark, codec=codec), name
    _refuse_nul(raw, path)
    return _decode_unmarked(raw, path)


def refuse_binary(raw: bytes, path: Path) -> None:
    """Refuse the known formats that are no text, each with its own remedy.

    Raises:
        DataError: a spreadsheet, an archive, a Parquet file or another known binary.
    """
    where = str(path)
    if raw.startswith(b"\xd0\xcf\x11\xe0") or (raw.startswith(b"PK\x03\x04") and b"xl/" in raw):
        raise DataError("error.data.spreadsheet", where=where)
    if raw.startswith((b"PAR1", b"ARROW1", b"Obj\x01")):
        raise DataError("error.data.columnar", where=where)
    if raw.startswith(
        (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
    ):
        raise DataError("error.data.archive", where=where)
    if raw.startswith((b"%PDF-", b"SQLite format 3\x00", b"\x89PNG", b"GGUF")):
        raise DataError("error.data.binary", where=where)


def _refuse_nul(raw: bytes, path: Path) -> None:
    if b"\x00" not in raw:
        return
    codec = "utf-16-be" if raw[0] == 0 else "utf-16-le"
    if raw[:2].count(0) == 1 and _decodes(raw, codec):
        command = _command(_CONVERT, codec, path)
        raise DataError("error.data.utf16_without_bom", where=str(path), encoding=codec.upper(), command=command)
    raise DataError("error.data.binary", where=str(path))


def _decode_marked(raw: bytes, path: Path, *, mark: bytes, codec: str) -> str:
    try:
        return raw[len(mark) :].decode(codec)
    except UnicodeDecodeError as misfit:
        raise _undecodable(raw, path, offset=len(mark) + misfit.start, codec=codec) from misfit


def _decode_unmarked(raw: bytes, path: Path) -> tuple[str, str]:
    try:
        return raw.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as misfit:
        _refuse_cut(raw, path, misfit=misfit)
        if _is_partly_utf8(raw):
            raise _mixed(raw, path, offset=misfit.start) from misfit
        return _decode_gb18030(raw, path, offset=misfit.start), "GB18030"


def _decode_gb18030(raw: bytes, path: Path, *, offset: int) -> str:
    try:
        decoded = raw.decode("gb18030")
    except UnicodeDecodeError as misfit:
        raise _undecodable(raw, path, offset=misfit.start, codec="gb18030") from misfit
    if not _looks_chinese(decoded) or _reads_better_as_big5(raw, decoded):
        raise _undecodable(raw, path, offset=offset, codec="gb18030")
    return decoded


def _looks_chinese(decoded: str) -> bool:
    """Whether much of what is not ASCII is in everyday Chinese use.

    Western and Japanese text often decodes as GB18030 too, into characters hardly anyone writes.
    """
    return _common_share(_foreign(decoded)) >= 0.4


def _reads_better_as_big5(raw: bytes, decoded: str) -> bool:
    """Whether the bytes make everyday traditional Chinese in Big5, rather than everyday characters in GB18030."""
    if not _decodes(raw, "big5"):
        return False
    as_big5 = _foreign(raw.decode("big5"))
    everyday = sum(letter.encode("big5", errors="ignore")[:1] <= b"\xc6" for letter in as_big5)
    return everyday / max(len(as_big5), 1) > _common_share(_foreign(decoded))


def _foreign(decoded: str) -> str:
    return "".join(letter for letter in decoded if letter > "\x7f")


def _common_share(decoded: str) -> float:
    """The share of characters that are punctuation or first-level hanzi of GB2312: the 3755 most used."""
    return sum(map(_is_common, decoded)) / max(len(decoded), 1)


def _is_common(letter: str) -> bool:
    encoded = letter.encode("gb2312", errors="ignore")
    return len(encoded) == 2 and (encoded[0] in (0xA1, 0xA3) or 0xB0 <= encoded[0] <= 0xD7)


def _refuse_cut(raw: bytes, path: Path, *, misfit: UnicodeDecodeError) -> None:
    cut = misfit.end == len(raw) and misfit.reason == "unexpected end of data"
    if cut and not raw[: misfit.start].isascii():
        line = _line_at(raw, misfit.start, codec="utf-8")
        raise DataError("error.data.cut_in_character", where=f"{path}:{line}", line=line, offset=misfit.start)


def _mixed(raw: bytes, path: Path, *, offset: int) -> DataError:
    if not all(map(_is_of_one_encoding, raw.splitlines())):
        return _undecodable(raw, path, offset=offset, codec="utf-8")
    line = _line_at(raw, offset, codec="utf-8")
    command = _command(_CONVERT_LINES, "ignore", "gb18030", path)
    return DataError("error.data.mixed_encodings", where=f"{path}:{line}", line=line, offset=offset, command=command)


def _is_of_one_encoding(line: bytes) -> bool:
    if _decodes(line, "utf-8"):
        return True
    return _decodes(line, "gb18030") and not _is_partly_utf8(line)


def _is_partly_utf8(raw: bytes) -> bool:
    """Whether bytes that are not UTF-8 as a whole hold runs that hardly can be anything else."""
    runs: list[bytes] = _FOREIGN_RUN.findall(raw)
    as_utf8 = [run for run in runs if _decodes(run, "utf-8")]
    return len(as_utf8) * 2 > len(runs) or any(map(_reads_better_as_utf8, as_utf8))


def _reads_better_as_utf8(run: bytes) -> bool:
    """UTF-8 read as GB18030 gives rare characters (对话 becomes 瀵硅瘽); GB18030 read as UTF-8 is rarely even possible."""
    if len(run) < _SHORTEST_RUN:
        return False
    as_gb18030 = run.decode("gb18030", errors="replace")
    return _common_share(run.decode("utf-8")) > _common_share(as_gb18030)


def _decodes(raw: bytes, codec: str) -> bool:
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(raw: bytes, path: Path, *, offset: int, codec: str) -> DataError:
    line = _line_at(raw, offset, codec=codec)
    command = _command(_CONVERT, "ENCODING", path)
    shown = f"0x{raw[offset]:02X}"
    return DataError(
        "error.data.undecodable", where=f"{path}:{line}", line=line, offset=offset, byte=shown, command=command
    )


def _line_at(raw: bytes, offset: int, *, codec: str) -> int:
    before = raw[:offset].decode(codec, errors="ignore")
    return 1 + before.count("\n") + before.count("\r") - before.count("\r\n")


def _command(program: str, *arguments: str | Path) -> str:
    """The command that converts the last argument's file, ready to paste into this system's shell."""
    source = Path(arguments[-1])
    target = source.with_name(f"{source.stem}.utf8{source.suffix}")
    words = ["python", "-c", program, *map(str, arguments), str(target)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
