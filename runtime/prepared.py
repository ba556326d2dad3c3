"""Prepared bundles: a cache of models whose weights onnxruntime maps instead of packing them at each start.

A 0.5B model with weights in 4 bits takes 310 to 360 MB of anonymous memory when its bundle is opened: the packed
weights, which the system cannot drop. Opened from its prepared form the same memory is a file that is mapped, starts
in half the time and computes the same bits; :mod:`edgepress.runtime.graph_file.repack` tells how.

One directory per bundle and graph of it, onnxruntime and processor::

    ~/.cache/edgepress/prepared/         $EDGEPRESS_CACHE, or $XDG_CACHE_HOME/edgepress/prepared
      .lock                              held while something is written: one builder at a time
      <bundle hash>-<machine hash>/
        model.onnx  model.onnx.data  check.onnx  pages.crc32
        prepared.json                    what it is, sizes, SHA-256 and stamps; its own time is that of the last use

A form is checked before each use (:mod:`edgepress.runtime.graph_file.form`), and one product of each kind by what it
computes. Hashing 300 MB at each start would cost more than all that is gained: stamps tell whether the data may have
changed, and :func:`check` recomputes all of it from the bundle. Whatever does not fit is built anew. The folder is the
user's alone: one that others own or may write is not used.
"""

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest
from edgepress.disk.cache import FORM, PARTIAL_FORM, cache_folder, locked, refuse_other_owners
from edgepress.disk.files import atomic_directory
from edgepress.errors import InputError
from edgepress.runtime.config import read_config
from edgepress.runtime.graph_file import form
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.machine.memory import drop_mapped, trim_heap
from edgepress.sessions import open_on_cpu
from edgepress.terminal.progress import Progress, silent

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

DEFAULT_LIMIT = 8 << 30
_log = logging.getLogger("edgepress.prepared")


@dataclass(frozen=True)
class Prepared:
    """How a session was opened: from ``directory``, or from the bundle itself because of ``reason``.

    ``reason`` is empty as well when nobody asked for the prepared form.
    """

    directory: Path | None = None
    reason: str = ""
    rows: tuple[tuple[int, int], ...] = field(default=(), repr=False)  # offset and bytes of tables in the data file

    def trim(self) -> None:
        """Give back memory that the session holds without need; call it after a prompt.

        Each row of the embedding that is read makes 64 KiB around it resident, and the allocator keeps what the
        prompt's activations took. Costs a few milliseconds. Rows that are read again are still in the system's cache.
        """
        if self.directory is not None:
            drop_mapped(self.directory / "model.onnx.data", self.rows)
        trim_heap()


def cache_limit() -> int:
    """The most bytes that all prepared forms may take: ``$EDGEPRESS_CACHE_BYTES``, or 8 GiB."""
    text = os.environ.get("EDGEPRESS_CACHE_BYTES", "")
    if not text:
        return DEFAULT_LIMIT
    if not text.isdigit():
        raise InputError(f"EDGEPRESS_CACHE_BYTES is {text!r}; give a whole number of bytes")
    return int(text)


def open_session(
    bundle: Path,
    model: Path,
    options: "SessionOptions",
    *,
    prepared: bool = True,
    cache: Path | None = None,
    limit: int | None = None,
) -> tuple["InferenceSession", Prepared]:
    """Open ``model``, the graph of ``bundle``, from its prepared form, which is made should there be none.

    When there can be none (disk full, unwritable cache, a bundle without manifest …) the model itself is opened; the
    reason is returned, and logged as a warning. ``options`` are used as they are but for the level of optimization:
    a prepared graph is optimized already.

    Raises:
        Exception: what onnxruntime raises when it cannot open the model itself.

    """
    import onnxruntime

    reason = ""
    if prepared:
        level = options.graph_optimization_level
        try:
            directory = _ready(bundle, model, cache, limit)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = open_on_cpu(directory / "model.onnx", options)
        except Exception as error:  # a cache must never keep a bundle from being opened
            reason = str(error)
            _log.warning("the bundle is opened without its prepared form: %s", reason)
        else:
            state = Prepared(directory, rows=form.rows_of(directory))
            state.trim()
            return session, state
        finally:
            options.graph_optimization_level = level
    return open_on_cpu(model, options), Prepared(reason=reason)


def _ready(bundle: Path, model: Path, cache: Path | None, limit: int | None) -> Path:
    """A form that this machine is known to find its packed weights in."""
    directory = _prepare(bundle, model=model, cache=cache, limit=limit)
    if _finds_packed(directory):
        return directory
    directory = _prepare(bundle, model=model, cache=cache, limit=limit, force=True)
    if not _finds_packed(directory):
        raise InputError(
            f"onnxruntime does not find the packed weights in {directory} although it just wrote them; "
            "please report this, with the processor's name"
        )
    return directory


def _finds_packed(directory: Path) -> bool:
    from edgepress.runtime.graph_file import repack

    try:
        found: list[str] = repack.run_check(directory)
    except Exception:  # onnxruntime's own have no common base; experts that are not found are an error
        return False
    return found == list(form.read_note(directory)["checks"])


def prepare(
    bundle: Path,
    *,
    model: Path | None = None,
    cache: Path | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Return the directory of ``bundle``'s prepared form, after writing it if it is missing or not as it was written.

    Args:
        bundle: a directory that an export wrote.
        model: its graph; by default the one that runs on this processor.
        cache: where to keep the form; by default that of :func:`~edgepress.disk.cache.cache_folder`.
        limit: bytes that all forms in ``cache`` may take; the ones not used for the longest time are removed.
        force: write it anew whatever there is.
        progress: makes the bar; :func:`edgepress.terminal.progress.progress` draws it on a terminal.

    Raises:
        InputError: it cannot be prepared, and why: the bundle is not sound, the cache cannot be written, the disk is
            full, or the form alone is larger than ``limit``.

    """
    verify_first(bundle, progress)
    return _prepare(bundle, model=model, cache=cache, limit=limit, force=force, progress=progress)


def _prepare(
    bundle: Path,
    *,
    model: Path | None,
    cache: Path | None,
    limit: int | None,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """As :func:`prepare`, for a bundle that is verified when a form is made of it."""
    cache = cache_folder("prepared") if cache is None else cache
    limit = cache_limit() if limit is None else limit
    model = _graph(bundle) if model is None else model
    key = form.key_of(bundle, model)
    target = cache / form.name_of(key)
    if cache.exists():
        refuse_other_owners(cache)
    if not force and form.find_problem(target, key) is None:
        _mark_used(target)
        return target
    with locked(cache):
        if force or form.find_problem(target, key) is not None:  # another process may have written it meanwhile
            _remove_leftovers(cache)
            _build(bundle, model, target, key, limit=limit, progress=progress)
            _evict(cache, limit, keep=target)
    _mark_used(target)
    return target


def _graph(bundle: Path) -> Path:
    """The graph of a bundle that runs on this processor; the only one of a bundle that is no language model."""
    task = read_manifest(bundle).task if (bundle / MANIFEST_NAME).is_file() else None
    return read_config(bundle).model if task is None or task.sequences is not None else bundle / form.MODEL


def find_form(bundle: Path, cache: Path | None = None, *, model: Path | None = None) -> Path | None:
    """The directory of the prepared form of ``bundle``'s graph, sound or not; None when there is none."""
    key = form.key_of(bundle, _graph(bundle) if model is None else model)
    directory = (cache_folder("prepared") if cache is None else cache) / form.name_of(key)
    return directory if directory.exists() else None


def check(
    bundle: Path, *, model: Path | None = None, cache: Path | None = None, progress: Progress = silent
) -> list[str]:
    """Make the prepared form of ``bundle`` once more, beside the one that is there; return how the two differ.

    One line a file; an empty list says that it is what the bundle gives, byte for byte.

    Raises:
        InputError: as :func:`prepare`; also when there is no form.

    """
    from edgepress.runtime.graph_file import repack

    verify_first(bundle, progress)
    model = _graph(bundle) if model is None else model
    directory = find_form(bundle, cache, model=model)
    if directory is None:
        raise InputError(f"{bundle} has no prepared form; run `edgepress prepare {bundle}`")
    with locked(directory.parent):
        work = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}.partial")
        try:
            with _why_unprepared(bundle, directory.parent):
                work.mkdir(mode=0o700)
                written = repack.write(model, work, progress)
                return form.find_differences(directory, work, asdict(written))
        finally:
            shutil.rmtree(work, ignore_errors=True)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _build(bundle: Path, model: Path, target: Path, key: dict[str, str], *, limit: int, progress: Progress) -> None:
    verify_first(bundle, progress)
    least = sum(entry.size for entry in read_manifest(bundle).files.values())
    if least > limit:
        raise InputError(
            f"prepared, {bundle} takes more than {least / 1e6:,.0f} MB, and {target.parent} is limited to "
            f"{limit / 1e6:,.0f} MB; raise EDGEPRESS_CACHE_BYTES or open the bundle without its prepared form"
        )
    with _why_unprepared(bundle, target.parent), atomic_directory(target, replace=True) as work:
        _write(model, work, key, progress)
        if (size := _disk_bytes(work)) > limit:
            raise InputError(
                f"prepared, {bundle} takes {size / 1e6:,.0f} MB, and {target.parent} is limited to "
                f"{limit / 1e6:,.0f} MB; raise EDGEPRESS_CACHE_BYTES or open the bundle without its prepared form"
            )


@contextmanager
def _why_unprepared(bundle: Path, cache: Path) -> Iterator[None]:
    """Turn any error into an InputError that names the bundle, the folder and its free space."""
    try:
        yield
    except Exception as error:  # onnxruntime's own have no common base, and tell of a full disk in many ways
        reason = error.__cause__ if isinstance(error, InputError) else error
        if isinstance(error, InputError) and not isinstance(reason, OSError):
            raise
        free = shutil.disk_usage(cache).free
        raise InputError(
            f"{bundle} cannot be prepared in {cache} ({free / 1e6:,.0f} MB free): {reason}; "
            "make room, or set EDGEPRESS_CACHE to another directory"
        ) from error


def _write(model: Path, work: Path, key: dict[str, str], progress: Progress) -> None:
    from edgepress.runtime.graph_file import repack

    form.describe(work, key, asdict(repack.write(model, work, progress)))


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed builders left. Where there is no flock it could be a builder's at work."""
    if sys.platform == "win32":
        return
    for path in cache.iterdir():
        if PARTIAL_FORM.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _mark_used(directory: Path) -> None:
    with suppress(OSError):  # a cache that can be read only: nothing is removed from it either
        os.utime(directory / form.NOTE)


def _evict(cache: Path, limit: int, keep: Path) -> None:
    """Remove the forms not used for the longest time until the rest is within ``limit``.

    A process that has one mapped keeps its memory: the file lives on without a name.
    """
    forms = [path for path in cache.iterdir() if FORM.fullmatch(path.name) and path != keep]
    sizes = {path: _disk_bytes(path) for path in forms}
    total = sum(sizes.values()) + _disk_bytes(keep)
    for path in sorted(forms, key=_last_use):
        if total <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]


def _last_use(directory: Path) -> float:
    try:
        return (directory / form.NOTE).stat().st_mtime
    except OSError:
        return 0.0  # half removed: goes first


def _disk_bytes(directory: Path) -> int:
    """Bytes on the disk: a hole takes none."""
    stats = [path.stat() for path in directory.iterdir() if path.is_file()]
    return sum(min(stat.st_size, getattr(stat, "st_blocks", stat.st_size) * 512) for stat in stats)
