"""What any_model.py measures: a model, the forms that tools make of it, and how good an answer is."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Cost, measure_command
from numpy.typing import NDArray

Array = NDArray[Any]
Answer = Callable[[Any], Array]
"""From a batch of inputs to an array with a row for each."""


class RefusedError(Exception):
    """A form does not run; why, as its tool says."""


PEERS = Path(__file__).parent / "peers"
THREADS = (1, 2)


@dataclass(frozen=True)
class Form:
    """A model as a tool made it: ``open`` gives its answers with so many threads; ``cost`` is of what made it.

    ``refused`` says why there is none; a form may also refuse when it is opened or asked.
    """

    tool: str
    name: str
    files: Sequence[Path]
    open: Callable[[int], Answer]
    cost: Cost | None = None
    refused: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the graph and its weights."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Subject:
    """One model: ``forms`` makes all of it in a folder, the float32 bundle first; ``batches`` are what is timed.

    ``score`` gives figures of a form's answers, and the answers, which those of the first form are the reference of.
    """

    name: str
    forms: Callable[[Path], Sequence[Form]]
    batches: Callable[[], Mapping[str, Sequence[Any]]]
    score: Callable[[Answer, Array | None], tuple[dict[str, float], Array]]


def export(model: Path, recipe: str, out: Path, *options: str | Path) -> Cost:
    """Export by the command line, for x86-64."""
    command = [sys.executable, "-m", "edgepress", "export", model, "--recipe", recipe, "--target", "x86-cpu"]
    return measure_command([*command, "--out", out, "--force", *options])


def bundle_files(out: Path) -> list[Path]:
    """What of a bundle is graph and weights."""
    return [out / "model.onnx", out / "model.onnx.data"]


def quantized(how: str, model: Path, out: Path, *inputs: Path) -> Cost:
    """onnxruntime's own quantization of a float model, in a process of its own."""
    return measure_command([sys.executable, PEERS / "onnxruntime_quantize.py", how, model, out, *inputs])
