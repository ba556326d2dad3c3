"""A float model as other tools write it → one that can be quantized: batch norms folded, constants computed."""

import math
import re
from pathlib import Path

import onnx

from edgepress.errors import InputError
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.walk import graphs
from edgepress.sessions import open_on_cpu, session_options

_MADE = re.compile(r"_token_\d+$")
_LARGE = 1 << 30  # bytes of constants; a protobuf holds twice that


def prepare(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` as onnxruntime's basic optimization leaves it: the same function.

    Batch norms and constant scales go into the weights before them, what depends on constants alone is computed,
    nodes that do nothing disappear. Weights go beside ``target`` in ``<name>.data`` when there are more than a protobuf
    holds.

    Raises:
        InputError: onnxruntime cannot open ``source``.

    """
    import onnxruntime

    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    if _constant_bytes(source) > _LARGE:
        key = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{key}_file_name", f"{target.name}.data")
        options.add_session_config_entry(f"{key}_min_size_in_bytes", "1024")
    try:
        open_on_cpu(source, options)
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise InputError(f"{source} cannot be opened: {error}") from error
    model = parse_model(target)
    _rename_made(model.graph)
    target.write_bytes(model.SerializeToString(deterministic=True))


def _rename_made(outermost: onnx.GraphProto) -> None:
    """Rename what the optimizer made: names that it would make again, and then find taken, the next time."""
    for graph in graphs(outermost):
        for tensor in graph.initializer:
            tensor.name = _MADE.sub(r"\g<0>.made", tensor.name)
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = _MADE.sub(r"\g<0>.made", name)


def _constant_bytes(path: Path) -> int:
    return sum(4 * math.prod(tensor.dims) for tensor in parse_model(path).graph.initializer)
