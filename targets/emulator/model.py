"""Any ONNX model on emulated processors, compared with the host."""

import glob
import platform
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.calls import Call
from edgepress.calls.guest import Answer, Arrays
from edgepress.errors import CheckFailed, InputError
from edgepress.sessions import open_on_cpu, open_unfused, saturates, session_options
from edgepress.targets.emulator.agreement import Agreement, agreement
from edgepress.targets.emulator.installation import Installation, System
from edgepress.targets.emulator.machine import check_cpu, run, versions_on
from edgepress.targets.emulator.system import boot

if TYPE_CHECKING:
    from onnxruntime import SessionOptions


@dataclass(frozen=True)
class ModelComparison:
    """What a model computed on one processor, and how that agrees with the host."""

    cpu: str
    outputs: Arrays
    agreements: dict[str, Agreement]
    versions: dict[str, str]

    @property
    def bit_equal(self) -> bool:
        """Whether every output is the host's, bit by bit."""
        return all(entry.bit_equal for entry in self.agreements.values())

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values, without the outputs themselves."""
        return {
            "cpu": self.cpu,
            "host": platform.machine(),
            "versions": self.versions,
            "bit_equal": self.bit_equal,
            "agreements": {name: entry.to_json() for name, entry in self.agreements.items()},
        }

    def describe(self) -> str:
        """As lines for a terminal."""
        width = max(map(len, self.agreements), default=0)
        lines = [f"  {name:{width}}  {entry.describe()}" for name, entry in self.agreements.items()]
        return "\n".join([self.cpu, *lines])


def read_inputs(path: Path) -> Arrays:
    """Read arrays by name from an .npz file; InputError when it is none, or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array; write it by numpy.savez(path, input_name=array)")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no .npz file of arrays: {error}") from error


def compare_model(
    installation: Installation,
    model: str | Path,
    inputs: Arrays,
    cpus: Sequence[str],
    *,
    batch: int | None = None,
    threads: int = 1,
    timeout: float | None = None,
) -> list[ModelComparison]:
    """Run ``model`` (an ONNX file) on the host, then on each of ``cpus``, and compare all outputs.

    Args:
        installation: what :func:`~edgepress.targets.emulator.setup` returned.
        model: the file; its external data is found beside it.
        inputs: an array for each input.
        cpus: processors to emulate.
        batch: rows along axis 0 of all inputs that go into one run; outputs are put together again. By default all.
        threads: compute threads on either side.
        timeout: seconds that one processor may take.

    Raises:
        InputError: the model or an input cannot be used on the host, or there is no such processor.
        CheckFailed: it ran on the host and not there.

    """
    for cpu in cpus:
        check_cpu(installation, cpu)
    arguments = {"model": str(Path(model).resolve()), "batch": batch, "threads": threads}
    _, expected = run_model(arguments, inputs)
    found = []
    for cpu in cpus:
        try:
            [(_, outputs)] = run(installation, cpu, [Call(run_model, arguments, inputs)], timeout=timeout)
        except InputError as error:
            raise CheckFailed(f"runs on the host and not on {cpu}: {error}") from error
        pairs = {name: agreement(expected[name], outputs[name]) for name in expected}
        found.append(ModelComparison(cpu, outputs, pairs, versions_on(installation, cpu)))
    return found


@dataclass(frozen=True)
class ModelCost:
    """Instructions that one run of a model takes on one processor, with one thread, after a first run."""

    cpu: str
    instructions: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """As lines for a terminal."""
        return f"{self.cpu}\n  run  {self.instructions:,} instructions"


def count_model(
    installation: Installation,
    system: System,
    model: str | Path,
    inputs: Arrays,
    cpus: Sequence[str],
    *,
    timeout: float | None = None,
) -> list[ModelCost]:
    """Count the instructions of one run of ``model`` on all of ``inputs``, on emulated machines.

    External data has to lie beside the model in files whose names begin with the model's name, less its suffix.
    Arguments and errors are otherwise those of :func:`compare_model`.
    """
    path = Path(model).resolve()
    if not path.is_file():
        raise InputError(f"{model} is not there; give an ONNX file")
    files = {
        f"model/{file.name}": file for file in sorted(path.parent.glob(f"{glob.escape(path.stem)}*")) if file.is_file()
    }
    call = Call(count_run, {"model": f"/model/{path.name}"}, inputs)
    found = []
    for cpu in cpus:
        [told] = boot(installation, system, cpu, [call], files, timeout=timeout)
        found.append(ModelCost(cpu, told["instructions"], installation.versions | system.versions))
    return found


def count_run(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Nanoseconds of this machine's clock for the second run of a model."""
    model = arguments["model"]
    try:
        session = open_on_cpu(model, session_options(1))
        session.run(None, arrays)
        start = perf_counter_ns()
        session.run(None, arrays)
        return {"instructions": perf_counter_ns() - start}, {}
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{model}: {error}") from error


def _run_all(model: str, options: "SessionOptions", batches: Sequence[Arrays]) -> tuple[list[str], list[list[Any]]]:
    """Names of the outputs, and the outputs of each batch."""
    session = open_on_cpu(model, options)
    names = [output.name for output in session.get_outputs()]
    try:
        return names, [session.run(names, fed) for fed in batches]
    except Exception:
        if not saturates():
            raise
        session = open_unfused(model, options)
        return names, [session.run(names, fed) for fed in batches]


def run_model(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Run the model on the machine that this is called on; every output by its name."""
    model, batch = arguments["model"], arguments["batch"]
    rows = {len(array) if array.ndim else 0 for array in arrays.values()}
    if batch is not None and (batch < 1 or len(rows) != 1):
        raise InputError(
            f"batch is {batch} and inputs have {sorted(rows)} rows; give 1 or more, and inputs of one length"
        )
    count = max(rows) if batch is not None else 1
    step = count if batch is None else batch
    batches = [
        arrays if batch is None else {name: array[start : start + batch] for name, array in arrays.items()}
        for start in range(0, count, step)
    ]
    try:
        names, parts = _run_all(model, session_options(arguments["threads"]), batches)
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{model}: {error}") from error
    outputs = {}
    for index, name in enumerate(names):
        pieces = [part[index] for part in parts]
        if not all(isinstance(piece, np.ndarray) and not piece.dtype.hasobject for piece in pieces):
            raise InputError(f"{model}: output {name} is not an array of numbers; only such can be compared")
        outputs[name] = pieces[0] if batch is None else np.concatenate(pieces)
    return {}, outputs
