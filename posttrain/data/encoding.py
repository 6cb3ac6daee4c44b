"""What to do about bytes that are not UTF-8: which encoding they probably have, and the command that converts them."""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from pathlib import Path

from posttrain.data.opening import opened
from posttrain.errors import Problem

_SAMPLE = 1 << 20
_HIGH = re.compile(rb"[\x80-\xff]+")


def sixteen_bits(head: bytes) -> str | None:
    """The name of the 16-bit encoding that a file's first bytes show, by its mark or by its zeros; None for others."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(head) < 8 or even + odd < len(head) / 4:
        return None
    return "UTF-16LE" if odd > even else "UTF-16BE"


def likely(data: bytes) -> str | None:
    """The encoding, by its name in iconv, that bytes beyond ASCII probably have; None where it cannot be told.

    Chinese in GB18030 stands in pairs of high bytes, the first of which is mostly that of the 3,755 common characters
    or of punctuation. Western accents stand alone or in twos between plain letters.
    """
    runs: list[bytes] = _HIGH.findall(data)
    high = sum(map(len, runs))
    if not high:
        return None
    pairs = [(run[place], run[place + 1]) for run in runs for place in range(0, len(run) - 1, 2)]
    common = sum((0xA1 <= first <= 0xA9 or 0xB0 <= first <= 0xD7) and second >= 0xA1 for first, second in pairs)
    if 2 * common >= 0.7 * high and _decodes(data, "gb18030"):
        return "GB18030"
    if sum(len(run) <= 2 for run in runs) < len(runs) / 2:
        return None
    if any(0x80 <= byte <= 0x9F for run in runs for byte in run):
        return "CP1252" if _decodes(data, "cp1252") else None
    return "LATIN1"


def wrong_encoding(file: Path, encoding: str) -> Problem:
    """The problem of a file that is in `encoding` as a whole."""
    return Problem(place=str(file), what=f"the file is {encoding}, expected UTF-8", fix=converting(file, encoding))


def not_utf8(file: Path, line: int, data: bytes, reason: UnicodeDecodeError) -> Problem:
    """The problem of a line that is not UTF-8."""
    what = f"byte 0x{data[reason.start]:02x} in column {reason.start + 1} is not UTF-8"
    return Problem(place=f"{file}:{line}", what=what, fix=_fix(file, data))


def converting(file: Path, encoding: str) -> str:
    """The command that writes `file` anew as UTF-8, beside it."""
    name = shlex.quote(str(file))
    new = file.with_name(f"new.{file.name.removesuffix('.gz')}")
    source = f"gzip -dc {name} | iconv -f {encoding} -t UTF-8" if file.suffix == ".gz" else _iconv(encoding, name)
    return f"{source} > {shlex.quote(str(new))}"


def _iconv(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {name}"


def _fix(file: Path, line: bytes) -> str:
    mostly_utf8, encoding = _beginning(str(file), file.stat().st_mtime_ns)
    if mostly_utf8:
        return "write this line again as UTF-8, as most lines are, or delete it"
    encoding = encoding or likely(line)
    if encoding is None:
        return f"find out its encoding, then: {converting(file, 'ENCODING')}"
    return f"it is probably {encoding}: {converting(file, encoding)}"


@lru_cache(maxsize=1)
def _beginning(file: str, changed: int) -> tuple[bool, str | None]:
    """Whether most lines beyond ASCII in the first mebibyte are UTF-8, and which encoding they probably have.

    `changed` tells versions of the file apart.
    """
    with opened(Path(file)) as handle:
        data = handle.read(_SAMPLE)
    lines = [line for line in data[: data.rfind(b"\n") + 1].splitlines() if not line.isascii()]
    return sum(_decodes(line, "utf-8") for line in lines) > len(lines) / 2, likely(b"".join(lines))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
