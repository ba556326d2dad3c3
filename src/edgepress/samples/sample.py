"""One sample, many of them, and the forms that they come in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from edgepress.disk.hub_layout import resolve_inside
from edgepress.errors import InputError
from edgepress.processing.feeder import Takes

MOST = 10_000_000
"""Samples of one source."""
SUFFIXES: dict[Takes, frozenset[str]] = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"}),
    "sound": frozenset({".wav"}),
    "text": frozenset({".txt"}),
    "arrays": frozenset({".npz"}),
}
"""Files that are samples, by how their names end."""
VALUES: dict[Takes, tuple[str, ...]] = {
    "image": ("image", "img", "pixel_values", "file", "file_name", "filename", "path"),
    "sound": ("audio", "sound", "file", "file_name", "filename", "path"),
    "text": ("text", "sentence", "sentence1", "text1", "premise", "question", "query", "anchor"),
    "arrays": ("file", "file_name", "filename", "path"),
}
"""Names of the column or key that has the sample, the first that is there."""
SECONDS = ("text_pair", "sentence2", "text2", "hypothesis", "answer", "passage", "positive")
"""Names of the column or key that has the text which the first is paired with."""
LABELS = ("label", "labels", "score", "similarity", "similarity_score", "class", "category", "target", "objects")
"""Names of the column or key that says what is right; of sound, what is said in it comes last."""
MASKS = ("mask", "annotation", "segmentation_map")
"""Names of the column or key that has an image of the classes of pixels."""
_SAID = ("transcription", "transcript", "sentence", "text")


@dataclass(frozen=True)
class Sample:
    """One of them: what a task takes, what is right (None where nothing is known), and where it is from."""

    value: object
    label: object = None
    where: str = ""


@dataclass(frozen=True)
class Samples:
    """Many of them, each read when it is asked for. ``number(index)`` is the sample of that number."""

    count: int
    number: Callable[[int], Sample]
    source: str

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return map(self.number, range(self.count))


@dataclass(frozen=True)
class Form:
    """A form: whether a path has it, and how it is read; both are told what a task takes."""

    name: str
    recognizes: Callable[[Path, Takes], bool]
    read: Callable[[Path, Takes], Samples]


def of_list(samples: Sequence[Sample], source: str) -> Samples:
    """Samples that are there already."""
    return Samples(len(samples), samples.__getitem__, source)


def plain(label: object) -> object:
    """A label as Python has it, where it is a number or a text of numpy."""
    return label.item() if isinstance(label, np.generic) else label


def of_record(record: dict[str, object], takes: Takes, where: str, root: Path) -> Sample:
    """A sample of a row: its columns by their names; files are named relative to ``root``.

    Raises:
        InputError: no column has a name that is known, or a file is not there or lies elsewhere.

    """
    name = next((name for name in VALUES[takes] if record.get(name) not in (None, "")), None)
    if name is None:
        if empty := [name for name in VALUES[takes] if name in record]:
            raise InputError(f"{where}: its {empty[0]} is empty; fill it in, or remove the line")
        raise InputError(
            f"{where} has {', '.join(map(str, record)) or 'nothing'}; {_article(takes)} is one of "
            f"{', '.join(VALUES[takes])}"
        )
    labels = (*LABELS, *(_SAID if takes == "sound" else ()))
    label = next((record[key] for key in labels if record.get(key) not in (None, "")), None)
    mask = next((record[key] for key in MASKS if isinstance(record.get(key), str | bytes)), None)
    if mask is not None:
        label = file_inside(mask, root, where) if isinstance(mask, str) else mask
    value = record[name]
    if takes == "text":
        second = next((record[key] for key in SECONDS if isinstance(record.get(key), str)), None)
        return Sample(value if second is None else (value, second), label, where)
    return Sample(file_inside(str(value), root, where) if isinstance(value, str | Path) else value, label, where)


def _article(takes: Takes) -> str:
    return {"image": "an image", "sound": "a sound", "text": "a text", "arrays": "a file of arrays"}[takes]


def file_inside(name: str, root: Path, where: str) -> Path:
    """The file that a row names, which lies in the folder ``root``.

    Raises:
        InputError: it is not there, or elsewhere: rows come from others, and could name any file of this machine.

    """
    named = PurePosixPath(name)
    if named.is_absolute() or PureWindowsPath(name).drive or ".." in named.parts or ".." in PureWindowsPath(name).parts:
        raise InputError(f"{where} names {name}, which is not in {root}; name files relative to it")
    path = root / name
    if not path.is_file():
        raise InputError(f"{where} names {name}, and {root} has no such file")
    return resolve_inside(path, root)
