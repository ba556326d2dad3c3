"""A float graph, a recipe and calibration feeds → the float graph, ranges and codes that ship.

What :mod:`.asked` takes, :func:`learn_graph` does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes, report
from edgepress.exporter.graph.editing import set_nodes
from edgepress.exporter.graph.qdq import Ranges, Rounded, Widths, calibrate, quantize, write_models
from edgepress.exporter.interpreter.network import Feed, Network
from edgepress.exporter.learn.graphs.asked import check_graph_methods, named, start_of
from edgepress.exporter.learn.graphs.blocks import ship_blocks
from edgepress.exporter.learn.graphs.channels import learned_ranges, open_channels
from edgepress.exporter.methods.kinds import GraphMethod, load_graph_method, method_options
from edgepress.exporter.methods.options import Options
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.streams.distilling import Match
from edgepress.exporter.streams.shipping import BlockWeight, ChannelWeight, Form, Shipped
from edgepress.exporter.streams.shipping_task import Coded, ShippingTask
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.terminal.progress import Progress, silent

_PREPARED, _ROUNDED = "prepared.onnx", "rounded.onnx"


@dataclass(frozen=True)
class LearnedGraph:
    """What ships of a graph, for whoever writes it.

    ``file`` is the float graph with what methods changed of it, its weights as they are rounded. In the form of
    channels ``ranges`` are those of activations and ``rounded`` says how each weight is on its grid; in that of blocks
    ``codes`` has each weight's rows, and ``reports`` how near they are. ``changed`` has the constants that stay in
    float and became others. ``prepared`` is the float graph before anything was rounded. ``notes`` are sentences for
    the report.
    """

    file: Path
    prepared: Path
    ranges: Ranges
    rounded: Mapping[str, Rounded]
    codes: Mapping[str, Codes]
    changed: Mapping[str, NDArray[np.float32]]
    reports: Mapping[str, dict[str, float | None]]
    notes: tuple[str, ...]


def learn_graph(
    file: Path,
    feeds: Sequence[Feed],
    recipe: Recipe,
    *,
    folder: Path,
    widths: Widths | None = None,
    bits: Mapping[str, int] | None = None,
    floats: Collection[str] = (),
    coded: Mapping[str, Coded] | None = None,
    loss: Literal["kl", "square"] = "square",
    progress: Progress = silent,
    seed: int = 0,
) -> LearnedGraph:
    """Do what ``recipe`` names in ``before``, as methods of weights and in ``after``, in this order.

    With ``widths`` the graph ships in integers everywhere, with ranges as ``recipe.activations`` says and weights in
    ``bits`` where these are others, and nodes in ``floats`` in float; else the weights of ``coded`` ship in blocks.
    ``loss`` is that of the outputs, for methods that train the whole: kl where these are logits. Files are made in
    ``folder``.

    Raises:
        InputError: a method cannot be done to this graph (:func:`check_graph_methods`), or there are no feeds.

    """
    form: Form = "blocks" if widths is None else "channels"
    check_graph_methods(recipe, form)
    if not feeds:
        raise InputError("nothing was given to calibrate on; name --calibration data")
    folder.mkdir(parents=True, exist_ok=True)
    ranges: Ranges = {}

    def ship(task: ShippingTask) -> Shipped:
        if widths is None:
            write_changed(file, folder / _PREPARED, task)
            return ship_blocks(task, *_rounding(recipe, task.coded))
        path = write_changed(file, folder / _PREPARED, task)
        ranges.update(calibrate(path, feeds, recipe.activations))
        return open_channels(path, quantize(path, ranges, widths, bits=bits, floats=floats), widths)

    teacher, network = Network.read(file), Network.read(file)
    matches = [Match(name, name, loss) for name in _float_outputs(file)]
    task = ShippingTask(form, teacher, network, feeds, matches, ship, folder, coded or {}, progress, seed)
    for place, names in named(recipe):
        for name in names:
            method = load_graph_method(name, place)
            if isinstance(method, GraphMethod):
                method.run(task, method_options(method, recipe))
    shipped = task.shipped
    learned = {name: weight.value().detach() for name, weight in shipped.weights.items()}
    biases = {name: bias.latent for name, bias in shipped.biases.items()}
    path = write_changed(file, folder / _ROUNDED, task, {**learned, **biases})
    channels = {name: w for name, w in shipped.weights.items() if isinstance(w, ChannelWeight)}
    blocks = {name: w for name, w in shipped.weights.items() if isinstance(w, BlockWeight)}
    codes = {name: weight.learned.round() for name, weight in blocks.items()}
    return LearnedGraph(
        path,
        folder / _PREPARED,
        learned_ranges(shipped, ranges),
        {name: Rounded(w.scale.detach().numpy(), w.bits) for name, w in channels.items()},
        codes,
        {name: v.numpy() for name, v in {**task.changed, **biases}.items() if name not in learned},
        {name: report(blocks[name].full, found) for name, found in codes.items()},
        tuple(task.notes),
    )


def _rounding(recipe: Recipe, coded: Mapping[str, Coded]) -> tuple[dict[str, str], dict[str, Options]]:
    """The method that first rounds each weight, and the options of each."""
    names, options = {}, {}
    for weight, one in coded.items():
        method = load_graph_method(one.scheme.method, "weights")
        name = start_of(method, recipe) if isinstance(method, GraphMethod) else method.name
        names[weight] = name
        found = load_graph_method(name, "weights")
        options[name] = method_options(found, recipe)
    return names, options


def _float_outputs(file: Path) -> list[str]:
    model = read_model(file)
    floats = [v.name for v in model.graph.output if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    if not floats:
        raise InputError(f"{file} has no output of type float32, by which its rounding could be judged")
    return floats


def _with_products(nodes: Sequence[onnx.NodeProto], task: ShippingTask) -> list[onnx.NodeProto]:
    """Nodes of a graph in order, each product that methods added before the first that reads it."""
    left, found = {product.output[0]: product for product in task.products}, list[onnx.NodeProto]()
    for node in nodes:
        output = task.readers.get(node.name or node.output[0])
        if output is not None:
            node.input[0] = output
            found += [left.pop(output)] if output in left else []
        found.append(node)
    return found


def write_changed(file: Path, path: Path, task: ShippingTask, more: Mapping[str, Tensor] | None = None) -> Path:
    """The float graph in ``file`` with the constants that were changed, and ``more``, as ``path``."""
    model, reader = read_model(file), TensorReader(file)
    changed = {**task.changed, **(more or {})}
    graph = model.graph
    kept = [node for node in graph.node if not (node.op_type == "Constant" and node.output[0] in changed)]
    for node in kept:
        if (node.name or node.output[0]) in task.relus:
            node.op_type = "Relu"
            del node.input[1:], node.attribute[:]
    set_nodes(graph, _with_products(kept, task))
    tensors = [reader.inline(tensor) for tensor in graph.initializer if tensor.name not in changed]
    tensors += [numpy_helper.from_array(np.ascontiguousarray(v.numpy()), name) for name, v in changed.items()]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    write_models({path: model}, path.with_name(f"{path.name}.data"))
    return path
