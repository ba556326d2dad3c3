"""Compare a written graph with the checkpoint's own model: what ``edgepress export --check`` does.

Two questions, kept apart. Is the graph right: with its matrix products in float32 (accuracy level 1), it must give the
logits that the description of the model (``model/network.py``) gives with the bundle's dequantized weights; and
the description, with the checkpoint's weights, those of the reference model. So transforms and added biases, which the
reference model has no place for, are checked too. What did quantization cost: how far are the logits of the bundle as
it ships from those of the reference.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.cores import usable_cores
from edgepress.errors import CheckFailed
from edgepress.exporter.bundle.cpu_graph import Graph, planned_graphs
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.tokens.prose import prose_tokens
from edgepress.finite import check_logits
from edgepress.onnx_graph.files import parse_model
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.terminal.progress import Progress, silent

TOLERANCE = 1e-3  # of the largest reference logit; float32 graphs are within 1e-5, a wrong graph is off by 1e-1
HALF_TOLERANCE = 2e-2  # where layers compute in float16: eps is 5e-4, and it adds up over the layers

ROUTED_SHARE = 0.5  # of the positions

Logits = NDArray[np.float32]


def parity(work: Path, planned: Planned, *, progress: Progress = silent) -> dict[str, object]:
    """Compare the bundle in ``work`` with the reference model on about 100 tokens of prose.

    Reference and description hold one layer's weights at a time; the bundle's own session holds the bundle. Of a bundle
    with several graphs each is compared; what is said of others than the one that runs everywhere begins with
    ``float16_``.

    Raises:
        CheckFailed: the graph's logits, or the description's, are further than the tolerance from what they must be.

    """
    checkpoint, decoder, plan = planned.checkpoint, planned.decoder, planned.plan
    graphs = planned_graphs(planned)
    tokens = prose_tokens(checkpoint, decoder.vocab_size, plan.context_length)
    stored = StoredWeights(work / DATA_FILE, plan)
    plain = read_decoder(checkpoint)  # without what methods add to it
    with progress(3 + 2 * len(graphs), "checking against the reference model", " runs") as advance:
        found: dict[str, tuple[Logits, Logits]] = {}  # of each graph: with float32 products, and as it ships
        for graph in graphs:
            exact = _graph_logits(work, decoder, graph, tokens, accuracy_level=1)  # (positions, vocabulary)
            found[graph.file] = exact, _graph_logits(work, decoder, graph, tokens, accuracy_level=None)
            advance(2)
        restored = logits(decoder, lambda weight: torch.from_numpy(stored.value(weight)), tokens)
        advance(1)
        reference = Reference(checkpoint).logits(tokens)
        advance(1)
        described = logits(plain, lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), tokens)
        advance(1)
    for one, whose in (
        (reference, "the reference model"),
        (described, "the description of this model"),
        (restored, "the description with the bundle's weights"),
    ):
        check_logits(one, f"{whose}, on built-in prose")
    description = _difference(described, reference, "the description of this model", share=_share(plain))
    result: dict[str, object] = {"description_difference": float(f"{description:.3e}"), "tokens": len(tokens)}
    for graph in graphs:
        exact, shipped = found[graph.file]
        check_logits(exact, f"{graph.file} with float32 products, on built-in prose")
        check_logits(shipped, f"{graph.file}, on built-in prose")
        in_half = any(state.type == "float16" for state in graph.plan.states) or bool(graph.plan.half_layers)
        tolerance = HALF_TOLERANCE if in_half else TOLERANCE
        difference = _difference(exact, restored, f"the graph {graph.file}", tolerance, share=_share(plain))
        facts = {
            "graph_difference": float(f"{difference:.3e}"),
            "graph_tolerance": tolerance,
            "kl": float(f"{_kl(reference, shipped):.6f}"),
            "top1_agreement": float(f"{np.mean(reference.argmax(1) == shipped.argmax(1)):.4f}"),
        }
        result |= {f"{'' if graph is graphs[-1] else 'float16_'}{key}": value for key, value in facts.items()}
    return result


def _share(decoder: Decoder) -> float:
    """How many of the positions are compared: where a router is near a tie, rounding chooses another expert."""
    return ROUTED_SHARE if any(weight.kind == "router" for weight in decoder.weights()) else 1.0


def _difference(
    found: Logits, expected: Logits, what: str, tolerance: float = TOLERANCE, *, share: float = 1.0
) -> float:
    """Return the largest difference as a share of the largest logit, if it is tolerable.

    With a ``share`` below 1 it is that of this share of the positions, those that are nearest.
    """
    by_position = np.sort(np.abs(found - expected).max(axis=1))  # (positions,); NaN last
    counted = by_position if share == 1 else by_position[: max(1, int(share * len(by_position)))]
    difference = float(counted.max() / np.abs(expected).max())
    if not difference <= tolerance:  # written so that NaN fails too
        raise CheckFailed(
            f"{what} does not compute what the reference model computes: largest logit difference {difference:.2e} "
            f"of the largest logit, tolerance {tolerance:.0e}; please report this architecture and config"
        )
    return difference


def _graph_logits(
    work: Path, decoder: Decoder, graph: Graph, tokens: NDArray[np.int64], *, accuracy_level: int | None
) -> Logits:
    """Logits of every position, from the graph as it ships, or with its products at another accuracy level.

    Then no input of a product is rounded, of integer products neither.
    """
    model = parse_model(work / graph.file)
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
    length = len(tokens)
    try:
        path.write_bytes(model.SerializeToString())
        session = CpuSession(
            config, threads=usable_cores(), context=length, prefill_chunk=length, prepared=False, entries=entries
        )
    finally:
        path.unlink(missing_ok=True)
    return session.append(tokens, 0).copy()  # the session goes


def _kl(reference: Logits, other: Logits) -> float:
    """Mean KL(reference ‖ other) in nats a token."""
    log_p, log_q = _log_softmax(reference), _log_softmax(other)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)
