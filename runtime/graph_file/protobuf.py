"""Just enough of the protobuf wire format to edit an ONNX graph without the onnx package.

A message is a list of fields in the order of the file. A field that nobody edits keeps its bytes, so that an edit
touches what it names and nothing else. https://protobuf.dev/programming-guides/encoding

Field numbers are those of onnx.proto3.
"""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10  # 64 bits in groups of 7


@dataclass(frozen=True)
class Field:
    """One field: its number, its wire type, and an integer (VARINT) or the raw bytes (all others)."""

    number: int
    kind: int
    value: int | bytes


Message = list[Field]


def parse(data: bytes) -> Message:
    """Split a message into its fields.

    Raises:
        ValueError: the bytes are cut short or are not a message.

    """
    return [
        Field(number, kind, _read_varint(data, start)[0] if kind == VARINT else data[start:end])
        for number, kind, start, end in places(data)
    ]


def places(data: bytes | mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of the value of each field, in a message that need not be in memory.

    Raises:
        ValueError: the bytes are cut short or are not a message.

    """
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {position}")
        if kind == VARINT:
            end = _read_varint(data, position)[1]
        elif kind == BYTES:
            size, position = _read_varint(data, position)
            end = position + size
        elif kind in _FIXED_SIZE:
            end = position + _FIXED_SIZE[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if end > len(data):
            raise ValueError(f"field {number} ends at byte {end} of {len(data)}")
        yield number, kind, position, end
        position = end


def serialize(message: Iterable[Field]) -> bytes:
    """Join fields to the bytes of a message."""
    parts: list[bytes] = []
    for field in message:
        parts.append(_varint(field.number << 3 | field.kind))
        if isinstance(field.value, int):
            parts.append(_varint(field.value))
        else:
            if field.kind == BYTES:
                parts.append(_varint(len(field.value)))
            parts.append(field.value)
    return b"".join(parts)


def integer(number: int, value: int) -> Field:
    """An integer field; negative numbers as ONNX's int64 has them, two's complement in 64 bits."""
    return Field(number, VARINT, value & (2**64 - 1))


def text(number: int, value: str) -> Field:
    """A string field."""
    return Field(number, BYTES, value.encode())


def nested(number: int, message: Iterable[Field]) -> Field:
    """A message as a field of another."""
    return Field(number, BYTES, serialize(message))


def all_bytes(message: Message, number: int) -> Iterator[bytes]:
    """Every value of a repeated string, bytes or message field."""
    return (cast("bytes", field.value) for field in message if field.number == number and field.kind == BYTES)


def one_text(message: Message, number: int) -> str:
    """A string field; the last one wins, as protobuf says, and a missing one is empty."""
    found = ""
    for value in all_bytes(message, number):
        found = value.decode()
    return found


def integers(message: Message, number: int) -> list[int]:
    """A repeated int64 field, packed or not."""
    found: list[int] = []
    for field in message:
        if field.number != number:
            continue
        if isinstance(field.value, int):
            found.append(_signed(field.value))
            continue
        position = 0
        while position < len(field.value):
            value, position = _read_varint(field.value, position)
            found.append(_signed(value))
    return found


def without(message: Message, *numbers: int) -> Message:
    """The message without some fields."""
    return [field for field in message if field.number not in numbers]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(data: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (2**64 - 1), position + index + 1
    raise ValueError(f"the number at byte {position} has no end")
