"""What arm_ideas.py and arm_half.py run inside an emulated machine: a model, and what it costs."""

import ctypes
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgepress.calls.guest import Answer, Arrays
from edgepress.runtime.sessions.buffers import to_value
from edgepress.sessions import open_on_cpu, session_options

ROUNDS = 3  # that are counted, after one that is not


def count_bound(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Fewest instructions of a run; ``shared`` names the outputs that are written where an input lies.

    ``entries`` are of onnxruntime's session configuration.
    """
    options = session_options(1)
    for name, value in arguments["entries"].items():
        options.add_session_config_entry(name, value)
    session = open_on_cpu(arguments["model"], options)
    binding, values = session.io_binding(), {name: to_value(array) for name, array in arrays.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    names = [value.name for value in session.get_outputs()]
    for name in names:
        if name in arguments["shared"]:
            binding.bind_ortvalue_output(name, values[arguments["shared"][name]])
        else:
            binding.bind_output(name)
    session.run_with_iobinding(binding)
    for name, value in zip(names, binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(name, value)
    session.run_with_iobinding(binding)
    counts = []
    for _ in range(ROUNDS):
        start = perf_counter_ns()
        session.run_with_iobinding(binding)
        counts.append(perf_counter_ns() - start)
    return {"instructions": min(counts)}, {}


def count_model(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Instructions of a model's second run, bytes of memory that it takes, and the worst SQNR of its outputs in dB.

    Arrays whose names begin with ``expected.`` are what outputs are held against, all others what goes in. Memory is
    what the process has more of, after that run, than before the file was opened, of its own: what is mapped from files
    is not in it.
    """
    truth = {name.removeprefix("expected."): value for name, value in arrays.items() if name.startswith("expected.")}
    feed = {name: value for name, value in arrays.items() if not name.startswith("expected.")}
    before = _own_memory()
    session = open_on_cpu(arguments["model"], session_options(1))
    session.run(list(truth), feed)
    start = perf_counter_ns()
    found = session.run(list(truth), feed)
    instructions, memory = perf_counter_ns() - start, _own_memory() - before
    ratios = [_sqnr(value, np.asarray(seen)) for value, seen in zip(truth.values(), found, strict=True)]
    return {"instructions": instructions, "memory": memory, "sqnr_db": min(ratios)}, {}


def _own_memory() -> int:
    """Bytes of this process that no file holds, after the allocator has given back what nobody uses."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _sqnr(truth: np.ndarray, seen: np.ndarray) -> float:
    wide = truth.astype(np.float64)
    return float(10 * np.log10(np.square(wide).sum() / max(np.square(seen - wide).sum(), 1e-30)))
