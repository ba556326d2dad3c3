"""onnxruntime's kernel registry on the emulated processor: which kernels there are depends on the CPU."""

from typing import Any

from edgepress.calls.guest import Answer, Arrays


def kernels(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Return ``kernels``: for each of the CPU provider domain, operator, versions, and types by type parameter."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [
        [kernel.domain, kernel.op_name, *kernel.version_range, dict(kernel.type_constraints)]
        for kernel in state.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
    ]
    return {"kernels": found}, {}
