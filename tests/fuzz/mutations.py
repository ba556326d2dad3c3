"""What is done to a sound file to make it hostile: values that programs trip over, in JSON and TOML, and bytes.

Everything is drawn from the ``random.Random`` that is given, so a seed stands for an input.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

DEEP = 100_000  # brackets inside each other
MANY = 20_000  # keys, items
LONG = 1_000_000  # characters


@dataclass(frozen=True)
class Raw:
    """Text that stands in JSON as it is: what Python would not write."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """A JSON object whose keys may repeat."""

    pairs: tuple[tuple[str, object], ...]


def encode(value: object) -> str:
    """JSON text of a value that may hold :class:`Raw` and :class:`Pairs`; lone surrogates become escapes."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Mapping):
        value = Pairs(tuple(value.items()))
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {encode(item)}" for key, item in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(encode, value)) + "]"
    return json.dumps(value)


HOSTILE: tuple[object, ...] = (
    *(-1, 0, 1, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**9, 10**12, 10**400),
    *(Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("9" * 5000), 1e308, 1e-320, 0.5, -0.0),
    *("", " ", "\0", "a", "x" * LONG, "%1000000000d", "%d", "%d%d", "%s%s%s", "%(layer)d", "%", "{0.__class__}"),
    *("../../../../etc/passwd", "/etc/passwd", "C:\\x", "model.onnx", "..", ".", "a/b", "\ud800", "\udfff\ud800"),
    *("\U0001f600", "\u202e\u2066", "é" * 5000, "1e9", "true", "null", "NaN", "0x10", "١٢", "\n\n\n", "\x1b[2J"),
    *(None, True, False, [], {}, [[]], [None], {"": None}, [0] * MANY, ["a"] * MANY, {"a": {"b": {"c": []}}}),
    *(Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw("[" * DEEP)),
)

Path = tuple[str | int, ...]


def places(value: object, path: Path = ()) -> list[Path]:
    """Every place in a JSON value, the whole of it included."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def at(value: object, path: Path) -> object:
    """What stands at a place."""
    for key in path:
        value = value[key]  # type: ignore[index]
    return value


def changed(value: object, path: Path, change: Callable[[object], object]) -> object:
    """A copy with what stands at ``path`` changed."""
    if not path:
        return change(value)
    if isinstance(value, dict):
        return {key: changed(item, path[1:], change) if key == path[0] else item for key, item in value.items()}
    assert isinstance(value, list)
    return [changed(item, path[1:], change) if index == path[0] else item for index, item in enumerate(value)]


def mutate_json(value: object, random: Random) -> tuple[str, str]:
    """JSON text with one to three things wrong, and what they are."""
    said = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        named = [path for path in places(value) if path and not any(isinstance(key, int) for key in path[-1:])]
        path = random.choice(named or [()]) if random.random() < 0.9 else random.choice(places(value))
        name, change = random.choice(_CHANGES)
        value = changed(value, path, lambda old, change=change: change(old, random))  # type: ignore[misc]
        said.append(f"{name} at {'.'.join(map(str, path)) or 'the whole'}")
        if not isinstance(value, dict | list):
            break
    return encode(value), "; ".join(said)


def hostile(random: Random) -> object:
    """A hostile value."""
    return random.choice(HOSTILE)


def _is_small(value: object) -> bool:
    """Whether so many copies of a value still fit in memory: programs are tried here, not the machine."""
    return len(encode(value)) < 200


def _nested(old: object, random: Random) -> object:
    depth = random.choice((1, 50, 900, 5000))
    return Raw("[" * depth + encode(old) + "]" * depth)


def _scaled(old: object, random: Random) -> object:
    if isinstance(old, int | float) and not isinstance(old, bool):
        return old * random.choice((-1, 2, 3, 1000, 10**6, 10**12)) + random.choice((0, 1, -1))
    return old * random.choice((2, 1000)) if isinstance(old, str | list) and _is_small(old) else hostile(random)


def _repeated(old: object, random: Random) -> object:
    if not isinstance(old, dict):
        return [old] * random.choice((2, MANY)) if _is_small(old) else hostile(random)
    twice = random.choice(list(old) or ["a"])
    same = random.random() < 0.5
    extra = tuple(
        (twice if same else f"{twice}{number}", hostile(random) if number < 2 else 0) for number in range(MANY)
    )
    return Pairs((*old.items(), *extra))


def _without(old: object, random: Random) -> object:
    if isinstance(old, dict) and old:
        gone = random.choice(list(old))
        return {key: item for key, item in old.items() if key != gone}
    return old[: len(old) // 2] if isinstance(old, list | str) else None


def _more(old: object, random: Random) -> object:
    if isinstance(old, dict):
        return {**old, random.choice(("unknown", "", "\ud800", "x" * 10_000, "__class__")): hostile(random)}
    return [*old, hostile(random)] if isinstance(old, list) else [old, hostile(random)]


_CHANGES: tuple[tuple[str, Callable[[object, Random], object]], ...] = (
    *[("hostile value", lambda _, random: hostile(random))] * 6,
    ("nested", _nested),
    ("scaled", _scaled),
    ("repeated", _repeated),
    ("something left out", _without),
    ("something added", _more),
)


def mutate_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """Bytes with something wrong, and what."""
    if not data:
        return random.randbytes(64), "random bytes"
    start = random.randrange(len(data))
    length = min(random.choice((1, 2, 8, 64, 4096)), len(data) - start)
    kind = random.choice(("flip", "flips", "cut", "zeros", "ones", "insert", "twice", "empty", "noise", "encoding"))
    if kind == "flip":
        return data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :], f"bit at {start}"
    if kind == "flips":
        flipped = bytearray(data)
        for _ in range(min(len(data), 1 + len(data) // 200)):
            flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
        return bytes(flipped), "bits everywhere"
    if kind == "encoding":
        return random.choice(_ENCODINGS)(data), "another encoding"
    made = {
        "cut": data[:start],
        "zeros": data[:start] + bytes(length) + data[start + length :],
        "ones": data[:start] + b"\xff" * length + data[start + length :],
        "insert": data[:start] + random.randbytes(length) + data[start:],
        "twice": data[: start + length] + data[start:],
        "empty": b"",
        "noise": random.randbytes(len(data)),
    }
    return made[kind], f"{kind} at {start}"


_ENCODINGS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.decode("utf-8", "replace").encode("utf-16"),
    lambda data: data.decode("utf-8", "replace").encode("utf-32"),
    lambda data: data + b"\xff\xfe\x80",
    lambda data: data + b"\0" * 100,
    lambda data: data.replace(b"\n", b"\r"),
)
