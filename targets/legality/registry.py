"""What onnxruntime's kernel registry says: each node against the kernels of its operator, by version and by type."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from edgepress.onnx_graph.view import Node, Value, formal_types, schema_of, view
from edgepress.targets import CPU, Kernel, kernels_of
from edgepress.targets.legality import signature
from edgepress.targets.legality.report import Cause, Placement

_FLOAT, _HALF = "tensor(float)", "tensor(float16)"
_OPEN = 2**31 - 1  # the end of a range of versions that has none


def place(node: Node, provider: str = CPU) -> Placement:
    """Say whether the CPU provider runs ``node``: it has a kernel of its operator, opset version and every type.

    Three cases have no kernel and run all the same, as onnxruntime's graph transformations arrange it: a Constant
    becomes an initializer, a float16 node without a float16 kernel is run in float32 between casts, and an operator
    that ONNX defines by others is replaced by them.
    """
    unopened = signature.refused(node)
    if unopened is not None:
        return unopened
    kernels = kernels_of(provider, node.domain, node.op)
    fitting = [kernel for kernel in kernels if _fits(kernel, node)]
    types = _types(node)
    admitted = any(_admits(kernel, types) or _admits(kernel, _in_float(types)) for kernel in fitting)
    if node.key == "ai.onnx:Constant" or admitted or _runs_expanded(node, provider):
        return Placement(node.name, node.op, node.domain, provider)
    cause: Cause
    if not kernels:
        cause, reason = "op", f"{provider} has no kernel of {node.key}"
        change = _other_domain(node, provider)
    elif not fitting:
        have = ", ".join(dict.fromkeys(_range(kernel) for kernel in sorted(kernels, key=lambda kernel: kernel.low)))
        cause, reason = "version", f"{node.key} is of opset {_since(node)}; {provider} has kernels for {have}"
        change = "convert the model to one of these opsets"
    else:
        cause, (reason, change) = "dtype", _type_reason(node, provider, fitting, types)
    return Placement(node.name, node.op, node.domain, "", cause, reason, change)


def needs_casts(node: Node, provider: str = CPU) -> bool:
    """Whether a float16 node has kernels of float32 only, so that onnxruntime casts its inputs and outputs."""
    types = _types(node)
    if _HALF not in types.values():
        return False
    kernels = [kernel for kernel in kernels_of(provider, node.domain, node.op) if _fits(kernel, node)]
    return not any(_admits(kernel, types) for kernel in kernels) and any(
        _admits(kernel, _in_float(types)) for kernel in kernels
    )


def _fits(kernel: Kernel, node: Node) -> bool:
    """onnxruntime's own rule (KernelRegistry::VerifyKernelDef): an open range is of its first version only."""
    return kernel.low == _since(node) or (kernel.low < _since(node) <= kernel.high < _OPEN)


def _since(node: Node) -> int:
    """onnxruntime matches kernels by the version in which the operator last changed."""
    schema = schema_of(node)
    return node.version if schema is None else int(schema.since_version)


def _types(node: Node) -> dict[str, str]:
    """The known types of a node by the schema's type parameters."""
    schema = schema_of(node)
    if schema is None:
        return {}
    pairs = [*formal_types(schema.inputs, node.inputs), *formal_types(schema.outputs, node.outputs)]
    return {parameter: value.type for parameter, value in pairs if value.type}


def _in_float(types: Mapping[str, str]) -> dict[str, str]:
    return {name: _FLOAT if kind == _HALF else kind for name, kind in types.items()}


def _admits(kernel: Kernel, types: Mapping[str, str]) -> bool:
    return not _refused(kernel, types)


def _refused(kernel: Kernel, types: Mapping[str, str]) -> list[str]:
    """The type parameters whose types a kernel does not admit."""
    return [name for name, allowed in kernel.constraints.items() if name in types and types[name] not in allowed]


def _type_reason(node: Node, provider: str, kernels: Sequence[Kernel], types: Mapping[str, str]) -> tuple[str, str]:
    """Why no kernel admits the node's types, by the kernels that refuse fewest, and what they would admit."""
    fewest = min(len(_refused(kernel, types)) for kernel in kernels)
    nearest = [kernel for kernel in kernels if len(_refused(kernel, types)) == fewest]
    parameter = _refused(nearest[0], types)[0]
    admitted = sorted({kind for kernel in nearest for kind in kernel.constraints.get(parameter, ())})
    have = ", ".join(map(short_type, admitted))
    reason = f"{provider} has no kernel of {node.key} with {parameter} = {short_type(types[parameter])}; it has {have}"
    return reason, f"cast to {short_type(_nearest(types[parameter], admitted))} before it"


def short_type(kind: str) -> str:
    """``tensor(float)`` as ``float``."""
    return kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind


def _nearest(kind: str, admitted: Sequence[str]) -> str:
    """The admitted type that a cast would lose least by: integers stay integers where they can."""
    floats, integers = [_FLOAT, "tensor(double)"], ["tensor(int32)", "tensor(int64)"]
    preferred = [*integers, *floats] if "int" in kind or "bool" in kind else [*floats, *integers]
    return next((name for name in preferred if name in admitted), admitted[0])


def _other_domain(node: Node, provider: str) -> str:
    for domain in ("", "com.microsoft"):
        if domain != node.domain and kernels_of(provider, domain, node.op):
            return f"write it as {domain or 'ai.onnx'}:{node.op}"
    return "write it with operators that have kernels"


def _range(kernel: Kernel) -> str:
    return str(kernel.low) if kernel.high in {kernel.low, _OPEN} else f"{kernel.low}–{kernel.high}"


def _runs_expanded(node: Node, provider: str) -> bool:
    """Whether ONNX defines the operator by others, all of which run."""
    nodes = list(expand(node)) if schema_of(node) is not None else []
    return bool(nodes) and all(place(inner, provider).runs_on for inner in nodes)


def expand(node: Node) -> Iterator[Node]:
    """Yield the nodes by which ONNX defines a node's operator; none when it is a primitive one."""
    function = _function(node)
    if function is None:
        return
    local = "edgepress.expanded"
    function.domain, function.name = local, node.op
    call = onnx.NodeProto()
    call.CopyFrom(node.proto)
    call.domain = local
    graph = onnx.GraphProto(name="expanded", node=[call])
    graph.input.extend(_info(value) for value in {value.name: value for value in node.inputs if value}.values())
    graph.output.extend(_info(value) for value in node.outputs if value)
    model = onnx.ModelProto(ir_version=10, graph=graph, functions=[function])
    model.opset_import.extend([*function.opset_import, onnx.helper.make_opsetid(local, 1)])
    try:
        inlined = inliner.inline_local_functions(model)
    except (RuntimeError, ValueError):  # what cannot be inlined, onnxruntime cannot run either
        return
    for part in view(inlined):
        yield from part.nodes


def _function(node: Node) -> onnx.FunctionProto | None:
    try:
        schema: Any = onnx.defs.get_schema(node.op, node.version, node.domain)  # its stubs leave functions out
        if schema.has_function:
            function = onnx.FunctionProto()
            function.CopyFrom(schema.function_body)
            return function
        if schema.has_context_dependent_function:
            types = [_type(value).SerializeToString() if value else b"" for value in node.inputs]
            body: bytes = schema.get_context_dependent_function(node.proto.SerializeToString(), types)
            function = onnx.FunctionProto()
            function.ParseFromString(body)
            return function
    except (RuntimeError, ValueError, onnx.defs.SchemaError, DecodeError):  # the node does not fit a schema
        return None
    return None


def _type(value: Value) -> onnx.TypeProto:
    """The value's type as ONNX writes it; what is no known tensor or sequence of them is left undefined."""
    if value.type.startswith("seq("):
        inner = Value(value.name, value.type.removeprefix("seq(").removesuffix(")"))
        return onnx.helper.make_sequence_type_proto(_type(inner))
    number = onnx.TensorProto.DataType.Value(short_type(value.type).upper()) if value.type.startswith("tensor(") else 0
    return onnx.helper.make_tensor_type_proto(number, value.shape)


def _info(value: Value) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=value.name, type=_type(value))
