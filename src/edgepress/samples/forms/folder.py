"""A folder of files: ``<class>/<file>``, or ``<file>`` alone with or without ``labels.csv`` or ``metadata.jsonl``."""

import os
from pathlib import Path

from edgepress.disk.hub_layout import resolve_inside
from edgepress.errors import InputError
from edgepress.processing.feeder import Takes
from edgepress.samples.forms import csv as csv_form
from edgepress.samples.forms import jsonl, saved_dataset
from edgepress.samples.sample import MOST, SUFFIXES, Form, Sample, Samples, of_list
from edgepress.schema import read_bytes
from edgepress.text.documents import decode

_LISTS = ("labels.csv", "metadata.csv", "metadata.jsonl", "labels.jsonl")
_LARGEST_TEXT = 64 << 20  # bytes


def read(path: Path, takes: Takes) -> Samples:
    """Every file of the folder that is a sample; the name of the folder that it is in is its class.

    Raises:
        InputError: there is none.

    """
    for name in _LISTS:
        if (path / name).is_file():
            read_list = csv_form.read if name.endswith(".csv") else jsonl.read
            return read_list(path / name, takes)
    files = _files(path, SUFFIXES[takes])
    if not files:
        raise InputError(f"{path} has no files of {', '.join(sorted(SUFFIXES[takes]))}; name a folder with samples")
    found = [(file, file.relative_to(path).parts) for file in files]
    if takes == "text":
        texts = ((file, parts, read_bytes(file, "remove it", largest=_LARGEST_TEXT)) for file, parts in found)
        return of_list([Sample(decode(text, file), _class(parts), str(file)) for file, parts, text in texts], str(path))
    return of_list([Sample(file, _class(parts), str(file)) for file, parts in found], str(path))


def _class(parts: tuple[str, ...]) -> str | None:
    """The folder of a file, the first below the source."""
    return parts[0] if len(parts) > 1 else None


def _files(root: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files with such names, in the order of their names; links are followed that stay inside."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                found.append(Path(folder, name))
                if Path(folder, name).is_symlink():
                    resolve_inside(Path(folder, name), root)
        if len(found) > MOST:
            raise InputError(f"{root} has more than {MOST:,} samples; name a smaller folder")
    return found


FORM = Form("a folder of files", lambda path, _: path.is_dir() and not saved_dataset.was_saved(path), read)
