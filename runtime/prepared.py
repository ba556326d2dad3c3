"""Prepared bundles: a cache of models whose weights onnxruntime maps instead of packing them at each start.

A 0.5B model with weights in 4 bits takes 310 to 360 MB of anonymous memory when its bundle is opened: the packed
weights, which the system cannot drop. Opened from its prepared form the same memory is a file that is mapped, starts
in half the time and computes the same bits; :mod:`edgepress.runtime.repack` tells how.

One directory per bundle, onnxruntime and processor::

    ~/.cache/edgepress/prepared/         $EDGEPRESS_CACHE, or $XDG_CACHE_HOME/edgepress/prepared
      .lock                              held while something is written: one builder at a time
      <bundle hash>-<machine hash>/
        model.onnx  model.onnx.data  check.onnx
        prepared.json                    what it is, sizes, SHA-256 and stamps; its own time is that of the last use

A form is checked before each use: the graphs by SHA-256, the data by its size and its time of modification, and one
product of each kind by what it computes. Hashing 300 MB at each start would cost more than all that is gained; but
data whose time is not the noted one is hashed, and :func:`check` hashes always. Whatever does not fit is built anew.
"""

import ctypes
import hashlib
import json
import logging
import mmap
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgepress.cache import locked, user_cache
from edgepress.errors import InputError
from edgepress.files import atomic_directory, sha256_file
from edgepress.manifest import bundle_hash, find_problems, read_manifest
from edgepress.progress import Progress, silent
from edgepress.runtime.config import read_config
from edgepress.sessions import open_on_cpu, saturates

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

SCHEMA_VERSION = 1  # of what is written: another one is another key, so that old forms age away
DEFAULT_LIMIT = 8 << 30
NOTE = "prepared.json"
_OURS = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_LEFT_OVER = re.compile(r"\.[0-9a-f]{16}-[0-9a-f]{16}\..*\.(partial|old)")
_MADV_DONTNEED = 4  # Linux
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
            _drop_mapped(self.directory / "model.onnx.data", self.rows)
        _trim_heap()


def cache_directory() -> Path:
    """Where prepared forms are kept: ``$EDGEPRESS_CACHE``, or ``edgepress/prepared`` in the user's cache directory."""
    chosen = os.environ.get("EDGEPRESS_CACHE")
    return Path(chosen) if chosen else user_cache() / "prepared"


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
            state = Prepared(directory, rows=_rows(directory))
            state.trim()
            return session, state
        finally:
            options.graph_optimization_level = level
    return open_on_cpu(model, options), Prepared(reason=reason)


def _ready(bundle: Path, model: Path, cache: Path | None, limit: int | None) -> Path:
    """A form that this machine is known to find its packed weights in."""
    directory = prepare(bundle, model=model, cache=cache, limit=limit)
    if _finds_packed(directory):
        return directory
    directory = prepare(bundle, model=model, cache=cache, limit=limit, force=True)
    if not _finds_packed(directory):
        raise InputError(
            f"onnxruntime does not find the packed weights in {directory} although it just wrote them; "
            "please report this, with the processor's name"
        )
    return directory


def _finds_packed(directory: Path) -> bool:
    from edgepress.runtime import repack

    found: list[str] = repack.run_check(directory)
    return found == list(_read_note(directory)["checks"])


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
        model: its graph; by default what its ``genai_config.json`` names.
        cache: where to keep the form; by default :func:`cache_directory`.
        limit: bytes that all forms in ``cache`` may take; the ones not used for the longest time are removed.
        force: write it anew whatever there is.
        progress: makes the bar; :func:`edgepress.progress.progress` draws it on a terminal.

    Raises:
        InputError: it cannot be prepared, and why: the bundle is not sound, the cache cannot be written, the disk is
            full, or the form alone is larger than ``limit``.

    """
    cache = cache_directory() if cache is None else cache
    limit = cache_limit() if limit is None else limit
    key = _key(bundle)
    target = cache / _name(key)
    if not force and find_problem(target, key) is None:
        _mark_used(target)
        return target
    with locked(cache):
        if force or find_problem(target, key) is not None:  # another process may have written it meanwhile
            _remove_leftovers(cache)
            model = read_config(bundle).model if model is None else model
            _build(bundle, model, target, key, limit=limit, progress=progress)
            _evict(cache, limit, keep=target)
    _mark_used(target)
    return target


def check(directory: Path) -> list[str]:
    """Recompute every hash of a prepared form; return what differs, one line a file. Empty: all as written."""
    try:
        note = _read_note(directory)
        files = [(name, directory / name, entry) for name, entry in sorted(note["files"].items())]
        return [
            f"{path}: content changed; prepare the bundle again"
            for name, path, entry in files
            if not path.is_file() or path.stat().st_size != entry["size"] or sha256_file(path) != entry["sha256"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{directory / NOTE} cannot be read ({error}); prepare the bundle again"]


def find_problem(directory: Path, key: dict[str, str]) -> str | None:
    """Why a prepared form cannot be used as it is, None when it can. Hashes the data only when its time has changed."""
    try:
        note = _read_note(directory)
        problem = None if note["key"] == key else f"{directory}: made for {note['key']}"
        moved = False  # a copy of the cache: same content, other times
        for name, entry in note["files"].items():
            path = directory / name
            stat = path.stat()
            stamped = stat.st_mtime_ns == entry["modified"]
            if stat.st_size != entry["size"]:
                problem = f"{path}: {stat.st_size} bytes, should be {entry['size']}"
            elif (not stamped or name.endswith(".onnx")) and sha256_file(path) != entry["sha256"]:
                problem = f"{path}: content changed"
            moved |= not stamped
            entry["modified"] = stat.st_mtime_ns
        if not {"checks", "rows"} <= note.keys():
            problem = f"{directory / NOTE}: incomplete"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{directory / NOTE} cannot be read ({error})"
    if moved and problem is None:
        with suppress(OSError):
            _write_note(directory, note)
    return problem


# ---- what a form depends on ------------------------------------------------------------------------------------------


def _key(bundle: Path) -> dict[str, str]:
    import onnxruntime

    return {
        "bundle": bundle_hash(bundle),
        "onnxruntime": onnxruntime.__version__,
        "machine": machine(),
        "form": str(SCHEMA_VERSION),
    }


def _name(key: dict[str, str]) -> str:
    rest = "|".join(f"{name}={value}" for name, value in sorted(key.items()) if name != "bundle")
    return f"{key['bundle'][:16]}-{hashlib.sha256(rest.encode()).hexdigest()[:16]}"


def machine() -> str:
    """What decides how onnxruntime packs: the architecture and the processor's instruction sets."""
    features: set[str] = set()
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                features.update(value.split())
                break  # onnxruntime looks at one core, too
    if saturates():  # weights are made uint8 (see edgepress.sessions); an emulated processor shows the host's flags
        features.add("saturating products")
    described = " ".join(sorted(features)) or platform.processor()
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(described.encode()).hexdigest()[:16]}"


# ---- writing ---------------------------------------------------------------------------------------------------------


def _build(bundle: Path, model: Path, target: Path, key: dict[str, str], *, limit: int, progress: Progress) -> None:
    if problems := find_problems(bundle):
        raise InputError(f"{bundle} is not as it was written: {problems[0]}; export it again")
    least = sum(entry.size for entry in read_manifest(bundle).files.values())
    if least > limit:
        raise InputError(
            f"prepared, {bundle} takes more than {least / 1e6:,.0f} MB, and {target.parent} is limited to "
            f"{limit / 1e6:,.0f} MB; raise EDGEPRESS_CACHE_BYTES or open the bundle without its prepared form"
        )
    try:
        with atomic_directory(target, replace=True) as work:
            _write(model, work, key, progress)
            if (size := _disk_bytes(work)) > limit:
                raise InputError(
                    f"prepared, {bundle} takes {size / 1e6:,.0f} MB, and {target.parent} is limited to "
                    f"{limit / 1e6:,.0f} MB; raise EDGEPRESS_CACHE_BYTES or open the bundle without its prepared form"
                )
    except InputError:
        raise
    except Exception as error:  # onnxruntime's own have no common base, and tell of a full disk in many ways
        free = shutil.disk_usage(target.parent).free
        raise InputError(
            f"{bundle} cannot be prepared in {target.parent} ({free / 1e6:,.0f} MB free): {error}; "
            "make room, or set EDGEPRESS_CACHE to another directory"
        ) from error


def _write(model: Path, work: Path, key: dict[str, str], progress: Progress) -> None:
    from edgepress.runtime import repack

    written = repack.write(model, work, progress)
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_file(path), "modified": path.stat().st_mtime_ns}
        for path in sorted(work.iterdir())
    }
    content = {
        "key": key,
        "files": files,
        "forms": written.forms,
        "packed_bytes": written.packed_bytes,
        "rows": written.rows,
        "checks": written.checks,
    }
    _write_note(work, content)


def _read_note(directory: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((directory / NOTE).read_text(encoding="utf-8")))


def _write_note(directory: Path, content: dict[str, Any]) -> None:
    path = directory / f".{NOTE}.{os.getpid()}"
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.replace(directory / NOTE)


def _rows(directory: Path) -> tuple[tuple[int, int], ...]:
    return tuple((int(offset), int(size)) for offset, size in _read_note(directory)["rows"])


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed builders left. Where there is no flock it could be a builder's at work."""
    if sys.platform == "win32":
        return
    for path in cache.iterdir():
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _mark_used(directory: Path) -> None:
    with suppress(OSError):  # a cache that can be read only: nothing is removed from it either
        os.utime(directory / NOTE)


def _evict(cache: Path, limit: int, keep: Path) -> None:
    """Remove the forms not used for the longest time until the rest is within ``limit``.

    A process that has one mapped keeps its memory: the file lives on without a name.
    """
    forms = [path for path in cache.iterdir() if _OURS.fullmatch(path.name) and path != keep]
    sizes = {path: _disk_bytes(path) for path in forms}
    total = sum(sizes.values()) + _disk_bytes(keep)
    for path in sorted(forms, key=_last_use):
        if total <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]


def _last_use(directory: Path) -> float:
    try:
        return (directory / NOTE).stat().st_mtime
    except OSError:
        return 0.0  # half removed: goes first


def _disk_bytes(directory: Path) -> int:
    """Bytes on the disk: a hole takes none."""
    stats = [path.stat() for path in directory.iterdir() if path.is_file()]
    return sum(min(stat.st_size, getattr(stat, "st_blocks", stat.st_size) * 512) for stat in stats)


# ---- memory ----------------------------------------------------------------------------------------------------------


def _drop_mapped(data: Path, regions: tuple[tuple[int, int], ...]) -> None:
    """Let go of the resident pages of ``regions`` of a mapped file; they are clean, and read again when needed."""
    if sys.platform != "linux" or not regions:
        return
    libc = ctypes.CDLL(None)
    name = str(data.resolve())
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as file:
        for line in file:  # 7f1c…-7f1d… rw-p 0000a000 fd:01 1234   /path
            if not line.rstrip("\n").endswith(name):
                continue
            span, _, offset_text, *_ = line.split(maxsplit=5)
            begin, end = (int(part, 16) for part in span.split("-"))
            first = int(offset_text, 16)
            for offset, size in regions:
                low = -(-max(first, offset) // mmap.PAGESIZE) * mmap.PAGESIZE
                high = min(first + end - begin, offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
                if low < high:
                    address = ctypes.c_void_p(begin + low - first)
                    libc.madvise(address, ctypes.c_size_t(high - low), _MADV_DONTNEED)


def _trim_heap() -> None:
    """Hand free memory of the allocator back to the system, where the C library can (glibc)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
