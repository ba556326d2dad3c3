"""What edgepress has left on a disk: work beside an output that was stopped, and its caches; found and removed.

Beside an output NAME lie:

- ``.NAME.edgepress``, the workspace of an export (:class:`edgepress.disk.workspace.Workspace`), which the next one goes
  on from; ``.NAME.calibration``, ``.NAME.pruning`` and ``.NAME.budget`` are those of earlier versions, which none does;
- ``.NAME.HEX.partial``, a directory that was being written (:func:`edgepress.disk.files.atomic_directory`); a kill
  while one was replaced may have left the old one in there, which is put back.

Only what carries our note, belongs to this user, is closed to others and is in nobody's use is removed; no link is
followed.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgepress.disk import workspace
from edgepress.disk.cache import Cache, cache_entries, cache_folder, locked
from edgepress.disk.files import REPLACED, recover
from edgepress.errors import InputError

_EARLIER = ("calibration", "pruning", "budget")
_NAMES = re.compile(rf"\.(.+)\.({workspace.SUFFIX[1:]}|{'|'.join(_EARLIER)}|[0-9a-f]{{16}}\.partial)", re.DOTALL)
_UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


@dataclass(frozen=True)
class Leftover:
    """A directory beside an output.

    ``what`` says in words what is in it; ``changed`` is when its newest file was written, in seconds since the epoch;
    ``kept_because`` says why it cannot be removed, "" where it can.
    """

    path: Path
    output: Path
    what: str
    size: int  # bytes
    changed: float
    kept_because: str

    def remove(self) -> bool:
        """Remove it, unless somebody uses it by now; whether it is gone."""
        if self.path.suffix == ".partial":
            recover(self.output)
        else:
            workspace.remove(self.path)
        return not os.path.lexists(self.path)


def find_leftovers(place: Path) -> list[Leftover]:
    """What lies beside ``place``, as an output, and in it, beside the outputs that it holds.

    Raises:
        InputError: there is no ``place``, and nothing of an export to it beside it; or it cannot be looked at.

    """
    whole = Path(os.path.abspath(place))  # noqa: PTH100 - resolve() would follow a link at `place` itself
    if not whole.parent.is_dir():
        raise InputError(f"{place} is not there, and neither is the directory in which it would lie")
    try:
        found = [path for path in whole.parent.iterdir() if _output(path) == whole]
        found += [path for path in whole.iterdir() if _output(path)] if whole.is_dir() else []
        leftovers = [leftover for path in sorted(found) if (leftover := _look_at(path)) is not None]
    except OSError as error:
        raise InputError(f"{place} cannot be looked at: {error.strerror or error}") from error
    if not leftovers and not os.path.lexists(whole):
        raise InputError(
            f"{place} is not there, and no export to it has left anything; name an output, or a directory with outputs"
        )
    return leftovers


def _output(path: Path) -> Path | None:
    match = _NAMES.fullmatch(path.name)
    return None if match is None else path.with_name(match[1])


def _look_at(path: Path) -> Leftover | None:
    """What is known of ``path``, whose name is one of ours; None where only its name is."""
    output = _output(path)
    has_note = os.path.lexists(path / workspace.NOTE)
    if output is None or not (has_note or path.suffix == workspace.SUFFIX):
        return None
    why = "" if workspace.is_ours(path) else "not edgepress's, or others may write to it"
    if not why and _is_held(path):
        why = "in use"
    if not why and path.suffix == ".partial" and output.is_symlink():
        why = f"{output.name} is a link"
    size, changed = (path.lstat().st_size, path.lstat().st_mtime) if path.is_symlink() else measure(path)
    return Leftover(path, output, _describe(path, output), size, changed, why)


def _describe(path: Path, output: Path) -> str:
    if path.suffix == ".partial":
        is_aside = not os.path.lexists(output) and os.path.lexists(path / REPLACED)
        return f"the old {output.name}, which will be put back" if is_aside else "a directory that was being written"
    if path.suffix != workspace.SUFFIX:
        return f"{path.suffix[1:]} of an earlier version, of no use to this one"
    parts = [f"{name} {format_bytes(measure(path / name)[0])}" for name in workspace.PARTS if (path / name).is_dir()]
    return ", ".join(parts) or "nothing"


def _is_held(path: Path) -> bool:
    """Whether a process works in there; Windows does not tell."""
    if sys.platform == "win32":
        return False
    descriptor = workspace.hold(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def empty_cache(name: Cache) -> None:
    """Remove what lies in a cache, while no other process writes to it. What runs keeps the files that it has open.

    Raises:
        InputError: another user owns the cache or may write to it, or something in it cannot be removed.

    """
    entries = cache_entries(name)
    if not entries:
        return
    with locked(cache_folder(name)):
        try:
            for path in cache_entries(name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except OSError as error:
            raise InputError(f"{path} cannot be removed: {error.strerror or error}") from error


def measure(*places: Path) -> tuple[int, float]:
    """The bytes of all files below ``places``, links not followed, and when the newest of them was written."""
    stats = [path.lstat() for place in places for path in (place, *_below(place)) if os.path.lexists(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)


def _below(place: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(place, followlinks=False):
        with suppress(OSError):
            yield from (Path(folder) / name for name in files)


def format_bytes(count: int) -> str:
    """Megabytes, as all reports have them."""
    return f"{count / 1e6:,.1f} MB"


def format_age(seconds: float) -> str:
    """How long ago, in the largest unit that there are two of: ``3 hours ago``."""
    unit, length = next((each for each in _UNITS if seconds >= 2 * each[1]), _UNITS[-1])
    return f"{max(0, int(seconds // length))} {unit} ago"
