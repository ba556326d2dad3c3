"""A float model → the same model with integers everywhere, as QDQ (QuantizeLinear and DequantizeLinear pairs).

:func:`calibrate` finds the ranges, :func:`quantize` writes the model, :func:`find_widths` says what a target takes.

Not on top of onnxruntime.quantization, whose fixed ranges and types are kept (:mod:`.roles`): its preset for QNN gives
MatMul's weights one scale a tensor, because the HTP once took no other; it rounds channel by channel in Python, and it
rounds again what a recipe has rounded already.
"""

from edgepress.exporter.graph.qdq.calibrate import Calibrator, Ranges, calibrate
from edgepress.exporter.graph.qdq.codes import Rounded
from edgepress.exporter.graph.qdq.decoder import calibrate_decoder
from edgepress.exporter.graph.qdq.prepare import prepare
from edgepress.exporter.graph.qdq.widths import WIDTHS, Widths, find_widths
from edgepress.exporter.graph.qdq.writer import quantize, write_models

__all__ = [
    "WIDTHS",
    "Calibrator",
    "Ranges",
    "Rounded",
    "Widths",
    "calibrate",
    "calibrate_decoder",
    "find_widths",
    "prepare",
    "quantize",
    "write_models",
]
