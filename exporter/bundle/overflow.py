"""Which layers overflow float16: the largest values, on some text, of everything that a graph in float16 computes.

The largest float16 is 65504. Other text may give larger values, so a layer computes in float32 when any value in it
comes within a factor of ``MARGIN`` of that; and when one of its constants is larger. The bundle's own weights are run
in float32, with those of one layer in memory at a time. Attention adds up the products of queries and keys in float16
before it scales them, so these are examined unscaled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgepress.exporter.model.description import Decoder
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.sessions import open_on_cpu, session_options
from edgepress.states import State

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

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
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """What cannot compute in float16, and why: layers (``layers.1``) and mixers with states (``layers.1.attention``).

    Args:
        bundle: the folder of the data file.
        graphs: the graph in float32, and the one with every layer in float16.
        decoder: what they compute.
        tokens: (sequences, length) of the text that ``text`` names.
        text: as reasons call it.
        threads: to compute on.
        advance: is told of each layer.

    """
    float32, float16 = graphs
    half = _in_float16(float16.graph, decoder)
    constants = {tensor.name: tensor for tensor in float32.graph.initializer}
    reader, found = TensorReader(bundle), dict[str, str]()
    limit, seen = LARGEST / MARGIN, f"on {tokens.size} tokens of {text}"

    def note(name: str, peaks: Iterable[Peak]) -> None:
        peak = max(peaks, key=lambda one: math.inf if math.isnan(one.magnitude) else one.magnitude, default=None)
        if peak is not None and name not in found and not peak.magnitude <= limit:
            found[name] = (
                f"{peak.what} reaches {peak.magnitude:.6g} {seen}, above {limit:g}: float16 ends at {LARGEST:g}, and "
                f"unseen text gets a margin of {MARGIN:g}"
            )

    run = _Run(bundle, float32, decoder.states(), tokens, threads)
    for index, layer in half.items():
        for name in layer.names:
            run.last_use[name] = max(run.last_use[name], index)
    for index in run.parts:
        layer = half.get(index, _Half())
        for name in sorted(layer.constants):
            largest = float(np.abs(reader.array(constants[name])).max())
            if not largest <= LARGEST:
                found[f"layers.{index}"] = f"{name} holds {largest:g}, and float16 ends at {LARGEST:g}"
        peaks, scores = run.part(index, layer.names)
        note(f"layers.{index}", (peaks[name] for name in sorted(layer.values)))
        for mixer, names in layer.mixers.items():
            note(mixer, [*scores, *(peaks[name] for name in sorted(names))])
        if index != _BEFORE:
            advance(1)
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


class _Run:
    """Runs a graph a layer at a time; what later layers need is kept, for each sequence.

    ``parts`` are the nodes of each layer, and ``last_use`` is the last one that needs a value.
    """

    def __init__(
        self, bundle: Path, model: onnx.ModelProto, states: Sequence[State], tokens: NDArray[np.int64], threads: int
    ) -> None:
        self._model, graph = model, model.graph
        self._options = session_options(threads)
        self._options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle))
        self._options.add_session_config_entry("session.disable_prepacking", "1")  # each weight is used once
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.parts = _by_layer(graph.node)
        self.last_use = {name: index for index, nodes in self.parts.items() for node in nodes for name in node.input}
        self.last_use |= {name: index for index, nodes in self.parts.items() for node in nodes for name in node.output
                          if name not in self.last_use}  # fmt: skip
        self._carried = [_inputs(states, row[None]) for row in tokens]

    def part(self, index: int, wanted: set[str]) -> tuple[dict[str, Peak], list[Peak]]:
        """Run a layer; how large the values ``wanted`` are, and the unscaled scores of attention."""
        nodes = self.parts[index]
        made = {name for node in nodes for name in node.output if name}
        results = sorted(name for name in made if name in wanted or self.last_use[name] > index)
        copies = [_with_scores(node) for node in nodes if node.op_type == _ATTENTION]
        scores = [node.output[-1] for node in copies]
        session = self._open([*nodes, *copies], [*results, *scores]) if results else None
        peaks: list[dict[str, float]] = []
        for carried in self._carried:
            if session is not None:
                feeds = {value.name: carried[value.name] for value in session.get_inputs()}
                carried.update(zip([*results, *scores], session.run([*results, *scores], feeds), strict=True))
            peaks.append({name: float(np.abs(carried[name]).max(initial=0)) for name in (*wanted, *scores)})
            for name in [name for name in carried if self.last_use.get(name, index) <= index]:
                del carried[name]
        largest = {name: Peak(float(np.max([row[name] for row in peaks])), name) for name in (*wanted, *scores)}
        products = [Peak(largest.pop(name).magnitude, f"{name}, unscaled,") for name in scores]
        return largest, products

    def _open(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> InferenceSession:
        """A session of the nodes that ``outputs`` depend on; its inputs are what is carried."""
        kept = _needed(nodes, outputs)
        read = {name for node in kept for name in node.input if name} - {name for node in kept for name in node.output}
        given = self._carried[0]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given[name].dtype), None)
            for name in sorted(read - self._constants.keys())
        ]
        constants = [self._constants[name] for name in sorted(read & self._constants.keys())]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(kept, "part", inputs, results, constants)
        opsets, version = self._model.opset_import, self._model.ir_version
        model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        return open_on_cpu(model.SerializeToString(), self._options)


def _with_scores(node: onnx.NodeProto) -> onnx.NodeProto:
    """The attention, which gives the products of its queries and keys as its last output, neither scaled nor capped."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    name = f"{node.name.rpartition('.')[0]}: the products of queries and keys"
    copy.name = name
    del copy.output[:]
    copy.output.extend([f"{name}.attended", f"{name}.key", f"{name}.value", name])
    attributes = [one for one in node.attribute if one.name not in {"scale", "softcap"}]
    del copy.attribute[:]
    copy.attribute.extend([*attributes, *(helper.make_attribute(*one) for one in (("scale", 1.0), ("qk_output", 1)))])
    return copy


def _inputs(states: Sequence[State], row: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What a call with the whole of a text reads, ``row`` (1, length): states as they are before it."""
    before = {state.input: np.zeros(state.sizes(0), np.dtype(state.type)) for state in states}
    return {"input_ids": row, "attention_mask": np.ones_like(row), **before}


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that ``outputs`` depend on, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
