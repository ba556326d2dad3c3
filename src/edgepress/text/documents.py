"""Text, JSON and JSON lines as files have them: one reader for what is scored, calibrated on, prompted and configured.

Text is UTF-8. A byte order mark at the start of a file, of a line of JSON or of a text in it is no part of the text.
Line breaks are left as they are: what is scored is what the file holds. Anything else (UTF-16, a binary file, a
compressed one, bytes that are no UTF-8) is an error that names the file, the byte and the remedy.

JSON can escape a lone surrogate (``\\ud83d``, the first half of an emoji that was cut in two), which is no text in any
encoding. One such text among many is passed over, counted and said, see :class:`Skipped`.
"""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import InputError

_PIECE = 1 << 20  # bytes read at a time
LARGEST_TEXT = 512 << 20  # bytes of one document
LARGEST_LINE = 64 << 20  # bytes of a line of JSON
LARGEST_JSON = 256 << 20  # bytes: a JSON list can only be read whole

_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_CONVERT = "convert it, as `iconv -f {0} -t UTF-8` does"
_UNPACK = "unpack it first"
_OTHER_KINDS = (  # longer marks first: UTF-32's begins with UTF-16's
    *((mark, "UTF-32", _CONVERT.format("UTF-32")) for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    *((mark, "UTF-16", _CONVERT.format("UTF-16")) for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"PK\x03\x04", "a zip file", _UNPACK),
    (b"PAR1", "a Parquet file", "write its texts as .jsonl"),
    (b"%PDF-", "a PDF file", "extract its text first"),
)


@dataclass
class Skipped:
    """Texts that were passed over because a lone surrogate is in them: how many, and where the first was."""

    count: int = 0
    first: str = ""

    def add(self, where: str) -> None:
        """Count one."""
        self.count += 1
        self.first = self.first or where

    def warning(self) -> str | None:
        """One line for the user, None when there was none."""
        if not self.count:
            return None
        texts = "one text holds" if self.count == 1 else f"{self.count:,} texts hold"
        return (
            f"{texts} a lone surrogate, such as \\ud83d, which no encoding can write: passed over; the first is "
            f"{self.first}"
        )


def decode(raw: bytes, where: str | Path, *, start: int = 0, final: bool = True) -> str:
    """The text of ``raw``, which is at byte ``start`` of ``where``; the mark at the start of a file is left out.

    With ``final`` false the last character may be cut short, and is left out then.

    Raises:
        InputError: it is not UTF-8, or no text at all.

    """
    try:
        if not start:
            refuse_pointer(where, raw)
        text, _ = codecs.utf_8_decode(raw, "strict", final)
    except UnicodeDecodeError as error:
        raise _refusal(raw, where, start, error.start) from error
    if "\0" in text:
        raise _refusal(raw, where, start, raw.index(0))
    return text if start else text.removeprefix(_MARK)


def _refusal(raw: bytes, where: str | Path, start: int, at: int) -> InputError:
    """What ``raw`` is instead of UTF-8 text, of which ``raw[at]`` is the first byte that shows it."""
    for magic, name, remedy in () if start else _OTHER_KINDS:
        if raw.startswith(magic):
            return InputError(f"{where} is {name}, not text in UTF-8; {remedy}")
    byte = f"byte {start + at} is {raw[at]:#04x}"
    if b"\0" in raw:
        return InputError(f"{where} is not text: {byte}, as in a binary file or in UTF-16; give text in UTF-8")
    return InputError(f"{where} is not UTF-8: {byte}; convert it, as `iconv -f WINDOWS-1252 -t UTF-8` does")


def check_unicode(text: str, what: str) -> str:
    """Return ``text``; InputError when a lone surrogate, or a byte that was no UTF-8, is in it.

    ``what`` names it in the message. A command line and file names may hold such bytes (PEP 383).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        with suppress(UnicodeError):
            os.fsencode(text).decode()
            raise InputError(f"{what} has characters that this locale cannot read; set PYTHONUTF8=1") from error
        code = ord(text[error.start])
        kind = f"the byte {code - 0xDC00:#04x}, which is no UTF-8" if 0xDC80 <= code <= 0xDCFF else "a lone surrogate"
        raise InputError(f"{what} has {kind}, at character {error.start}; give it in UTF-8") from error
    return text


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read, has more than 512 MiB, or is no UTF-8.

    """
    try:
        raw = bytearray()
        with path.open("rb") as file:  # a pipe has no size, and as much as is asked for is allocated at once
            while len(raw) <= LARGEST_TEXT and (piece := file.read(_PIECE)):
                raw += piece
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > LARGEST_TEXT:
        raise InputError(f"{path} has more than {LARGEST_TEXT:,} bytes, and a text is read whole; give a part of it")
    return decode(bytes(raw), path)


def read_standard_input() -> str:
    """The text on standard input, with ``\\n`` for every kind of line break, as when it is typed.

    Raises:
        InputError: there is no standard input, or it is no UTF-8.

    """
    if sys.stdin is None:
        raise InputError("standard input is closed; give the text as an argument, or pipe it in")
    raw = sys.stdin.buffer.read()
    return decode(raw, "standard input").replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, where: str | Path) -> object:
    """The value of a JSON text.

    Raises:
        InputError: it is no JSON, or nested too deeply to be read.

    """
    try:
        return json.loads(text.removeprefix(_MARK))
    except RecursionError as error:
        raise InputError(f"{where} is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error


def line_text(line: str, where: str, skipped: Skipped) -> str | None:
    """The ``text`` of one line of JSON lines; None, counted in ``skipped``, when a lone surrogate is in it.

    Raises:
        InputError: the line has no text. It names ``where``.

    """
    entry = parse_json(line, where)
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text:
        raise InputError(f'{where} has no text; each line must look like {{"text": "…"}}')
    return _whole(text, where, skipped)


def _whole(text: str, where: str, skipped: Skipped) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        skipped.add(where)
        return None
    return text.removeprefix(_MARK)


def documents_of(path: Path, skipped: Skipped) -> list[str]:
    """The documents of a file: the texts of a ``.jsonl`` or ``.json`` file, or any other as one, line breaks kept.

    Raises:
        InputError: the file is missing, empty, not UTF-8, or a line or an entry has no text (it is named).

    """
    if is_list(path):
        documents = read_json_list(path, skipped)
    elif is_lines(path):
        documents = list(read_json_lines(path, skipped))
    else:
        text = read_text(path)
        documents = [text] if text.strip() else []
    if not documents:
        why = skipped.warning()
        raise InputError(f"{path} has no text that can be used: {why}" if why else _empty(path))
    return documents


def _empty(path: Path) -> str:
    return f"{path} is empty; give a file with text in it"


def is_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, by its name."""
    return path.suffix.lower() == ".jsonl"


def is_list(path: Path) -> bool:
    """Whether a file holds a JSON list of texts, by its name."""
    return path.suffix.lower() == ".json"


def read_json_lines(path: Path, skipped: Skipped) -> Iterator[str]:
    """The texts of a file with an object with ``text`` on each line, one line in memory; blank lines are passed over.

    Raises:
        InputError: the file cannot be read, or a line is not such an object (the line is named).

    """
    at = 0
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(LARGEST_LINE + 1), b"")  # at \n only: U+2028 may stand in JSON as it is
            for number, line in enumerate(lines, start=1):
                if len(line) > LARGEST_LINE:
                    raise InputError(f"{path}, line {number} has more than {LARGEST_LINE:,} bytes; cut its text")
                where = f"{path}, line {number}"
                text = decode(line, path, start=at)
                at += len(line)
                if text.strip().strip(_MARK) and (found := line_text(text, where, skipped)):
                    yield found
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json_list(path: Path, skipped: Skipped) -> list[str]:
    """The texts of a file with a JSON list of them, or of objects with ``text``; it is read whole.

    Raises:
        InputError: the file cannot be read or has more than 256 MiB, or is no such list (the entry is named).

    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if size > LARGEST_JSON:
        raise InputError(f"{path} has {size:,} bytes and a JSON list is read whole; write it as .jsonl, a text a line")
    text = read_text(path)
    if not text.strip():
        raise InputError(_empty(path))
    content = parse_json(text, path)
    if not isinstance(content, list) or not content:
        raise InputError(f'{path} must hold a list of texts, or of objects like {{"text": "…"}}')
    return list(_entries(path, content, skipped))


def _entries(path: Path, content: Iterable[object], skipped: Skipped) -> Iterator[str]:
    for number, entry in enumerate(content):
        text = entry.get("text") if isinstance(entry, dict) else entry
        if not isinstance(text, str) or not text:
            raise InputError(
                f'{path}, entry {number} has no text; each must be a text or an object like {{"text": "…"}}'
            )
        if found := _whole(text, f"{path}, entry {number}", skipped):
            yield found
