"""What a written table of operators says of each node, and of the neighbours that decide with it."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from edgepress.errors import InputError
from edgepress.onnx_graph.view import Graph, Node, Value
from edgepress.targets import CPU, Table, Target
from edgepress.targets.legality import registry
from edgepress.targets.legality.conditions import Finding, check_sentence
from edgepress.targets.legality.partitions import partitions
from edgepress.targets.legality.registry import short_type
from edgepress.targets.legality.report import Placement

_QDQ = {"QuantizeLinear", "DequantizeLinear"}
_FIX_SHAPES = "fix the shapes of the model's inputs"


def place_all(target: Target, graphs: Sequence[Graph]) -> tuple[list[Placement], list[str]]:
    """Place every node of a model by the target's table.

    Returns:
        The placements, and the sentences of the table that bear on them and that no check covers, with their operators.

    """
    if target.table is None:
        raise TypeError(f"target {target.name} is checked by a table and has none")
    placements: list[Placement] = []
    caveats: dict[str, None] = {}
    for graph in graphs:
        findings = _findings(target.table, graph, caveats)
        for node in graph.nodes:
            placements.append(_placement(target, node, findings.get(node.name)))
    return placements, list(caveats)


def _findings(table: Table, graph: Graph, caveats: dict[str, None]) -> dict[str, Finding]:
    """Why nodes of one graph are not taken, by the node's name."""
    findings: dict[str, Finding] = {}
    shapes = _shape_values(graph)
    for node in graph.nodes:
        if node.folded:
            continue
        finding = _own_finding(table, graph, node, caveats)
        if finding is not None and not graph.path and any(value.name in shapes for value in node.outputs if value):
            finding = Finding("dynamic shape", "it computes a shape that is not fixed", _FIX_SHAPES)
        if finding is not None:
            findings[node.name] = finding
    _find_units(table, graph, findings)
    _follow_neighbours(table, graph, findings)
    _follow_fused(table, graph, findings)
    for group in partitions(graph, {node.name for node in graph.nodes} - findings.keys()):
        if len(group) == 1 and group[0].op in table.trivial:
            reason = f"{group[0].op} alone is not worth a partition; its neighbours run on the CPU"
            findings[group[0].name] = Finding("neighbour", reason, "put its neighbours on the accelerator")
    _follow_readers(graph, findings)
    return findings


def _shape_values(graph: Graph) -> set[str]:
    """Values that follow from shapes of tensors, and from nothing else that is computed."""
    found: set[str] = set()
    for node in graph.nodes:
        computed = [value.name for value in node.inputs if value and not value.constant]
        if node.op in {"Shape", "Size"} or (computed and all(name in found for name in computed)):
            found.update(value.name for value in node.outputs if value)
    return found


def _follow_readers(graph: Graph, findings: dict[str, Finding]) -> None:
    """Constants are where their readers are."""
    wanted = {name for node in graph.nodes if node.name not in findings and not node.folded for name in node.reads}
    for node in reversed(graph.nodes):
        if node.folded and not wanted & {value.name for value in node.outputs if value}:
            reason = "it is computed when the model is loaded, and read by nodes that are on the CPU"
            findings[node.name] = Finding("neighbour", reason, "put the nodes that read it on the accelerator")
        elif node.folded:
            wanted |= node.reads


def _own_finding(table: Table, graph: Graph, node: Node, caveats: dict[str, None]) -> Finding | None:
    if graph.path and not table.subgraphs:
        return Finding(
            "subgraph", "the provider takes no nodes within If, Loop or Scan", "make the branch part of the graph"
        )
    quantized = _quantized_wrongly(table, node)
    if quantized is not None:
        return quantized
    note = operators(table).get(node.key)
    if note is None:
        if node.op in _QDQ and table.quantized:
            return None  # part of the group of a quantized node: decided by its neighbours
        return _not_listed(table, node)
    found = _check_values(table, node)
    for sentence in filter(None, re.split(r"<br/>", f"{note}<br/>{table.more.get(node.key, '')}")):
        try:
            found = found or check_sentence(node, sentence.strip())
        except LookupError:
            caveats[f"{node.key}: {sentence.strip()}"] = None
    return found


def _not_listed(table: Table, node: Node) -> Finding:
    reason = f"{node.key} is not in the provider's table"
    if table.other and node.key in _read(table.other):
        return Finding("op", reason, f"{table.other_name} takes it")
    return Finding("op", reason, "write it with operators of the table")


def _quantized_wrongly(table: Table, node: Node) -> Finding | None:
    """Whether the node makes, or is fed by, quantized values of a type that the provider does not compute in."""
    kinds = {value.stored for value in node.inputs if value and value.dequantized}
    if node.op == "QuantizeLinear" and node.outputs and node.outputs[0]:
        kinds = {node.outputs[0].type}
    if node.op == "DequantizeLinear" and (source := node.input(0)):
        kinds = {source.type}
    biases = "tensor(int32)"  # whatever the activations are
    wrong = sorted(short_type(kind) for kind in kinds - {"", biases} if short_type(kind) not in table.quantized)
    if not wrong:
        return None
    if not table.quantized:
        return Finding("quantization", "the provider takes no quantized nodes (QDQ)", "use the float model")
    takes = ", ".join(sorted(table.quantized))
    return Finding("quantization", f"it is quantized to {', '.join(wrong)}; the provider takes {takes}", f"use {takes}")


def _check_values(table: Table, node: Node) -> Finding | None:
    """Hold the node's values to the provider's types, ranks and shapes."""
    values = [*filter(None, node.inputs), *filter(None, node.outputs)]
    for value in values:
        kind = short_type(value.type)
        if not value.constant and kind and kind not in table.types:
            takes = ", ".join(sorted(table.types))
            return Finding("dtype", f"{value.name!r} is {kind}; the provider takes {takes}", _type_change(kind, table))
        if value.external and not table.external:
            reason = f"{value.name!r} is in an external data file, which the provider does not read"
            return Finding("constant", reason, "save the weights inside the .onnx file")
    return next((found for value in values if (found := _check_shape(table, value))), None)


def _check_shape(table: Table, value: Value) -> Finding | None:
    if value.shape is not None and len(value.shape) > table.max_rank:
        reason = f"{value.name!r} has {len(value.shape)} dimensions; the provider takes {table.max_rank} at most"
        return Finding("rank", reason, f"reshape it to {table.max_rank} dimensions")
    if table.dynamic or value.static or value.type.startswith(("seq(", "optional(")):
        return None
    shape = (
        "an unknown rank"
        if value.shape is None
        else "×".join("?" if size is None else str(size) for size in value.shape)
    )
    return Finding("dynamic shape", f"{value.name!r} has no fixed shape ({shape})", _FIX_SHAPES)


def _type_change(kind: str, table: Table) -> str:
    wanted = {"int64": "int32", "double": "float", "float16": "float", "bfloat16": "float"}.get(kind, "float")
    return f"make it {wanted}" if wanted in table.types else "compute it before the model"


def _find_units(table: Table, graph: Graph, findings: dict[str, Finding]) -> None:
    """A node whose inputs are all dequantized and whose outputs are all quantized is computed in integers, or not."""
    if table.integers is None:
        return
    users = _users(graph)
    for node in graph.nodes:
        data, made = [value for value in node.inputs if value], [value for value in node.outputs if value]
        if node.op in _QDQ or node.op in table.integers or node.name in findings or not data or not made:
            continue
        is_unit = data[0].dequantized and all(value.dequantized or value.constant for value in data)
        if is_unit and all(_only_quantized(users.get(value.name, [])) for value in made):
            takes = ", ".join(sorted(table.integers))
            reason = f"{node.op} is between DequantizeLinear and QuantizeLinear; the provider takes {takes} so"
            findings[node.name] = Finding("quantization", reason, "leave its output in float")


def _only_quantized(users: Sequence[Node]) -> bool:
    return bool(users) and all(user.op == "QuantizeLinear" for user in users)


def _users(graph: Graph) -> dict[str, list[Node]]:
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for value in filter(None, node.inputs):
            users.setdefault(value.name, []).append(node)
    return users


def _follow_fused(table: Table, graph: Graph, findings: dict[str, Finding]) -> None:
    """What the table does not list goes with the node before it, whose only reader it is, where they are fused."""
    makers, users = {value.name: node for node in graph.nodes for value in node.outputs if value}, _users(graph)
    for node in graph.nodes:
        before = makers.get(value.name) if (value := node.input(0)) else None
        if node.op not in table.fused or before is None or before.op not in table.fused[node.op]:
            continue
        alone = sum(user.op == node.op for user in users[value.name]) == len(users[value.name]) == 1 if value else False
        limits_known = all(limit is None or limit.constant for limit in node.inputs[1:])
        if alone and limits_known and before.name not in findings and not _is_unit(before):
            findings.pop(node.name, None)


def _is_unit(node: Node) -> bool:
    return any(value.dequantized for value in node.inputs if value)


def _follow_neighbours(table: Table, graph: Graph, findings: dict[str, Finding]) -> None:
    """Q and DQ go with the node that they quantize, if the table does not list them or that node is left to the CPU."""
    makers, users = {value.name: node for node in graph.nodes for value in node.outputs if value}, _users(graph)
    units = {name for name, finding in findings.items() if finding.cause == "quantization"}
    for node in graph.nodes:
        if node.op not in _QDQ or node.name in findings:
            continue
        if node.op == "DequantizeLinear":
            around = [user for value in node.outputs if value for user in users.get(value.name, [])]
        else:
            around = [makers[value.name] for value in node.inputs[:1] if value and value.name in makers]
        listed = node.key in operators(table)  # then it stands alone too, unless a unit that is left has it
        if listed and not (around and all(other.name in units for other in around)):
            continue
        if listed or not any(other.op not in _QDQ and other.name not in findings for other in around):
            reason = f"{node.op} goes with the node that it quantizes, which is not on the accelerator"
            findings[node.name] = Finding("neighbour", reason, "put that node on the accelerator")


def _placement(target: Target, node: Node, finding: Finding | None) -> Placement:
    if finding is None:
        return Placement(node.name, node.op, node.domain, target.provider)
    runs_on = CPU if registry.place(node).runs_on else ""
    return Placement(node.name, node.op, node.domain, runs_on, finding.cause, finding.reason, finding.change)


def operators(table: Table) -> Mapping[str, str]:
    """The table's operators and notes; read from onnxruntime's wheel where the table names a file."""
    return _read(table.file) if table.file else table.operators


@cache
def _read(file: str) -> Mapping[str, str]:
    """Read one of the tables in onnxruntime's wheel: lines of ``|domain:operator|note|``.

    The files spell two operators wrongly (``ai.onnx:Argmax``, ``ai.onnx.ReduceSum``); they are meant as ONNX has them.
    """
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "tools" / "mobile_helpers" / file
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; onnxruntime's wheel has no such table any more") from error
    found = {}
    for line in lines:
        if match := re.fullmatch(r"\|\s*([\w.]+)[.:](\w+)\s*\|(.*?)\|", line.strip()):
            domain, operator, note = match.groups()
            found[f"{domain}:{_SPELLING.get(operator, operator)}"] = note.strip()
    if not found:
        raise InputError(f"{path} has no table of operators")
    return found


_SPELLING = {"Argmax": "ArgMax"}
