"""A dataset that the `datasets` library saved to disk (``save_to_disk``), in Arrow files."""

from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.processing.feeder import Takes
from edgepress.samples.sample import Form, Sample, Samples, of_record


def read(path: Path, takes: Takes) -> Samples:
    """A sample for each row; images and sounds are decoded here, not by the library.

    Raises:
        InputError: the library is not installed, or cannot read the folder.

    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{path} is read by the datasets library; pip install datasets, or write .jsonl") from error
    try:
        dataset: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # the library's own, Arrow's and the file system's have no common base
        raise InputError(f"{path} cannot be read by the datasets library: {error}") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise InputError(f"{path} has the splits {', '.join(dataset)}; name the folder of one, such as {path}/test")
    classes = {name: kind.names for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    stored = dataset.with_format("arrow")  # rows as they are stored: nothing is decoded

    def number(index: int) -> Sample:
        (stored_row,) = stored[index].to_pylist()
        row = {key: _decoded(value) for key, value in stored_row.items()}
        for key, names in classes.items():
            row[key] = names[row[key]] if row[key] is not None and row[key] >= 0 else None
        return of_record(row, takes, f"{path}[{index}]", path)

    return Samples(len(dataset), number, str(path))


def _decoded(value: Any) -> Any:
    """The bytes of an image or sound that is stored in the dataset itself."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    return value["path"] if isinstance(value, dict) and set(value) == {"bytes", "path"} else value


def was_saved(path: Path) -> bool:
    """Whether a folder is what the library saved: a dataset, or several, which are called splits."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


FORM = Form("a saved dataset", lambda path, _: was_saved(path), read)
