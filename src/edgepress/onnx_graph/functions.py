"""Functions that a model brings with it: held to a size, then written out where they are called.

onnxruntime computes the nodes of a function by the model's opset, whichever the function names. ONNX's inliner writes
a function out only where both are the same, so they are made the same first.
"""

from pathlib import Path

import onnx
from onnx import inliner

from edgepress.errors import InputError
from edgepress.onnx_graph.headers import refused_header
from edgepress.onnx_graph.walk import all_nodes, opsets_of

MOST_NODES = 1_000_000
"""Nodes that a model may have once its functions are written out."""

_DEEPEST = 100  # calls within calls: both inliners recurse

_Key = tuple[str, str, str]  # domain, name, overload


def inline_functions(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with every call of its own functions replaced by the nodes of the function.

    Raises:
        InputError: a function calls itself, they come to more than :data:`MOST_NODES` nodes or call too deeply, one is
            called from a domain whose opset the model does not name, or a call does not fit its function.

    """
    if not model.functions:
        return model
    _check_size(path, model)
    imported = opsets_of(model)
    unnamed = next((function for function in model.functions if function.domain not in imported), None)
    if unnamed is not None:
        raise InputError(f"{path}: the model names no opset for {unnamed.domain!r}, the domain of {unnamed.name!r}")
    for function in model.functions:
        refused = refused_header(model.ir_version, tuple(sorted(opsets_of(function).items())))
        if refused:
            raise InputError(f"{path}: function {function.name!r} of {function.domain!r}: {refused}")
    model = _with_one_opset(model)
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx raises several types that have no common one
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: the model's functions cannot be inlined: {words}") from error


def _called(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _check_size(path: Path, model: onnx.ModelProto) -> None:
    """Count nodes without writing any function out: twenty functions that call each other twice make a million."""
    bodies: dict[_Key, list[_Key]] = {}
    for function in model.functions:
        bodies[_called(function)] = [(node.domain, node.op_type, node.overload) for node in all_nodes(function.node)]
    counts: dict[_Key, tuple[int, int]] = {}  # nodes that a call comes to, and how deep it calls
    for start in bodies:
        waiting = [start]
        while waiting:
            key = waiting[-1]
            inner = {call for call in bodies[key] if call in bodies}
            unknown = [call for call in inner if call not in counts]
            if not unknown:
                waiting.pop()
                total = sum(counts[call][0] if call in counts else 1 for call in bodies[key])
                counts[key] = (total, 1 + max((counts[call][1] for call in inner), default=0))
            elif any(call in waiting for call in unknown) or len(waiting) > _DEEPEST:
                raise InputError(
                    f"{path}: the function {key[1]!r} of {key[0]!r} calls itself, or functions more than {_DEEPEST} "
                    "deep; no session can be made of it"
                )
            else:
                waiting.append(unknown[0])
    calls = [(node.domain, node.op_type, node.overload) for node in all_nodes(model.graph.node)]
    nodes = sum(counts[call][0] if call in counts else 1 for call in calls)
    if nodes > MOST_NODES or any(deep > _DEEPEST for _, deep in counts.values()):
        raise InputError(
            f"{path}: with its functions written out the model has {nodes:,} nodes; at most {MOST_NODES:,} are checked"
        )


def _with_one_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model and its functions with one list of opsets: the model's, and domains that only functions name."""
    versions = opsets_of(model)
    for function in model.functions:
        versions = opsets_of(function) | versions
    uniform = onnx.ModelProto()
    uniform.CopyFrom(model)
    for message in (uniform, *uniform.functions):
        del message.opset_import[:]
        message.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    return uniform
