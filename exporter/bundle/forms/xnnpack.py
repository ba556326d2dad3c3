"""XNNPACK on Android's CPUs: products of matrices, and convolutions with int8 activations; the CPU takes the rest.

XNNPACK wants activations of the type of the weights: the codes of the bundle's uint8 lowered by 128, and their zero
points too, are the same numbers in int8.
"""

from collections.abc import Mapping

import onnx

from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.bundle.one_graph.inside import refuse_inside, write_inside
from edgepress.exporter.graph.passes import PassOrder
from edgepress.exporter.graph.qdq.signed import to_signed
from edgepress.exporter.graph.weights import Weights

ORDER = PassOrder(
    (
        *("plain-activations", "decompose-skip-norm", "bind-shapes", "float32", "fold-constants", "plain-gather-nd"),
        *("plain-attention", "fold-constants", "flat-products", "merge-moves"),
    )
)


def write(task: FormTask) -> dict[str, object]:
    """Write ``model.onnx``."""

    def change(model: onnx.ModelProto, weights: Weights) -> Mapping[str, object]:
        to_signed(model, weights)
        return {}

    return write_inside(task.bundle, task.planned, task.target, task.folder, ORDER, change)


FORM = Form(
    name="xnnpack",
    description="one static graph with products of matrices and int8 activations, weights inside the file",
    refuse=refuse_inside,
    write=write,
    decoders=False,
)
