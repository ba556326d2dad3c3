"""Folders of ours beside an output: recognised by a note inside, never followed, never emptied otherwise.

An export keeps what can be gone on from in one hidden folder beside its output (:class:`Workspace`), and makes the
output itself in another (:func:`edgepress.disk.files.atomic_directory`). Their names can be guessed, and the place may
be one where others write: what lies there under such a name is used, emptied or removed only when it is a plain
directory of this user, closed to the others, that has :data:`NOTE` in it. The note is written first and removed last,
so that a kill leaves none without it but an empty one. What was left there is found and removed by
:mod:`edgepress.disk.leftovers`.
"""

import json
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from edgepress.disk.cache import find_other_owner
from edgepress.errors import InputError

if sys.platform != "win32":
    import fcntl

NOTE = ".edgepress-workspace"  # its name is the sign; what is in it tells a reader
SUFFIX = ".edgepress"  # of a workspace: `.NAME.edgepress` is that of the output NAME
Part = Literal["pruning", "calibration", "prices", "draft"]
"""A folder in a workspace: stages of ``prune``'s steps, of the layers, what a budget has measured, those of a draft."""
PARTS: tuple[str, ...] = get_args(Part)
_PRIVATE = 0o700
_JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT of Windows; its symbolic links are such by their mode
_NAMED = 3  # entries that a message names
_SHOWN = 80  # characters of a name in a message
_log = logging.getLogger("edgepress.disk.workspace")


class Workspace:
    """What one export keeps beside its output until the bundle is whole: stages that the next run goes on from.

    The folder is made when a part is first asked for, and kept from other processes from then on. Made by
    :meth:`opened`.
    """

    def __init__(self, out: Path) -> None:
        self._out, self.folder = out, beside(out)
        self._held, self._is_held = ExitStack(), False

    @classmethod
    @contextmanager
    def opened(cls, out: Path) -> Iterator["Workspace"]:
        """The workspace of an export to ``out``.

        It is removed when the block ends without an error, and when an error leaves nothing to go on from. Where it
        stays, a warning says so.
        """
        workspace = cls(out)
        with workspace._held:
            try:
                yield workspace
            except BaseException:
                workspace._keep()
                raise
            workspace._remove()

    def part(self, name: Part) -> Path:
        """The folder of one kind of stages.

        Raises:
            InputError: another process holds the workspace, it is not ours, or it cannot be made.

        """
        if not self._is_held:
            self._held.enter_context(held(self.folder, "another export works"))
            self._is_held = True
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def inside(self, name: Part) -> "Workspace":
        """One for an export that is a part of this one: its parts are folders in that part, and go with this one."""
        return _Inside(self, name)

    def _keep(self) -> None:
        if not self._is_held:
            return
        for folder in (*((self.folder / "draft" / name) for name in PARTS), *(self.folder / name for name in PARTS)):
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
        if any(entry.name != NOTE for entry in self.folder.iterdir()):
            _log.warning(
                "what is done is kept in %s: the same command goes on from there, and `edgepress clean %s` removes it",
                self.folder,
                self._out,
            )
        else:
            remove_made(self.folder)

    def _remove(self) -> None:
        if self._is_held:
            remove_made(self.folder)
        else:
            remove(self.folder)  # what an export that was stopped has left


class _Inside(Workspace):
    def __init__(self, outer: Workspace, name: Part) -> None:
        super().__init__(outer._out)
        self._outer, self._name = outer, name

    def part(self, name: Part) -> Path:
        folder = self._outer.part(self._name) / name
        folder.mkdir(exist_ok=True)
        return folder


def beside(out: Path) -> Path:
    """Where the workspace of an export to ``out`` lies: ``.NAME.edgepress`` beside it."""
    whole = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link at `out` itself
    return whole.parent / f".{whole.name}{SUFFIX}"


@contextmanager
def held(directory: Path, by: str) -> Iterator[None]:
    """Make ``directory`` and keep other processes out of it while the block runs; ``by`` says who may be in there.

    Raises:
        InputError: another process holds it, it is not ours, something in it is a link, or it cannot be made.

    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(_PRIVATE)
        _refuse_foreign(directory)
        descriptor = hold(directory)
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror or error}; choose a writable output") from error
    try:
        if descriptor is None and sys.platform != "win32":
            raise InputError(f"{by} in {directory}; wait for it, or choose another output")
        _refuse_without_note(directory)
        _refuse_links(directory)
        write_note(directory)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def hold(directory: Path) -> int | None:
    """Lock a directory for as long as the returned descriptor is open; None when another process holds it.

    Windows has no such locks: nothing is held there, and what a killed process left stays.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def write_note(directory: Path) -> None:
    """Mark a directory as one that edgepress made, and may remove."""
    told = "edgepress keeps here what an export has done so far; it removes this folder when the bundle is whole"
    with suppress(FileExistsError), (directory / NOTE).open("x", encoding="utf-8") as file:
        file.write(json.dumps({"what": told}) + "\n")


def is_ours(directory: Path) -> bool:
    """Whether a directory has our note, belongs to this user, and is no link."""
    try:
        _refuse_foreign(directory)
    except (InputError, OSError):
        return False
    return _has_note(directory)


def clear(directory: Path) -> None:
    """Remove everything in a directory of ours but its note; links are removed, never followed."""
    for entry in directory.iterdir():
        if entry.name == NOTE:
            continue
        if _is_link(entry.lstat()) or not entry.is_dir():
            entry.unlink()
        else:
            shutil.rmtree(entry)


def remove(directory: Path) -> None:
    """Remove a directory if it is ours and no process holds it; what is not stays as it is."""
    if not is_ours(directory):
        return
    descriptor = hold(directory)
    if descriptor is not None or sys.platform == "win32":
        remove_made(directory)
    if descriptor is not None:
        os.close(descriptor)


def remove_made(directory: Path) -> None:
    """Remove a directory that this process has made, the note last; what cannot be removed stays."""
    with suppress(OSError):
        clear(directory)
        (directory / NOTE).unlink(missing_ok=True)
        directory.rmdir()


def _has_note(directory: Path) -> bool:
    try:
        return stat.S_ISREG((directory / NOTE).lstat().st_mode)
    except OSError:
        return False


def _is_link(status: os.stat_result) -> bool:
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == _JUNCTION


def _refuse_foreign(directory: Path) -> None:
    """Refuse a link, a file, and a directory into which others may write."""
    status = directory.lstat()
    if _is_link(status):
        raise InputError(f"{directory} is a link, and edgepress makes none there; remove it, or choose another output")
    if not stat.S_ISDIR(status.st_mode):
        raise InputError(
            f"{directory} is no directory, and edgepress needs one of that name; move it, or choose another output"
        )
    problem = find_other_owner(directory)
    if problem is not None and not _is_as_made_here(status, directory.parent):
        raise InputError(f"{problem}; what is in it cannot be trusted: remove it, or choose another output")


def _is_as_made_here(status: os.stat_result, parent: Path) -> bool:
    """Whether a new private directory in ``parent`` looks so: some file systems have one owner and mode for all."""
    probe = Path(tempfile.mkdtemp(prefix=".edgepress-", dir=parent))
    try:
        made = probe.lstat()
    finally:
        probe.rmdir()
    return (made.st_uid, made.st_mode) == (status.st_uid, status.st_mode)


def _refuse_without_note(directory: Path) -> None:
    names = sorted(entry.name for entry in directory.iterdir())
    if names and not _has_note(directory):
        raise InputError(
            f"{directory} is not edgepress's: it holds {listed(names)}, and no note of ours. Move it away, or choose "
            "another output. If an edgepress before 0.2.0 left it, this one cannot go on from there: remove it"
        )


def _refuse_links(directory: Path) -> None:
    """Refuse what would lead out of a directory: edgepress makes plain files and directories only."""
    for folder, folders, files in os.walk(directory, followlinks=False):
        for name in (*folders, *files):
            path = Path(folder) / name
            status = path.lstat()
            if _is_link(status) or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
                raise InputError(
                    f"{path} is a link or a special file, and edgepress makes none there; remove it, or choose another "
                    "output"
                )


def listed(names: list[str]) -> str:
    """The first few of ``names``, on one line whatever they hold, and how many more there are."""
    more = len(names) - _NAMED
    shown = [name if name.isprintable() else ascii(name) for name in names[:_NAMED]]
    shown = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…" for name in shown]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
