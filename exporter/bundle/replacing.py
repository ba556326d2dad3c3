"""What ``--force`` may remove: a bundle of ours, of any version, with nothing else in it.

A directory is the user's until it is shown to be ours. A file ``manifest.json`` shows nothing: web apps, browser
extensions and others have one. Ours carries its own digest, and lists every file that the export wrote; what lies
beside these is somebody's work.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from edgepress.bundle.manifest import MANIFEST_NAME, is_sealed
from edgepress.disk.files import recover, refuse_existing
from edgepress.disk.workspace import listed
from edgepress.errors import InputError

_LARGEST = 64 << 20  # bytes of a manifest: ours have some hundred a tensor
_OTHER = "--force replaces bundles only: move it away, or choose another output"
_HUB_NOTES = PurePosixPath(".cache/huggingface")  # what huggingface_hub writes down about its downloads
_MADE_BY_OTHERS = {".gitattributes", ".DS_Store", "Thumbs.db", "desktop.ini"}  # by the hub and by file managers, anew


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that has no place, before the work; what a killed export left there is put back first.

    Raises:
        InputError: ``out`` exists, and with ``force`` is not what that may remove.

    """
    recover(out, check_replaceable)
    if not force:
        refuse_existing(out)
    elif out.exists():
        check_replaceable(out)


def check_replaceable(out: Path) -> None:
    """Raise InputError unless the directory ``out`` is empty, or a bundle and nothing but that, and can be replaced."""
    if not out.is_dir():
        raise InputError(f"{out} is a file; --force replaces bundles only: choose another output")
    _refuse_in_use(out)
    names = sorted(entry.name for entry in out.iterdir())
    if not names:
        return
    if MANIFEST_NAME not in names:
        raise InputError(f"{out} is not a bundle (it has no {MANIFEST_NAME}); it holds {listed(names)}; {_OTHER}")
    strange = sorted(_others(out, _files_of_bundle(out, names)))
    if strange:
        raise InputError(
            f"{out} is a bundle, and holds what no export wrote: {listed(strange)}. --force would remove that too: "
            "move it away, or choose another output"
        )


def _refuse_in_use(out: Path) -> None:
    """Refuse the working directory, one that holds it, and a mount point: no other directory can take their place."""
    if os.path.ismount(out):
        raise InputError(f"{out} is a mount point, and nothing can take its place; name a directory in it")
    with suppress(FileNotFoundError):  # the working directory is gone already
        if Path.cwd().is_relative_to(out.resolve()):
            raise InputError(
                f"{out} is the working directory or holds it, and would be removed; name a new directory in it, or "
                "call from elsewhere"
            )


def _files_of_bundle(out: Path, names: list[str]) -> set[str]:
    """Every file that the manifest in ``out`` lists, and itself; of any version of ours.

    Raises:
        InputError: the manifest is not ours, or not as it was written.

    """
    path = out / MANIFEST_NAME
    content: Any = None
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= _LARGEST:
            content = json.loads(path.read_text(encoding="utf-8"))
    keys = sorted(content) if isinstance(content, dict) else []
    with suppress(ValueError, TypeError, RecursionError):  # what JSON can hold, and a manifest cannot
        if "files" in keys and is_sealed(content):
            return {MANIFEST_NAME, *content["files"]}
    if "manifest_sha256" in keys:
        raise InputError(
            f"{out}: {MANIFEST_NAME} was changed after it was written, so it does not show what an export put there; "
            "remove the directory yourself if you do not need it, or choose another output"
        )
    told = f"with {listed(keys)} in it" if keys else "which is not ours"
    raise InputError(
        f"{out} is not a bundle: its {MANIFEST_NAME}, {told}, was written by another program; the directory holds "
        f"{listed(names)}; {_OTHER}"
    )


def _others(out: Path, ours: set[str]) -> Iterator[str]:
    """Files and links in ``out`` that are neither ours nor made anew by the program that made them."""
    for folder, folders, files in os.walk(out, followlinks=False):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*files, *links):
            relative = PurePosixPath((Path(folder) / name).relative_to(out).as_posix())
            if str(relative) in ours or relative.name in _MADE_BY_OTHERS or _HUB_NOTES in relative.parents:
                continue
            if not (out / _HUB_NOTES / "download" / f"{relative}.metadata").is_file():  # else downloaded from the hub
                yield str(relative)
