"""Reading any ONNX file safely: what cannot be used is refused with one clear error, before onnxruntime sees it.

Weights in external data files are never read; only that they are there, inside the model's folder, and long enough.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from edgepress.disk.file_kinds import GGUF, HEAD, ONNX, ORT, SAFETENSORS, ZIP, kind_of
from edgepress.errors import InputError
from edgepress.onnx_graph.functions import inline_functions
from edgepress.onnx_graph.headers import assumed_opset, known_operators
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.walk import all_nodes, given, normal_domain, opsets_of, read_by, scopes, tensors

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message may have; more has to be in external data (protobuf's encoding specification)."""

_CONVERT = {
    ORT: "which keeps no node as it was written; name the .onnx it came from",
    ZIP: "as PyTorch's checkpoints are; export it to ONNX first",
    GGUF: "not an ONNX model; name the bundle that is exported from the checkpoint which it was converted from",
    SAFETENSORS: "weights without a graph; name the bundle that is exported from them",
}


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in ``path`` (an .onnx file), its functions inlined and its external data unread.

    Raises:
        InputError: it is no ONNX model, truncated, over protobuf's 2 GiB or in ORT format; external data is missing,
            too short or outside the folder; the graph has a cycle, a value nobody makes or two nodes make; an operator
            or a domain is unknown.

    """
    model = parse_model(path)
    _check_header(path, model)
    reader = TensorReader(path)
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            reader.region(tensor)
    model = inline_functions(path, model)
    _name_assumed_opsets(model)
    versions = opsets_of(model)
    for name, graph, outer in scopes(model.graph):
        _check_operators(path, graph, versions)
        _check_order(path, name, graph, outer)
    return model


def parse_model(path: Path) -> onnx.ModelProto:
    """Return the model in ``path`` as it is written, its external data unread and nothing but its text looked at.

    Raises:
        InputError: it is no ONNX file, truncated, over protobuf's 2 GiB or in ORT format.

    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty")
        with path.open("rb") as file:
            kind = kind_of(path, file.read(HEAD))
        if kind is not None and kind != ONNX:
            raise InputError(f"{path} is {kind}, {_CONVERT.get(kind, 'not an ONNX model; name an .onnx file')}")
        if size > PROTOBUF_LIMIT:
            raise InputError(
                f"{path} has {size:,} bytes, more than protobuf's {PROTOBUF_LIMIT:,}; "
                "save it with its weights as external data"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{path} ({size:,} bytes) is no ONNX model, or is truncated or damaged: {error}") from error
    _check_text(path, model)
    return model


def _check_text(path: Path, message: Message) -> None:
    """Refuse names that are no text: protobuf hands them out as bytes, when they are looked at."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise InputError(f"{path} is damaged: a {field.name} in it is no UTF-8 text ({text[:40]!r})")
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _check_text(path, inner)


def _check_header(path: Path, model: onnx.ModelProto) -> None:
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        raise InputError(f"{path} is no ONNX model, or is truncated: it has no IR version, graph or nodes")
    if not model.opset_import:
        raise InputError(f"{path} names no opset; every ONNX model since IR version 3 must")
    newest = onnx.IR_VERSION
    if model.ir_version > newest:
        raise InputError(
            f"{path} has IR version {model.ir_version}, newer than {newest} which onnx {onnx.__version__} has"
        )


def gather_external_data(path: Path, model: onnx.ModelProto) -> Path:
    """The folder from which a copy of ``model``, read from ``path``, finds its external data; changes its locations.

    onnxruntime follows no link out of that folder, and the hub's cache consists of such links.
    """
    places = [entry for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"]
    files = {entry.value: (path.parent / entry.value).resolve() for entry in places}
    folder = path.parent.resolve()
    if not all(file.is_relative_to(folder) for file in files.values()):
        folder = Path(os.path.commonpath([file.parent for file in files.values()]))
        for entry in places:
            entry.value = files[entry.value].relative_to(folder).as_posix()
    return folder


def _name_assumed_opsets(model: onnx.ModelProto) -> None:
    """Name the opsets that onnxruntime assumes for domains that are used and not named, where it knows the domain."""
    used = {normal_domain(node.domain) for node in all_nodes(model.graph.node)}
    for domain in sorted(used - opsets_of(model).keys()):
        if version := assumed_opset(domain):
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def _check_operators(path: Path, graph: onnx.GraphProto, versions: Mapping[str, int]) -> None:
    for node in graph.node:
        domain = normal_domain(node.domain)
        called = f"{path}: node {node.name or list(node.output)!r} is {node.op_type!r}"
        imported = versions.get(domain)
        known = known_operators().get((domain, node.op_type))
        if known is None:
            if domain not in {known_domain for known_domain, _ in known_operators()}:
                raise InputError(f"{called} of the unknown domain {domain!r}; it needs a library of custom operators")
            raise InputError(f"{called}, which neither ONNX nor onnxruntime defines in {domain or 'ai.onnx'!r}")
        if imported is None:
            raise InputError(f"{called} of the domain {domain or 'ai.onnx'!r}, whose opset the model does not name")
        if imported < known[0]:
            raise InputError(f"{called}, new in opset {known[0]} of {domain or 'ai.onnx'!r}; the model has {imported}")


def _check_order(path: Path, name: str, graph: onnx.GraphProto, outer: frozenset[str]) -> None:
    """Hold a graph to what onnxruntime needs: each value is made once, by a node that can come before its users."""
    where = f"{path}{': in ' + name.rstrip('/') if name else ''}"
    made: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for output in filter(None, node.output):
            if output in made:
                raise InputError(f"{where}: {output!r} is made by two nodes; every value must be made once")
            made[output] = index
    ready = outer | given(graph)
    needs: list[set[int]] = []
    users: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        before = set()
        for value in read_by(node):
            if value in made:
                before.add(made[value])
            elif value not in ready:
                raise InputError(f"{where}: node {_called(node)} reads {value!r}, which nothing makes")
        needs.append(before)
        for producer in before:
            users.setdefault(producer, []).append(index)
    _check_acyclic(where, graph, needs, users)
    for value in graph.output:
        if value.name not in made and value.name not in ready:
            raise InputError(f"{where}: the output {value.name!r} is made by nothing")


def _check_acyclic(where: str, graph: onnx.GraphProto, needs: list[set[int]], users: dict[int, list[int]]) -> None:
    waiting = [len(before) for before in needs]
    queue = [index for index, count in enumerate(waiting) if count == 0]
    done = 0
    while queue:
        done += 1
        for user in users.get(queue.pop(), []):
            waiting[user] -= 1
            if waiting[user] == 0:
                queue.append(user)
    if done == len(needs):
        return
    at = next(index for index, count in enumerate(waiting) if count)
    seen: dict[int, None] = {}
    while at not in seen:  # a node that waits has one before it that waits: going back must come around
        seen[at] = None
        at = next(producer for producer in sorted(needs[at]) if waiting[producer])
    around = list(seen)
    cycle = [_called(graph.node[index]) for index in reversed(around[around.index(at) :])]
    shown = " → ".join([*cycle[:6], *(["…"] if len(cycle) > 6 else [])])
    raise InputError(f"{where}: the graph has a cycle of {len(cycle)} nodes: {shown}")


def _called(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)
