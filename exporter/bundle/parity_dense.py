"""A bundle of dense layers compared with the model that it was made from, on example inputs: what ``--check`` does."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import CheckFailed
from edgepress.examples import example_inputs
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.readback import StoredWeights
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.onnx_graph.files import parse_model
from edgepress.progress import Progress
from edgepress.sessions import open_on_cpu, session_options

TOLERANCE = 1e-3  # of the largest output: float32 graphs are within 1e-5, a wrong graph is off by 1e-1
_ROWS = 8  # of each dimension that is not fixed

Outputs = list[NDArray[np.float32]]


def parity_dense(work: Path, source: OnnxFile, plan: Plan, progress: Progress) -> dict[str, object]:
    """Run the model, the model with the bundle's weights, and the bundle's graph with float32 products and as it is.

    Raises:
        CheckFailed: the graph does not compute what the model computes with the same weights.

    """
    with progress(4, "checking against the model", " runs") as advance:
        feeds = example_inputs(open_on_cpu(source.path), rows=_ROWS)
        model = open_on_cpu(source.path).run(None, feeds)
        advance(1)
        restored = open_on_cpu(_restored(work, source, plan).SerializeToString()).run(None, feeds)
        advance(1)
        exact = _in_float(work, feeds)
        advance(1)
        shipped = open_on_cpu(work / MODEL_FILE).run(None, feeds)
        advance(1)
    graph = _difference(exact, restored)
    if not graph <= TOLERANCE:  # written so that NaN fails too
        raise CheckFailed(
            f"the graph does not compute what {source.path} computes with the same weights: largest difference "
            f"{graph:.2e} of the largest output, tolerance {TOLERANCE:.0e}; please report this model"
        )
    return {
        "graph_difference": float(f"{graph:.3e}"),
        "graph_tolerance": TOLERANCE,
        "output_difference": float(f"{_difference(shipped, model):.3e}"),
        "rows": _ROWS,
    }


def _restored(work: Path, source: OnnxFile, plan: Plan) -> onnx.ModelProto:
    """The model with the weights that the bundle stores."""
    stored, names = StoredWeights(work / DATA_FILE, plan), {tensor.weight.name for tensor in plan.tensors}
    made = onnx.ModelProto()
    made.CopyFrom(source.model)
    kept = [node for node in source.model.graph.node if not names & set(node.output)]  # no Constant of those names
    rest = [source.inline(tensor) for tensor in source.model.graph.initializer if tensor.name not in names]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(kept)
    made.graph.initializer.extend(
        [*rest, *(onnx.numpy_helper.from_array(stored(name), name) for name in sorted(names))]
    )
    return made


def _in_float(work: Path, feeds: dict[str, NDArray[np.float32]]) -> Outputs:
    """The outputs of the bundle's graph when no input of a product is rounded."""
    graph, options = parse_model(work / MODEL_FILE), session_options()
    compute_in_float(graph, 1)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    path = work / ".check.onnx"  # beside the data file that it refers to
    try:
        path.write_bytes(graph.SerializeToString())
        outputs: Outputs = open_on_cpu(path, options).run(None, feeds)
    finally:
        path.unlink(missing_ok=True)
    return outputs


def _difference(found: Outputs, expected: Outputs) -> float:
    """The largest difference as a share of the largest value, of the output where that is largest."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float32).tiny)) for a, b in pairs)
