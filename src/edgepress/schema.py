"""JSON files that somebody else wrote, read within bounds and checked against a schema before they are used.

A file is read whole, so it has a largest size; a value may have so many parts and so many levels. Numbers that are not
finite, lone surrogates and keys that occur twice are errors: Python's own reader lets them through, and they come up
again far from here. A schema is a dataclass or a ``msgspec.Struct`` whose fields say types and ranges; msgspec checks
values against it (a wheel of 0.2 MB, 8 ms to import; pydantic's take 2.5 MB and ten times as long).
"""

import codecs
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast

import msgspec

from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import InputError
from edgepress.text.documents import decode

LARGEST = 64 << 20  # bytes of a file of JSON
DEEPEST = 64  # levels
MOST_PARTS = 4_000_000  # values: half a gigabyte in Python's objects
INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it
_MOST_DIGITS = 100  # of an integer; "no limit" is written as 10³⁰ in configs
_LONGEST = 200  # characters of a reason in a message
_POINTER = 200  # bytes that show whether a file is a git-lfs pointer
_MISSING = "Object missing required field "  # how msgspec's message begins
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HALF_CHARACTER = re.compile(r"\\u[dD][89abABcdefCDEF]")

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # bytes, or an offset in a file
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

Kind = TypeVar("Kind")


def read_bytes(path: Path, remedy: str, *, largest: int = LARGEST) -> bytes:
    """The content of a plain file of at most ``largest`` bytes.

    Raises:
        InputError: it is larger, no file (a directory, a pipe, a device), or cannot be read.

    """
    try:
        # A pipe that nobody writes to would be waited for when it is opened.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no file; {remedy}")
            data = file.read(min(status.st_size, largest) + 1)  # as much as is asked for is allocated at once
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    if len(data) > largest:
        raise InputError(f"{path} has {status.st_size:,} bytes, at most {largest:,} are read; {remedy}")
    return data


def read_object(path: Path, remedy: str) -> dict[str, object]:
    """The JSON object in a file; see :func:`parse_json`."""
    return parse_object(read_bytes(path, remedy), path, remedy)


def read_config_object(path: Path, remedy: str) -> dict[str, object]:
    """The JSON object in a config of transformers, in which ``Infinity`` may stand: :data:`INFINITY` in its place."""
    value = parse_json(read_bytes(path, remedy), path, remedy, infinity=True)
    return _object(value, path, remedy)


def with_infinity(value: object) -> Any:
    """The same JSON with Python's infinity in the place of :data:`INFINITY`."""
    if value == INFINITY:
        return math.inf
    if isinstance(value, dict):
        return {key: with_infinity(item) for key, item in value.items()}
    return [with_infinity(item) for item in value] if isinstance(value, list) else value


def read_as(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """The JSON object in a file as ``kind``, which says what it must be like."""
    return convert(read_object(path, remedy), kind, path, remedy)


def parse_object(data: bytes, where: str | Path, remedy: str) -> dict[str, object]:
    """The JSON object that a text is; see :func:`parse_json`."""
    return _object(parse_json(data, where, remedy), where, remedy)


def _object(value: object, where: str | Path, remedy: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InputError(f"{where} cannot be read: it holds a JSON {type(value).__name__}, not an object; {remedy}")
    return cast("dict[str, object]", value)


def parse_json(data: bytes, where: str | Path, remedy: str, *, infinity: bool = False) -> object:
    """The value of a JSON text in UTF-8, a byte order mark before it left out.

    With ``infinity`` the word ``Infinity``, which Python writes, becomes :data:`INFINITY`.

    Raises:
        InputError: it is no JSON, has too many parts or levels, a number that is not finite or has too many digits,
            a lone surrogate, or a key that occurs twice in an object.

    """
    refuse_pointer(where, data[:_POINTER])
    parts = data.count(b",") + data.count(b"[") + data.count(b"{")
    if parts > MOST_PARTS:
        raise InputError(f"{where} holds {parts:,} values, at most {MOST_PARTS:,} are read; {remedy}")
    try:
        text = decode(data, where) if data.startswith(_UTF_16) else data.decode("utf-8-sig")
        value: object = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_or_infinity if infinity else _not_finite,
            parse_float=_finite,
            parse_int=_short,
        )
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds a lone surrogate ({error.object[error.start]!r}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise InputError(f"{where} cannot be read: it is not JSON ({reason[:_LONGEST]}); {remedy}") from error
    if is_deep(value):
        raise InputError(f"{where} is nested more than {DEEPEST} levels deep; {remedy}")
    return value


def convert(value: object, kind: type[Kind], where: str | Path, remedy: str) -> Kind:
    """``value``, as JSON gives it, as ``kind``.

    Raises:
        InputError: it is not as ``kind`` says; the entry is named, and what it should be.

    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        entry = place.removesuffix("`").lstrip(".")
        if what.startswith(_MISSING):
            name = f"{entry}.{what[len(_MISSING) :].strip('`')}".lstrip(".")
            raise InputError(f"{where} has no entry {name!r}; {remedy}") from error
        raise InputError(f"{where}: {f'{entry}: ' if entry else ''}{what[:_LONGEST]}; {remedy}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:_LONGEST]!r} occurs twice")
    return found


def _or_infinity(name: str) -> object:
    return dict(INFINITY) if name == "Infinity" else _not_finite(name)


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_LONGEST]} is too large a number")
    return number


def _short(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def is_deep(value: object) -> bool:
    """Whether lists and objects stand inside each other more than ``DEEPEST`` levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for box in level
            for item in (box.values() if isinstance(box, dict) else box if isinstance(box, list) else ())
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
