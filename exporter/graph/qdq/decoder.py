"""Calibration of static decoders: the runtime's own loop drives the model, and its activations are counted."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.graph.qdq.calibrate import Calibrator
from edgepress.runtime.sessions.static import StaticSession
from edgepress.sessions import open_on_cpu


def calibrate_decoder(
    prefill: Path, decode: Path, sequences: Iterable[NDArray[np.int64]], *, threads: int | None = None
) -> Calibrator:
    """Run ``sequences`` of tokens through the static ``prefill`` graph and return what was counted.

    Its ranges hold for ``decode`` too, whose values have the same names and the same meaning: the cache that one
    writes and the other reads then has one scale. Sequences whose lengths are multiples of the graph's need no
    padding, which would be counted as well.
    """
    calibrator = Calibrator(prefill, threads=threads)
    session = StaticSession(_Counting(calibrator), open_on_cpu(decode))
    for tokens in sequences:
        session.reset()
        for start in range(0, tokens.size, session.prefill_chunk):
            piece = tokens[start : start + session.prefill_chunk]
            if piece.size > 1:  # one token would pass through the decode graph, which counts nothing
                session.append(piece, 0)
    return calibrator


class _Counting:
    """What a static session needs of an onnxruntime session, over a calibrator: runs are counted."""

    def __init__(self, calibrator: Calibrator) -> None:
        self._calibrator = calibrator
        self.get_inputs: Callable[[], list[Any]] = calibrator.session.get_inputs
        self.get_modelmeta: Callable[[], Any] = calibrator.session.get_modelmeta
        self.get_providers: Callable[[], list[str]] = calibrator.session.get_providers

    def get_outputs(self) -> list[Any]:
        """The model's own outputs, not those that are counted."""
        return [value for value in self._calibrator.session.get_outputs() if value.name in self._calibrator.outputs]

    def io_binding(self) -> "_Binding":
        """What is bound: values by name."""
        return _Binding()

    def run_with_iobinding(self, binding: "_Binding") -> None:
        """Run on the bound inputs, and copy the outputs where they are bound."""
        found = self._calibrator.run({name: value.numpy() for name, value in binding.inputs.items()})
        for name, value in binding.outputs.items():
            value.update_inplace(found[name])


class _Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.outputs[name] = value
