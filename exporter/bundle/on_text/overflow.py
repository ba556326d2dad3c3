"""Which layers overflow float16: the largest values, on some text, of everything that a graph in float16 computes.

The largest float16 is 65504. Other text may give larger values, so a layer computes in float32 when any value in it
comes within a factor of ``MARGIN`` of that; and when one of its constants is larger. The bundle's own weights are run
in float32, some at a time. Attention adds up the products of queries and keys in float16
before it scales them, so these are examined unscaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgepress.exporter.bundle.on_text.cache_scales import before_text
from edgepress.exporter.graph.piecewise import Piecewise
from edgepress.exporter.model.description import Decoder
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.terminal.progress import Progress, silent

LARGEST = 65504.0  # of float16
MARGIN = 4.0
MOST_SEQUENCES = 4  # of calibration text that are run
_LAYER = re.compile(r"layers\.(\d+)\.")
_BEFORE = -1  # stands for what is computed before the first layer
_ATTENTION = "GroupQueryAttention"


@dataclass(frozen=True)
class Peak:
    """The largest magnitude of some values, and where it is."""

    magnitude: float
    what: str


@dataclass
class _Half:
    """What a layer computes in float16: names of values, of those of mixers with states apart, and of constants."""

    values: set[str] = field(default_factory=set)
    mixers: dict[str, set[str]] = field(default_factory=dict)  # by the mixer, such as layers.1.attention
    constants: set[str] = field(default_factory=set)

    @property
    def names(self) -> set[str]:
        """All values."""
        return self.values.union(*self.mixers.values())


def find_overflow(
    bundle: Path,
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
    decoder: Decoder,
    tokens: NDArray[np.int64],
    text: str,
    *,
    threads: int,
    progress: Progress = silent,
) -> dict[str, str]:
    """What cannot compute in float16, and why: layers (``layers.1``) and mixers with states (``layers.1.attention``).

    Args:
        bundle: the folder of the data file.
        graphs: the graph in float32, and the one with every layer in float16.
        decoder: what they compute.
        tokens: (sequences, length) of the text that ``text`` names.
        text: as reasons call it.
        threads: to compute on.
        progress: makes the bar.

    """
    float32, float16 = graphs
    half = _in_float16(float16.graph, decoder)
    found = _large_constants(bundle, float32.graph, half)
    float32, scores = _with_scores(float32)
    wanted = {*scores.values()}.union(*(layer.names for layer in half.values()))
    pieces, magnitudes = Piecewise(bundle, float32, wanted, threads=threads), dict.fromkeys(wanted, np.float32(0))
    with progress(len(tokens) * len(pieces), "looking for what overflows float16", " steps") as advance:
        for row in tokens:
            for values in pieces.run(before_text(decoder.states(), row[None])):
                for name, value in values.items():  # np.maximum keeps what is not a number
                    magnitudes[name] = np.maximum(magnitudes[name], np.abs(value).max(initial=0))
                advance(1)
    limit, seen = LARGEST / MARGIN, f"on {tokens.size} tokens of {text}"

    def note(place: str, peaks: Iterable[Peak]) -> None:
        peak = max(peaks, key=lambda one: math.inf if math.isnan(one.magnitude) else one.magnitude, default=None)
        if peak is not None and place not in found and not peak.magnitude <= limit:
            found[place] = (
                f"{peak.what} reaches {peak.magnitude:.6g} {seen}, above {limit:g}: float16 ends at {LARGEST:g}, and "
                f"unseen text gets a margin of {MARGIN:g}"
            )

    for index, layer in half.items():
        note(f"layers.{index}", (Peak(float(magnitudes[name]), name) for name in sorted(layer.values)))
        for mixer, names in layer.mixers.items():
            peaks = [Peak(float(magnitudes[name]), name) for name in sorted(names)]
            product = [Peak(float(magnitudes[scores[mixer]]), f"{scores[mixer]}, unscaled,")] if mixer in scores else []
            note(mixer, [*product, *peaks])
    return found


def _large_constants(bundle: Path, graph: onnx.GraphProto, half: Mapping[int, _Half]) -> dict[str, str]:
    """Layers with a constant beyond what float16 holds, by layer, and which."""
    constants, reader, found = {tensor.name: tensor for tensor in graph.initializer}, TensorReader(bundle), {}
    for index, layer in half.items():
        for name in sorted(layer.constants):
            largest = float(np.max([np.abs(rows).max() for _, rows in reader.rows(constants[name]).pieces()]))
            if not largest <= LARGEST:
                found[f"layers.{index}"] = f"{name} holds {largest:g}, and float16 ends at {LARGEST:g}"
    return found


def _in_float16(graph: onnx.GraphProto, decoder: Decoder) -> dict[int, _Half]:
    """What each layer computes in float16, by the names of the float32 graph: a Cast is called as what goes into it."""
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants = set(kinds)
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    mixers = {
        name: f"layers.{index}.{block.name}"
        for index, layer in enumerate(decoder.layers)
        for block in layer.blocks
        for state in block.mixer.states(index)
        for name in (state.input, state.output)
    }
    origin: dict[str, str] = {}
    found: dict[int, _Half] = {}
    for index, nodes in _by_layer(graph.node).items():
        half = found.setdefault(index, _Half())
        for node in nodes:
            if node.op_type == "Cast":
                kinds[node.output[0]] = node.attribute[0].i
                origin[node.output[0]] = node.input[0]
                continue
            is_half = any(kinds.get(name) == TensorProto.FLOAT16 for name in node.input)
            kinds |= dict.fromkeys(node.output, TensorProto.FLOAT16 if is_half else TensorProto.UNDEFINED)
            if not is_half:
                continue
            names = {origin.get(name, name) for name in (*node.input, *node.output)
                     if name and kinds.get(name) == TensorProto.FLOAT16}  # fmt: skip
            half.constants |= {name for name in names & constants if kinds[name] == TensorProto.FLOAT}
            names -= constants
            owners = {mixers[name] for name in node.input if name in mixers}
            for owner in owners:
                half.mixers.setdefault(owner, set()).update(names - mixers.keys() | names & set(node.output))
            if not owners:
                half.values |= names
    return found


def _by_layer(nodes: Iterable[onnx.NodeProto]) -> dict[int, list[onnx.NodeProto]]:
    """Nodes by the layer that they are in; what names none belongs to the layer before it."""
    parts: dict[int, list[onnx.NodeProto]] = {_BEFORE: []}
    index = _BEFORE
    for node in nodes:
        named = _LAYER.match(node.name)
        index = index if named is None else int(named[1])
        parts.setdefault(index, []).append(node)
    return parts


def _with_scores(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph with each attention a second time, and by mixer what that gives: products of queries and keys."""
    graph, found = onnx.ModelProto(), dict[str, str]()
    graph.CopyFrom(model)
    del graph.graph.node[:]
    for node in model.graph.node:
        graph.graph.node.append(node)
        if node.op_type == _ATTENTION:
            mixer = node.name.rpartition(".")[0]
            found[mixer] = f"{mixer}: the products of queries and keys"
            graph.graph.node.append(_scoring(node, found[mixer]))
    return graph, found


def _scoring(node: onnx.NodeProto, name: str) -> onnx.NodeProto:
    """The attention, which gives the products of its queries and keys as its last output, neither scaled nor capped."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = name
    del copy.output[:]
    copy.output.extend([f"{name}.attended", f"{name}.key", f"{name}.value", name])
    attributes = [one for one in node.attribute if one.name not in {"scale", "softcap"}]
    del copy.attribute[:]
    copy.attribute.extend([*attributes, *(helper.make_attribute(*one) for one in (("scale", 1.0), ("qk_output", 1)))])
    return copy
