"""What runs on the other side: calls of named functions, their answers told line by line and left as files.

``calls.json`` of a folder names the functions; arrays go in and out as .npz files, numbered, without pickling. A
function that can be called this way takes its arguments (JSON values) and arrays, and returns the same. What it has to
say before it ends it gives to :func:`report`.
"""

import importlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from edgepress.errors import CheckFailed, EdgepressError, InputError

if TYPE_CHECKING:  # numpy is loaded with the first array: a measured process has no memory in it that nobody asked for
    import numpy as np
    from numpy.typing import NDArray

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"
Answer: TypeAlias = "tuple[dict[str, Any], Arrays]"
Function: TypeAlias = "Callable[[dict[str, Any], Arrays], Answer]"
Tell = Callable[[dict[str, Any]], None]


def _to_nobody(_line: dict[str, Any]) -> None:
    """Take what is told where nobody listens."""


_tell: Tell = _to_nobody


def report(value: dict[str, Any]) -> None:
    """Send a JSON value to the caller at once: a sample of a long measurement is not lost when the rest is."""
    _tell({"report": value})


def describe(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Versions of what an edgepress runtime consists of, on the machine that this runs on."""
    import msgspec
    import numpy as np
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
    import numpy as np

    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InputError(f"{name} is not an array of numbers; only such can be compared")
    np.savez(path, *arrays.values())
    return list(arrays)


def read_arrays(path: Path, names: Sequence[str]) -> Arrays:
    """Read what :func:`write_arrays` wrote; no names, no file."""
    if not names:
        return {}
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[f"arr_{index}"] for index, name in enumerate(names)}


def main(folder: Path, tell: Tell = _to_nobody) -> None:
    """Carry out ``calls.json`` of a folder; write ``answers.json`` when all are done, or the error that ended it.

    ``tell`` is given each answer when it is there (``done``, its number), each report, and the error.
    """
    global _tell  # noqa: PLW0603 - functions that report are called by name, with JSON values alone
    answers: dict[str, Any] = {"done": []}
    _tell = tell
    try:
        for number, call in enumerate(json.loads((folder / "calls.json").read_text(encoding="utf-8"))):
            module, _, name = call["function"].partition(":")
            function = cast("Function", getattr(importlib.import_module(module), name))
            value, arrays = function(call["arguments"], read_arrays(folder / f"in-{number}.npz", call["arrays"]))
            names = write_arrays(folder / f"out-{number}.npz", arrays) if arrays else []
            answers["done"].append({"value": value, "arrays": names})
            tell({"done": number, "value": value, "arrays": names})
    except EdgepressError as error:
        answers["error"] = str(error)
        answers["failed"] = isinstance(error, CheckFailed)
        tell({"error": answers["error"], "failed": answers["failed"]})
    finally:
        _tell = _to_nobody
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
