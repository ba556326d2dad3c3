"""How much memory a torch module takes on its way to a graph: peaks of open_callable at several sizes of weights.

Each size is a process of its own: linear layers of WIDTH × WIDTH, of which the module has some number. What the process
holds before it makes the module (torch, transformers' imports) is told apart.

    python benchmarks/door_memory.py          into results/door_memory.jsonl; prints a table (a minute)
"""

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import torch
from common import save, table

from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.ways import torch_module

WIDTH = 2048
LAYERS = (6, 24, 96)  # 101, 403 and 1,611 MB in float32
_MB = 1e6
_HERE = "DOOR_MEMORY_LAYERS"  # of the process


def module() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    """As many layers as the environment of the process says."""
    layers = [torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(int(os.environ[_HERE]))]
    return torch.nn.Sequential(*layers), (torch.randn(2, WIDTH),)


def _peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MB


def _child(send: Any, layers: int, checked: bool) -> None:
    if not checked:
        torch_module.check_agreement = lambda _traced: 0.0
    os.environ[_HERE] = "1"
    with tempfile.TemporaryDirectory() as folder:  # what libraries load when they are first used
        torch_module.open_callable("door_memory:module", Options(), Path(folder))
    before = _peak()
    os.environ[_HERE] = str(layers)
    with tempfile.TemporaryDirectory() as folder:
        torch_module.open_callable("door_memory:module", Options(), Path(folder))
    held = {"weights_mb": layers * WIDTH**2 * 4 / _MB, "before_mb": before, "peak_mb": _peak()}
    send.send({"layers": layers, "checked": checked, **held})


def measure(layers: int, checked: bool) -> Mapping[str, float]:
    """The peak of a process that opens a module of so many layers."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(send, layers, checked))
    process.start()
    send.close()
    found: Mapping[str, float] = receive.recv()
    process.join()
    return found


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The peak above what libraries take, beside the weights."""
    rows = [
        [
            f"{one['weights_mb']:,.0f} MB",
            "traced, written and run beside the module" if one["checked"] else "traced and written",
            f"{one['before_mb']:,.0f} MB",
            f"{one['peak_mb']:,.0f} MB",
            f"{(one['peak_mb'] - one['before_mb']) / one['weights_mb']:.2f}",
        ]
        for one in samples
    ]
    return table(["weights in float32", "what is done", "libraries", "peak", "peak above libraries, by weights"], rows)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    SAMPLES = [measure(layers, checked) for checked in (False, True) for layers in LAYERS]
    print(save("door_memory", SAMPLES))
    print(report(SAMPLES))
