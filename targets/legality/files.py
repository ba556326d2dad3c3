"""Reading any ONNX file safely: what cannot be used is refused with one clear error, before onnxruntime sees it.

Weights in external data files are never read; only that they are there, inside the model's folder, and long enough.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from edgepress.errors import InputError
from edgepress.file_kinds import GGUF, HEAD, ONNX, ORT, SAFETENSORS, ZIP, kind_of
from edgepress.hub_layout import is_hub_link
from edgepress.manifest import check_links
from edgepress.pointers import refuse_pointer
from edgepress.targets.legality.functions import inline_functions
from edgepress.targets.legality.headers import assumed_opset, normal_domain, opsets_of

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message may have; more has to be in external data (protobuf's encoding specification)."""

_CONVERT = {
    ORT: "which keeps no node as it was written; check the .onnx it came from",
    ZIP: "as PyTorch's checkpoints are; export it to ONNX first",
    GGUF: "not an ONNX model; check the bundle that is exported from the checkpoint which it was converted from",
    SAFETENSORS: "weights without a graph; check the bundle that is exported from them",
}
_SMALL = 1024  # bytes of a data file that may be a git-lfs pointer


def find_models(path: Path, target: str) -> list[Path]:
    """Return the ONNX files that ``path`` means on ``target``.

    A file means itself. A bundle means the graphs in the folder of the target's name where it has such a folder, with
    .onnx files in it, and else ``model.onnx``.

    Raises:
        InputError: there is nothing at ``path``, or no model in the directory.

    """
    if path.is_dir():
        own = sorted((path / target).glob("*.onnx"))
        models = own or [path / "model.onnx"]
        if not models[0].is_file():
            raise InputError(f"{path} has no model.onnx; name a bundle or an .onnx file")
        check_links(path, models)
        return models
    if not path.exists():
        raise InputError(f"{path} does not exist; name a bundle or an .onnx file")
    if not path.is_file():
        raise InputError(f"{path} is no regular file; name a bundle or an .onnx file")
    return [path]


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in ``path`` (an .onnx file), its functions inlined and its external data unread.

    Raises:
        InputError: it is no ONNX model, truncated, over protobuf's 2 GiB or in ORT format; external data is missing,
            too short or outside the folder; the graph has a cycle, a value nobody makes or two nodes make; an operator
            or a domain is unknown.

    """
    model = _parse(path)
    _check_header(path, model)
    _check_external_data(path, model)
    model = inline_functions(path, model)
    _name_assumed_opsets(model)
    versions = opsets_of(model)
    for name, graph, outer in _graphs(model.graph):
        _check_operators(path, graph, versions)
        _check_order(path, name, graph, outer)
    return model


def _parse(path: Path) -> onnx.ModelProto:
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
        raise InputError(f"{path}: {error.strerror or error}") from error
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


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    for _, graph, _ in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _tensors_of(graph.node)
    for function in model.functions:
        yield from _tensors_of(function.node)


def _tensors_of(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_external_data(path: Path, model: onnx.ModelProto) -> None:
    sizes: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _external_size(path, tensor.name, location)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
        except ValueError:
            raise InputError(f"{path}: tensor {tensor.name!r} has an offset or length that is no number") from None
        if min(offset, length) < 0:
            raise InputError(f"{path}: tensor {tensor.name!r} has a negative offset or length ({offset}, {length})")
        end = offset + length
        if end > sizes[location]:
            raise InputError(
                f"{path}: tensor {tensor.name!r} ends at byte {end:,} of {location!r}, which has {sizes[location]:,}; "
                "the data file is truncated or belongs to another model"
            )


def _external_size(path: Path, tensor: str, location: str) -> int:
    """Size of an external data file that lies in the model's folder, or is the hub cache's; all links followed."""
    where = f"{path}: tensor {tensor!r} is in {location!r}"
    if not location or "\0" in location:
        raise InputError(f"{path}: tensor {tensor!r} is external and names no file")
    if Path(location).is_absolute() or location.startswith("\\") or location[1:2] == ":":
        raise InputError(f"{where}, an absolute path; external data must lie beside the model")
    if ".." in location.replace("\\", "/").split("/"):
        raise InputError(f"{where}, outside the model's folder; external data must lie beside the model")
    try:
        file = path.parent / location
        if not os.access(file, os.R_OK) or not file.is_file():
            raise InputError(f"{where}, which is missing or unreadable; copy it beside the model")
        # As onnxruntime has it: looked for beside the name of the model, it may lie beside that or beside the file.
        real, folders = file.resolve(), (path.parent.resolve(), path.resolve().parent)
        if not any(map(real.is_relative_to, folders)) and not is_hub_link(file, path.parent):
            raise InputError(f"{where}, a link that leads outside the model's folder, to {real}")
        size = real.stat().st_size
        if size <= _SMALL:
            refuse_pointer(file, real.read_bytes())
        return size
    except (OSError, RuntimeError) as error:  # a name that is too long, or links that form a loop
        raise InputError(f"{where}: {_first_line(error)}") from error


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


def _graphs(
    graph: onnx.GraphProto, name: str = "", outer: frozenset[str] = frozenset()
) -> Iterator[tuple[str, onnx.GraphProto, frozenset[str]]]:
    """Yield a graph and all within it: where it is, the graph, and the values that it sees from outside."""
    yield name, graph, outer
    visible = outer | {value.name for value in graph.input} | {value.name for value in graph.initializer}
    visible |= {output for node in graph.node for output in node.output}
    visible |= {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for subgraph in inner:
                yield from _graphs(subgraph, f"{name}{node.name or node.op_type}/{attribute.name}/", visible)


@cache
def known_operators() -> Mapping[tuple[str, str], tuple[int, ...]]:
    """The opset versions in which ONNX or onnxruntime define each (domain, operator)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], set[int]] = {}
    for schema in [*state.get_all_operator_schema(), *onnx.defs.get_all_schemas_with_history()]:
        found.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    return {key: tuple(sorted(versions)) for key, versions in found.items()}


def _name_assumed_opsets(model: onnx.ModelProto) -> None:
    """Name the opsets that onnxruntime assumes for domains that are used and not named, where it knows the domain."""
    used = {normal_domain(node.domain) for _, graph, _ in _graphs(model.graph) for node in graph.node}
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
    ready = outer | {value.name for value in graph.input} | {value.name for value in graph.initializer}
    ready |= {sparse.values.name for sparse in graph.sparse_initializer}
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


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads: its inputs, and what its subgraphs take from outside themselves."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            own = {value.name for value in graph.input} | {value.name for value in graph.initializer}
            own |= {sparse.values.name for sparse in graph.sparse_initializer}
            own |= {output for inner in graph.node for output in inner.output}
            for inner in graph.node:
                yield from (value for value in read_by(inner) if value not in own)
            yield from (value.name for value in graph.output if value.name not in own)


def _called(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
