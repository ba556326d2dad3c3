"""Ranges of every activation, from what calibration data sends there: one run at a time, only counts are kept."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays.ranges import Histogram, find_range
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.qdq.roles import MOVES, fixed_range
from edgepress.exporter.recipe.recipe import Activations
from edgepress.onnx_graph.walk import attribute
from edgepress.sessions import open_on_cpu, session_options

Feed = Mapping[str, NDArray[np.generic]]
Ranges = dict[str, tuple[float, float]]


class Calibrator:
    """A float model that counts what its activations are while it runs.

    Where a value feeds a Softmax, what lies far below its row's largest has no weight, whatever it is: masked scores
    do not stretch the range (see :meth:`ranges`).
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._model = model = FloatModel(path)
        self.outputs = model.outputs
        self._names = model.activations()
        self._histograms = {name: Histogram() for name in self._names}
        self._rows = {node.input[0]: int(attribute(node, "axis", -1)) for node in model.nodes if _is_softmax(node)}
        self._least_peak: dict[str, tuple[float, int]] = {}  # of a Softmax's input: least row maximum, longest row
        proto = model.model
        outputs = set(model.outputs)
        for name in self._names:
            if name not in outputs and name not in model.inputs:
                proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = session_options(threads)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        self.session = open_on_cpu(proto.SerializeToString(), options)
        self._fetched = list(dict.fromkeys([*model.outputs, *(n for n in self._names if n not in model.inputs)]))

    def run(self, feed: Feed) -> dict[str, NDArray[np.generic]]:
        """Run the model once, count its activations, and return its outputs by name."""
        values = dict(zip(self._fetched, self.session.run(self._fetched, dict(feed)), strict=True))
        for name in self._names:
            value = np.asarray(values[name] if name in values else feed[name])
            self._histograms[name].add(value.astype(np.float32, copy=False))
            if name in self._rows:
                peaks = value.max(axis=self._rows[name])
                peak, length = self._least_peak.get(name, (math.inf, 0))
                self._least_peak[name] = (min(peak, float(peaks.min())), max(length, value.shape[self._rows[name]]))
        return {name: values[name] for name in self.outputs}

    def ranges(self, activations: Activations) -> Ranges:
        """(low, high) of every activation and of every constant that is tied to one.

        ``activations`` says how (minmax, percentile, mse, entropy) and for how many bits. Inputs of the graph always
        have minmax: they are a contract, not a distribution. So do scores that only a Softmax reads, where what lies
        below ``least row maximum − ln(row length · 2^bits)`` is cut off: all of it together is less than a step of the
        largest probability. Values that are tied have the hull of their ranges.
        """
        if not any(histogram.counts.any() for histogram in self._histograms.values()):
            raise InputError("nothing was run to calibrate on; give calibration data")
        bits = 16 if activations.type == "uint16" else 8
        makers = self._model.makers
        own: Ranges = {}
        for name, histogram in self._histograms.items():
            fixed = fixed_range(makers[name], bits) if name in makers else None
            low, high = histogram.low, histogram.high
            own[name] = fixed or (
                find_range(histogram, activations.ranges, activations.percentile, bits)
                if name in makers
                else (low, high)
            )
        groups: dict[str, list[str]] = defaultdict(list)
        for name in [*self._names, *self._tied_constants()]:
            groups[self._model.ties.of(name)].append(name)
        found, scores = Ranges(), Ranges()
        for names in groups.values():
            if (clipped := self._scores(names, bits)) is not None:
                scores |= dict.fromkeys(names, clipped)
            found |= dict.fromkeys(names, clipped or self._hull(names, own))
        for names in groups.values():
            if (least := self._least_summand(names, scores, found)) is not None:
                low, high = found[names[0]]
                found |= dict.fromkeys(names, (max(low, least), high))
        return found

    def _tied_constants(self) -> list[str]:
        inputs = {name for node in self._model.nodes if node.op_type in MOVES for name in node.input}
        return [name for name in self._model.constants if name in inputs and self._model.is_float[name]]

    def _hull(self, names: Iterable[str], own: Ranges) -> tuple[float, float]:
        low = high = 0.0
        for name in names:
            if name not in own:
                value = self._model.value(name)
                own[name] = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
            low, high = min(low, own[name][0]), max(high, own[name][1])
        return low, high

    def _scores(self, names: list[str], bits: int) -> tuple[float, float] | None:
        """The range of values that nothing but a Softmax reads; None when they are read by others too."""
        peaks = [self._least_peak[name] for name in names if name in self._least_peak]
        if not peaks:
            return None
        if not all(map(_is_softmax, self._readers(names))) or set(names) & {*self.outputs, *self._model.inputs}:
            return None
        low = min(0.0, *(peak - math.log(length * 2.0**bits) for peak, length in peaks))
        return max(low, min(self._histograms[n].low for n in names)), max(self._histograms[n].high for n in names)

    def _least_summand(self, names: list[str], scores: Ranges, found: Ranges) -> float | None:
        """Where values that are only added to others to give ``scores`` end: below it the sum is clipped anyway.

        A mask of −10⁴ has a scale of its own then no coarser than scores have: the HTP adds 8-bit values of far
        different scales with an error of many steps (18 of 255 were seen).
        """
        readers = self._readers(names)
        if not readers or set(names) & set(self.outputs):
            return None
        least = []
        for node in readers:
            if node.op_type != "Add" or node.output[0] not in scores:
                return None
            other = next((name for name in node.input if name not in names), None)
            if other not in found:
                return None
            least.append(scores[node.output[0]][0] - found[other][1])
        return min(0.0, *least)

    def _readers(self, names: list[str]) -> list[onnx.NodeProto]:
        """The nodes that read any of ``names``, but for those that move one to another."""
        tied = set(names)
        readers = [node for name in names for node in self._model.readers.get(name, ())]
        return [node for node in readers if node.op_type not in MOVES or not tied & set(node.output)]


def calibrate(path: Path, feeds: Iterable[Feed], activations: Activations) -> Ranges:
    """Run ``feeds`` (one input dictionary each) through the float model in ``path``, and return its ranges."""
    calibrator = Calibrator(path)
    for feed in feeds:
        calibrator.run(feed)
    return calibrator.ranges(activations)


def _is_softmax(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Softmax")
