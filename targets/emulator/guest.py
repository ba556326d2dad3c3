"""What runs inside the emulated machine: calls of named functions, their answers left as files.

    python3 -m edgepress.targets.emulator.guest FOLDER

``calls.json`` names the functions; arrays go in and out as .npz files, numbered, without pickling. A function that can
be called this way takes its arguments (JSON values) and arrays, and returns the same.
"""

import importlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import CheckFailed, EdgepressError, InputError

Arrays = dict[str, NDArray[np.generic]]
Answer = tuple[dict[str, Any], Arrays]
Function = Callable[[dict[str, Any], Arrays], Answer]


def describe(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Versions of what an edgepress runtime consists of, on the machine that this runs on."""
    import msgspec
    import onnxruntime
    import tokenizers

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "tokenizers": tokenizers.__version__,
        "msgspec": msgspec.__version__,
    }, {}


def products(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Whether sums of uint8 by int8 ``saturate`` in a plain session, on the machine that this runs on."""
    from edgepress.sessions import saturates

    return {"saturate": saturates()}, {}


def write_arrays(path: Path, arrays: Arrays) -> list[str]:
    """Write arrays in order and return their names, which a .npz cannot hold as they are (slashes, ``file``).

    Raises:
        InputError: one is not of numbers.

    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InputError(f"{name} is not an array of numbers; only such can be compared")
    np.savez(path, *arrays.values())
    return list(arrays)


def read_arrays(path: Path, names: Sequence[str]) -> Arrays:
    """Read what :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[f"arr_{index}"] for index, name in enumerate(names)}


def main(folder: Path) -> None:
    """Carry out ``calls.json`` of a folder; write ``answers.json`` when all are done, or the error that ended it."""
    answers: dict[str, Any] = {"done": []}
    try:
        for number, call in enumerate(json.loads((folder / "calls.json").read_text(encoding="utf-8"))):
            module, _, name = call["function"].partition(":")
            function = cast("Function", getattr(importlib.import_module(module), name))
            value, arrays = function(call["arguments"], read_arrays(folder / f"in-{number}.npz", call["arrays"]))
            names = write_arrays(folder / f"out-{number}.npz", arrays)
            answers["done"].append({"value": value, "arrays": names})
    except EdgepressError as error:
        answers["error"] = str(error)
        answers["failed"] = isinstance(error, CheckFailed)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
