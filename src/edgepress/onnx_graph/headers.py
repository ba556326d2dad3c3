"""IR versions, opsets and operators that the installed onnxruntime reads: it is asked, with models of one node."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import onnx

from edgepress.sessions import open_on_cpu

Opsets = tuple[tuple[str, int], ...]
"""Domains and their versions."""


@cache
def refused_header(ir_version: int, opsets: Opsets) -> str:
    """Why the installed onnxruntime refuses every model of this IR version and these opsets; ``""`` when it does not.

    Asked with a model of one Identity, once for the IR version and once for each opset.
    """
    import onnxruntime

    ours = {"": 17}  # what every onnxruntime of today reads
    if _refusal(ir_version, ours):
        return f"onnxruntime {onnxruntime.__version__} does not read IR version {ir_version}"
    for domain, version in opsets:
        if words := _refusal(8, ours | {domain: version}):
            newest = re.search(r"till opset (\d+)", words)
            reads = f"; it reads up to {newest[1]}" if newest else ""
            return (
                f"onnxruntime {onnxruntime.__version__} does not read opset {version} of {domain or 'ai.onnx'}{reads}"
            )
    return ""


@cache
def assumed_opset(domain: str) -> int:
    """The opset that onnxruntime assumes for a domain that a model uses and does not name: its newest; 0 for none."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    versions = {schema.since_version for schema in state.get_all_operator_schema() if schema.domain == domain}
    return next(
        (version for version in sorted(versions, reverse=True) if not _refusal(8, {"": 17, domain: version})), 0
    )


@cache
def known_operators() -> Mapping[tuple[str, str], tuple[int, ...]]:
    """The opset versions in which ONNX or onnxruntime define each (domain, operator)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], set[int]] = {}
    for schema in [*state.get_all_operator_schema(), *onnx.defs.get_all_schemas_with_history()]:
        found.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    return {key: tuple(sorted(versions)) for key, versions in found.items()}


@cache
def schemas() -> Mapping[tuple[str, str], Sequence[Any]]:
    """onnxruntime's schemas of each (domain, operator), oldest first."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in sorted(state.get_all_operator_schema(), key=lambda schema: schema.since_version):
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def _refusal(ir_version: int, opsets: Mapping[str, int]) -> str:
    """What onnxruntime says when it refuses a model of one Identity."""
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", tensor[:1], tensor[1:])
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, ir_version=ir_version, opset_imports=imports)
    try:
        open_on_cpu(model.SerializeToString())
    except Exception as error:  # onnxruntime's exceptions have no common type
        return str(error)
    return ""
