"""onnxruntime on emulated processors, set up without root, compared with the host: arm64, and x86-64 on such a host.

    from edgepress.targets.emulator import compare_model, setup

    [found] = compare_model(setup(), "model.onnx", {"input": images}, ["cortex-a76"])
    assert found.bit_equal

Which kernels onnxruntime takes depends on what the processor can do, so a model may compute other numbers on a phone
than on the machine that it was tested on. ``edgepress.runtime.measures.emulated`` does the same with bundles. What an
emulator cannot tell is time; it counts instructions, when ``setup_system`` has fetched what that needs.
"""

from edgepress.calls import Call
from edgepress.targets.emulator.agreement import Agreement, agreement
from edgepress.targets.emulator.install import emulator_directory, find, find_system, setup, setup_system
from edgepress.targets.emulator.installation import Installation, System
from edgepress.targets.emulator.machine import processors, run
from edgepress.targets.emulator.model import ModelComparison, ModelCost, compare_model, count_model, read_inputs
from edgepress.targets.emulator.packages import CPUS

__all__ = [
    "CPUS",
    "Agreement",
    "Call",
    "Installation",
    "ModelComparison",
    "ModelCost",
    "System",
    "agreement",
    "compare_model",
    "count_model",
    "emulator_directory",
    "find",
    "find_system",
    "processors",
    "read_inputs",
    "run",
    "setup",
    "setup_system",
]
