"""Packs: several bundles in one folder with one index, as an app ships them.

::

    app/
      pack.json      what is in it: names, hashes, bytes, memory
      assistant/     a bundle, as it was
      embedder/      another one

Each bundle stays one of its own: nothing is shared between them, and ``app/embedder`` is used like any bundle.
"""

import hashlib
import re
from pathlib import Path

import msgspec

from edgepress.bundle.manifest import PACK_INDEX, bundle_hash, canonical, find_problems
from edgepress.errors import InputError
from edgepress.schema import Digest, Size, convert, parse_json, read_bytes
from edgepress.terminal.progress import Progress, silent

INDEX = PACK_INDEX
SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_AGAIN = "make the pack again"


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Resident memory of a process that opens a bundle and does what it is for once, in bytes.

    ``process`` is what there was before: Python and libraries, which an app has once.
    """

    process: Size
    peak: Size
    steady: Size

    @property
    def adds(self) -> int:
        """What the bundle adds to the process at its highest."""
        return max(0, self.peak - self.process)


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle of a pack: what it is for, its hash, its bytes, and its memory where that was measured."""

    task: str
    hash: Digest
    bytes: Size
    memory: Memory | None = None


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pack holds.

    ``together`` is measured with all bundles open in one process; ``measured_on`` says where, both None where nothing
    was measured. ``digest`` is the index's own.
    """

    schema: int
    edgepress: str
    bundles: dict[str, Packed]
    together: Memory | None = None
    measured_on: str | None = None
    digest: str = ""

    @property
    def bytes(self) -> int:
        """Of all bundles."""
        return sum(packed.bytes for packed in self.bundles.values())

    @property
    def added_up(self) -> int | None:
        """Peak memory with all bundles open, by adding: one process, and what each bundle adds; None if unknown."""
        found = [packed.memory for packed in self.bundles.values() if packed.memory is not None]
        if len(found) < len(self.bundles) or not found:
            return None
        return max(memory.process for memory in found) + sum(memory.adds for memory in found)

    @property
    def one_at_a_time(self) -> int | None:
        """Peak memory with one bundle open at a time: that of the largest; None if unknown."""
        found = [packed.memory.peak for packed in self.bundles.values() if packed.memory is not None]
        return max(found) if len(found) == len(self.bundles) and found else None

    def sealed(self) -> "Index":
        """The same with its digest."""
        return msgspec.structs.replace(self, digest=self._digest())

    @property
    def is_sealed(self) -> bool:
        """Whether it is as it was written."""
        return self.digest == self._digest()

    def _digest(self) -> str:
        content = msgspec.to_builtins(msgspec.structs.replace(self, digest=""))
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    def serialize(self) -> str:
        """It as JSON."""
        return canonical(msgspec.to_builtins(self))


def check_name(name: str) -> str:
    """A name that every file system keeps as it is; InputError where it is none."""
    if _NAME.fullmatch(name) is None or name == INDEX:
        raise InputError(
            f"{name!r} cannot be the name of a bundle in a pack: take up to 63 of a-z, 0-9, '.', '_' and '-', a letter "
            "or digit first"
        )
    return name


def is_pack(folder: Path) -> bool:
    """Whether a folder has an index of bundles."""
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> Index:
    """The index of a pack.

    Raises:
        InputError: there is none, or it is not as it was written.

    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder} is no pack (it has no {INDEX}); `edgepress pack` makes one")
    found = convert(parse_json(read_bytes(path, _AGAIN), str(path), _AGAIN), Index, str(path), _AGAIN)
    if found.schema != SCHEMA:
        raise InputError(f"{path} has schema {found.schema}; this edgepress reads {SCHEMA}")
    if not found.is_sealed:
        raise InputError(f"{path} was changed after it was written; {_AGAIN}")
    for name in found.bundles:
        check_name(name)
    return found


def find_in_pack(folder: Path, name: str | None) -> Path:
    """The folder of a bundle in a pack, which is the one that was packed by that name.

    Raises:
        InputError: the pack has none of that name or is not as it was written, or none is named.

    """
    index = read_index(folder)
    known = ", ".join(index.bundles)
    if name is None:
        raise InputError(f"{folder} is a pack of {known}; say which one")
    if name not in index.bundles:
        raise InputError(f"{folder} has no bundle {name!r}; it has {known}")
    if bundle_hash(folder / name) != index.bundles[name].hash:
        raise InputError(f"{folder / name} is another bundle than was packed by that name; {_AGAIN}")
    return folder / name


def pack_problems(folder: Path, progress: Progress = silent) -> list[str]:
    """What is not as it was packed: in the index, in a bundle, or beside them; none of a sound pack.

    Raises:
        InputError: the index cannot be read.

    """
    index = read_index(folder)
    strange = sorted({entry.name for entry in folder.iterdir()} - {INDEX, *index.bundles})
    problems = [f"{name} is in no index" for name in strange]
    for name, packed in index.bundles.items():
        if not (folder / name).is_dir():
            problems.append(f"{name} is missing")
            continue
        found = find_problems(folder / name, progress)
        problems += [f"{name}: {problem}" for problem in found]
        if not found and bundle_hash(folder / name) != packed.hash:
            problems.append(f"{name} is another bundle than was packed by that name")
    return problems
