"""What checks of written graphs share: graphs opened for it, and how far apart logits are."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.cores import usable_cores
from edgepress.errors import CheckFailed
from edgepress.exporter.bundle.cpu_graph import Graph
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.model.description import Decoder
from edgepress.onnx_graph.files import parse_model
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.sessions.cpu import CpuSession

TOLERANCE = 1e-3  # of the largest reference logit; float32 graphs are within 1e-5, a wrong graph is off by 1e-1
HALF_TOLERANCE = 2e-2  # where layers compute in float16: eps is 5e-4, and it adds up over the layers
ROUTED_SHARE = 0.5  # of the positions

Logits = NDArray[np.float32]


def tolerance_of(graph: Graph, rounding: float = 0.0) -> float:
    """How far the logits of a graph may be from exact ones, by what it rounds beside weights: caches and layers.

    ``rounding`` is how far a cache of integers moves them (:func:`.integer_cache.rounding_of`): it may be twice as far,
    as that is the largest of some hundred positions, and of other positions it may be another one.
    """
    half = graph.plan.half_layers or any(state.type == "float16" for state in graph.plan.states)
    return (HALF_TOLERANCE if half else TOLERANCE) + 2 * rounding


def compared_share(decoder: Decoder) -> float:
    """How many of the positions are compared: where a router is near a tie, rounding chooses another expert."""
    return ROUTED_SHARE if any(weight.kind == "router" for weight in decoder.weights()) else 1.0


def difference(
    found: Logits, expected: Logits, what: str, tolerance: float = TOLERANCE, *, share: float = 1.0
) -> float:
    """Return the largest difference as a share of the largest logit, if it is tolerable.

    With a ``share`` below 1 it is that of this share of the positions, those that are nearest.

    Raises:
        CheckFailed: it is larger than the tolerance.

    """
    by_position = np.sort(np.abs(found - expected).max(axis=1))  # (positions,); NaN last
    counted = by_position if share == 1 else by_position[: max(1, int(share * len(by_position)))]
    largest = float(counted.max() / np.abs(expected).max())
    if not largest <= tolerance:  # written so that NaN fails too
        raise CheckFailed(
            f"{what} does not compute what the reference model computes: largest logit difference {largest:.2e} "
            f"of the largest logit, tolerance {tolerance:.0e}; please report this architecture and config"
        )
    return largest


def open_graph(
    work: Path,
    decoder: Decoder,
    graph: Graph,
    length: int,
    *,
    accuracy_level: int | None,
    model: onnx.ModelProto | None = None,
) -> CpuSession:
    """Open a graph for ``length`` tokens in one call, as it ships or with its products at another accuracy level.

    Then no input of a product is rounded, of integer products neither. Another ``model`` over the same data file may
    be opened in the graph's place.
    """
    model = parse_model(work / graph.file) if model is None else model
    entries = {}
    if accuracy_level is not None:
        compute_in_float(model, accuracy_level)
        # what onnxruntime itself makes MatMulNBits of, it would compute in int8
        entries["session.qdq_matmulnbits_accuracy_level"] = str(accuracy_level)
    path = work / ".check.onnx"  # beside the data file that it refers to
    config = BundleConfig(
        bundle=work,
        model=path,
        context_length=graph.plan.context_length,
        default_context=graph.plan.default_context,
        vocab_size=decoder.vocab_size,
        bos=None,
        eos=frozenset(),
        states=graph.plan.states,
        long_from=decoder.long_from,
    )
    try:
        path.write_bytes(model.SerializeToString())
        return CpuSession(
            config, threads=usable_cores(), context=length, prefill_chunk=length, prepared=False, entries=entries
        )
    finally:
        path.unlink(missing_ok=True)


def divergence(reference: Logits, other: Logits) -> float:
    """Mean KL(reference ‖ other) in nats a token."""
    log_p, log_q = _log_softmax(reference), _log_softmax(other)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)
