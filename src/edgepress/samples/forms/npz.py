"""Arrays (.npz): ``images`` or ``sounds`` with ``labels``, or the graph's inputs by their names, a row a sample."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.arrays import read_arrays
from edgepress.processing.feeder import Takes
from edgepress.samples.sample import Form, Sample, Samples, plain

_VALUES: dict[Takes, tuple[str, ...]] = {"image": ("images", "x"), "sound": ("sounds", "audio", "x")}
_LABELS = ("labels", "y")


def read(path: Path, takes: Takes) -> Samples:
    """A sample for each row of its arrays.

    Raises:
        InputError: it cannot be read, or its arrays have different numbers of rows.

    """
    arrays = read_arrays(path)
    label_name = next((name for name in _LABELS if name in arrays), None)
    labels = None if label_name is None else arrays.pop(label_name)
    named = next((name for name in _VALUES.get(takes, ()) if name in arrays), None)
    if takes == "text":
        raise InputError(f"{path} holds arrays, and the model takes texts; give them as .jsonl or .csv")
    if named is None and takes in _VALUES:
        raise InputError(f"{path} has {', '.join(arrays)}; the samples are one of {', '.join(_VALUES[takes])}")
    counted = arrays if labels is None or label_name is None else {**arrays, label_name: labels}
    rows = {len(array) if array.ndim else 0 for array in counted.values()}
    if len(rows) != 1 or rows == {0}:
        sizes = ", ".join(f"{name} {array.shape}" for name, array in counted.items())
        raise InputError(f"{path}: its arrays have no one number of rows, one for each sample: {sizes}")

    def number(index: int) -> Sample:
        value: object = _feed(arrays, index) if named is None else arrays[named][index]
        return Sample(value, None if labels is None else plain(labels[index]), f"{path}[{index}]")

    return Samples(rows.pop(), number, str(path))


def _feed(arrays: dict[str, NDArray[np.generic]], index: int) -> dict[str, NDArray[np.generic]]:
    """Inputs for one call: a batch of one."""
    return {name: array[index : index + 1] for name, array in arrays.items()}


FORM = Form("arrays (.npz)", lambda path, _: path.suffix.lower() == ".npz", read)
