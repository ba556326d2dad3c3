"""Hold a written graph against the checkpoint's own model: what ``edgepress export --check`` does.

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
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.readback import StoredWeights
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer
from edgepress.finite import check_logits
from edgepress.onnx_graph.files import parse_model
from edgepress.progress import Progress, silent
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.sessions.cpu import CpuSession

TOLERANCE = 1e-3  # of the largest reference logit; float32 graphs are within 1e-5, a wrong graph is off by 1e-1
HALF_TOLERANCE = 2e-2  # where layers compute in float16: eps is 5e-4, and it adds up over the layers
_TOKENS = 96
_TEXT = (
    "A ship in harbour is safe, but that is not what ships are built for. The captain read the letter twice, folded "
    "it, and gave the order to cast off. By noon the wind had turned; by evening they had lost sight of land, and the "
    "youngest of the crew asked how long it would be until they saw it again. Nobody answered him."
)

Logits = NDArray[np.float32]


def parity(
    work: Path, checkpoint: Checkpoint, decoder: Decoder, plan: Plan, *, progress: Progress = silent
) -> dict[str, object]:
    """Compare the bundle in ``work`` with the reference model on about 100 tokens of prose.

    Reference and description hold one layer's weights at a time; the bundle's own session holds the bundle.

    Raises:
        CheckFailed: the graph's logits, or the description's, are further than the tolerance from what they must be.

    """
    tokens = prose_tokens(checkpoint, decoder, plan.context_length)
    stored = StoredWeights(work / DATA_FILE, plan)
    plain = read_decoder(checkpoint)  # without what methods add to it
    with progress(5, "checking against the reference model", " runs") as advance:
        exact = _graph_logits(work, decoder, plan, tokens, accuracy_level=1)  # (positions, vocabulary)
        advance(1)
        restored = logits(decoder, lambda weight: torch.from_numpy(stored.value(weight)), tokens)
        advance(1)
        shipped = _graph_logits(work, decoder, plan, tokens, accuracy_level=None)
        advance(1)
        reference = Reference(checkpoint.directory).logits(tokens)
        advance(1)
        described = logits(plain, lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), tokens)
        advance(1)
    for found, whose in (
        (reference, "the reference model"),
        (described, "the description of this model"),
        (restored, "the description with the bundle's weights"),
        (exact, "the graph with float32 products"),
        (shipped, "the bundle"),
    ):
        check_logits(found, f"{whose}, on built-in prose")
    description = _difference(described, reference, "the description of this model")
    tolerance = HALF_TOLERANCE if plan.half_layers else TOLERANCE
    graph = _difference(exact, restored, "the graph", tolerance)
    return {
        "description_difference": float(f"{description:.3e}"),
        "graph_difference": float(f"{graph:.3e}"),
        "graph_tolerance": tolerance,
        "tokens": len(tokens),
        "kl": float(f"{_kl(reference, shipped):.6f}"),
        "top1_agreement": float(f"{np.mean(reference.argmax(1) == shipped.argmax(1)):.4f}"),
    }


def _difference(found: Logits, expected: Logits, what: str, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference as a share of the largest logit, if it is tolerable."""
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:  # written so that NaN fails too
        raise CheckFailed(
            f"{what} does not compute what the reference model computes: largest logit difference {difference:.2e} "
            f"of the largest logit, tolerance {tolerance:.0e}; please report this architecture and config"
        )
    return difference


def prose_tokens(checkpoint: Checkpoint, decoder: Decoder, context_length: int) -> NDArray[np.int64]:
    """About 100 tokens of built-in prose, (length,)."""
    ids = np.array(source_tokenizer(checkpoint).library.encode(_TEXT).ids, np.int64)
    return ids[ids < decoder.vocab_size][: min(_TOKENS, context_length)]


def _graph_logits(
    work: Path, decoder: Decoder, plan: Plan, tokens: NDArray[np.int64], *, accuracy_level: int | None
) -> Logits:
    """Logits of every position, from the graph as it ships, or with its products at another accuracy level.

    Then nothing that goes into a product is rounded, integer products included.
    """
    model = parse_model(work / MODEL_FILE)
    entries = {}
    if accuracy_level is not None:
        compute_in_float(model, accuracy_level)
        # what onnxruntime itself makes MatMulNBits of, it would compute in int8
        entries["session.qdq_matmulnbits_accuracy_level"] = str(accuracy_level)
    path = work / ".check.onnx"  # beside the data file that it refers to
    config = BundleConfig(
        bundle=work,
        model=path,
        context_length=plan.context_length,
        vocab_size=decoder.vocab_size,
        bos=None,
        eos=frozenset(),
        states=plan.states,
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
