"""Android's NNAPI: one static graph of operators that its provider takes, weights inside the file.

In integers each convolution, sum and move is between DequantizeLinear and QuantizeLinear, as the provider wants them;
what it does not compute so is in floats. Products by weights with a scale a channel are among that: NNAPI has them for
convolutions alone. Inputs are int32 where the bundle's graph takes int64, which NNAPI does not have.
"""

from collections.abc import Mapping

import onnx

from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.bundle.one_graph.inside import refuse_inside, write_inside
from edgepress.exporter.graph.passes import PassOrder
from edgepress.exporter.graph.qdq.units import leave_units
from edgepress.exporter.graph.weights import Weights
from edgepress.targets import find_target

ORDER = PassOrder(
    (
        *("plain-activations", "decompose-skip-norm", "bind-shapes", "float32", "fold-constants", "plain-gather-nd"),
        *("plain-attention", "plain-gelu", "plain-erf", "decompose-layer-norm", "plain-reduce-l2", "sums-by-means"),
        *("plain-sum", "plain-flatten", "plain-expand", "plain-logic", "fold-constants", "flat-products"),
        "merge-moves",
    )
)


def write(task: FormTask) -> dict[str, object]:
    """Write ``model.onnx``."""

    def change(model: onnx.ModelProto, weights: Weights) -> Mapping[str, object]:
        table = find_target(task.target.name).table
        names = leave_units(model, weights, table.integers or frozenset()) if table is not None else ()
        return {"in_float": list(names)}

    return write_inside(task.bundle, task.planned, task.target, task.folder, ORDER, change, narrow=True)


FORM = Form(
    name="nnapi",
    description="one static graph of operators that NNAPI's provider takes, weights inside the file",
    refuse=refuse_inside,
    write=write,
    decoders=False,
)
