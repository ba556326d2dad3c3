"""Size of a graph once its functions are inlined, counted before onnxruntime does that.

Ten functions that call each other twice make a thousand nodes.

onnxruntime takes time with the square of the nodes: 16,000 take half a minute.
Other exporters write functions; ours does not. Field numbers are those of onnx.proto3.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edgepress.errors import InputError
from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.protobuf import Message

MOST_NODES = 8192  # that calls of functions become
_LARGEST = 1 << 28  # bytes of a graph that has functions: its weights are files of their own
_GRAPH, _FUNCTION = 7, 25  # fields of ModelProto
_SHOWN = 100  # characters of a name in a message
_Name = tuple[str, str, str]  # domain, name, overload


def check_functions(model: Path) -> None:
    """Refuse a graph file whose functions become more than ``MOST_NODES`` nodes; only files with functions are read.

    Raises:
        InputError: they become more, a function calls itself, or the file is not protobuf.

    """
    try:
        calls, functions = _read(model)
        sizes: dict[_Name, int] = {}
        nodes = sum(_size(call, functions, sizes, ()) for call in calls if call in functions)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{model} is damaged ({error}); export the bundle again") from error
    if nodes > MOST_NODES:
        raise InputError(
            f"{model}: calls of its functions become {min(nodes, 10**12):,} nodes, and {MOST_NODES:,} is the most "
            "that is opened; inline the functions (onnx.inliner), or export the bundle again"
        )


def _read(model: Path) -> tuple[list[_Name], dict[_Name, list[_Name]]]:
    """What the graph calls, and what each function does; nothing of a graph without functions."""
    if not model.stat().st_size:
        raise ValueError("it is empty")
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = [(number, start, end) for number, _, start, end in pb.places(data) if number in (_GRAPH, _FUNCTION)]
        if all(number == _GRAPH for number, _, _ in parts):
            return [], {}
        if sum(end - start for _, start, end in parts) > _LARGEST:
            raise ValueError(f"a graph with functions takes more than {_LARGEST:,} bytes")
        messages = [(number, pb.parse(data[start:end])) for number, start, end in parts]
    functions = {
        _name(message, domain=10, op=1, overload=13): list(_calls(pb.all_bytes(message, 7)))
        for number, message in messages
        if number == _FUNCTION
    }
    graphs = [message for number, message in messages if number == _GRAPH]
    return [call for graph in graphs for call in _calls(pb.all_bytes(graph, 1))], functions


def _calls(nodes: Iterable[bytes]) -> Iterator[_Name]:
    """The operator of each NodeProto, and of those in its branches and bodies."""
    for data in nodes:
        node = pb.parse(data)
        yield _name(node, domain=7, op=4, overload=8)
        for attribute in map(pb.parse, pb.all_bytes(node, 5)):
            for graph in (*pb.all_bytes(attribute, 6), *pb.all_bytes(attribute, 11)):
                yield from _calls(pb.all_bytes(pb.parse(graph), 1))


def _name(message: Message, *, domain: int, op: int, overload: int) -> _Name:
    return (pb.one_text(message, domain), pb.one_text(message, op), pb.one_text(message, overload))


def _size(
    name: _Name, functions: Mapping[_Name, list[_Name]], sizes: dict[_Name, int], callers: tuple[_Name, ...]
) -> int:
    """How many nodes a call of ``name`` becomes; each function is counted once."""
    if name in callers:
        raise ValueError(f"the function {name[1][:_SHOWN]!r} calls itself")
    if name not in functions:
        return 1
    if name not in sizes:
        sizes[name] = sum(_size(call, functions, sizes, (*callers, name)) for call in functions[name])
    return sizes[name]
