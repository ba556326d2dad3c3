"""What arm_ideas.py runs inside an emulated machine: a model whose inputs and outputs lie in memory of their own."""

from time import perf_counter_ns
from typing import Any

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
