"""Compare the graph of what predicts a token further with its description: part of ``edgepress export --check``.

transformers leaves these layers out, so the description (:func:`.network.further_logits`, which tests hold against
transformers' own layer) stands in for the reference. The graph is right if, fed what the bundle's own graph gives of
each token, both with products in float32, it gives the logits that the description gives with the bundle's weights.
What quantization cost it is the distance of the graph as it ships from the description with the checkpoint's weights,
where both read what the checkpoint's model gives: a proposal costs time when it is wrong, never a token.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.bundle.mtp import MTP_FILE
from edgepress.exporter.bundle.cpu_graph import Graph
from edgepress.exporter.bundle.parities.comparing import (
    Logits,
    compared_share,
    difference,
    divergence,
    open_graph,
)
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.description import MultiToken
from edgepress.exporter.model.network import final_states, further_logits
from edgepress.exporter.model.operations import Values
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.planned import Planned
from edgepress.finite import check_logits
from edgepress.terminal.progress import Progress, silent


def parity_further(
    work: Path,
    planned: Planned,
    graph: Graph,
    tokens: NDArray[np.int64],
    stored: StoredWeights,
    *,
    tolerance: float,
    progress: Progress = silent,
) -> dict[str, object]:
    """Compare the layer that the bundle in ``work`` ships; nothing where it ships none.

    Args:
        work: the bundle.
        planned: what it was made of.
        graph: the model's own, whose ``hidden`` the layer reads.
        tokens: a text (length,).
        stored: the bundle's weights.
        tolerance: of what it reads, which the model's graph gives; its own states are floats.
        progress: how far it is.

    Raises:
        CheckFailed: the graph's logits are further than the tolerance from the description's.

    """
    decoder, mtp = planned.decoder, planned.decoder.mtp
    if mtp is None:
        return {}
    plain = read_decoder(planned.checkpoint)  # without what methods add to it

    def restored(weight: Weight) -> torch.Tensor:
        return torch.from_numpy(stored.value(weight))

    def original(weight: Weight) -> torch.Tensor:
        return torch.from_numpy(read_weight(planned.checkpoint, weight))

    with progress(4, "checking what predicts a token further", " runs") as advance:
        exact = _of_graphs(work, planned, graph, mtp, tokens)
        advance(1)
        wanted = _described(mtp, restored, tokens, final_states(decoder, restored, tokens))
        advance(1)
        given = final_states(plain, original, tokens)
        reference = _described(mtp, original, tokens, given)
        advance(1)
        shipped = _of_layer(work, graph, mtp, tokens, given, accuracy_level=None)
        advance(1)
    check_logits(wanted, f"the description of {MTP_FILE}, on built-in prose")
    check_logits(exact, f"{MTP_FILE} with float32 products, on built-in prose")
    check_logits(shipped, f"{MTP_FILE}, on built-in prose")
    share = min(compared_share(plain), compared_share(mtp.decoder))
    off = difference(exact, wanted, f"the graph {MTP_FILE}", tolerance, share=share)
    return {
        "mtp_graph_difference": float(f"{off:.3e}"),
        "mtp_graph_tolerance": float(f"{tolerance:.3e}"),
        "mtp_kl": float(f"{divergence(reference, shipped):.6f}"),
        "mtp_top1_agreement": float(f"{np.mean(reference.argmax(1) == shipped.argmax(1)):.4f}"),
    }


def _of_graphs(work: Path, planned: Planned, graph: Graph, mtp: MultiToken, tokens: NDArray[np.int64]) -> Logits:
    """Logits (length − 1, vocabulary) of both graphs one after the other, with products in float32."""
    session = open_graph(work, planned.decoder, graph, len(tokens), accuracy_level=1)
    kept = session.keep_hidden()
    session.append(tokens)
    return _of_layer(work, graph, mtp, tokens, kept.rows[: len(tokens)].copy(), accuracy_level=1)


def _of_layer(
    work: Path,
    graph: Graph,
    mtp: MultiToken,
    tokens: NDArray[np.int64],
    hidden: NDArray[np.float32],
    *,
    accuracy_level: int | None,
) -> Logits:
    """Logits (length − 1, vocabulary) of the layer's graph, which reads ``hidden`` (length, hidden)."""
    own = Graph(MTP_FILE, replace(graph.plan, states=mtp.decoder.states()))
    session = open_graph(work, mtp.decoder, own, len(tokens), accuracy_level=accuracy_level)
    return session.append_with(tokens[1:], hidden[:-1], 0).copy()  # the session goes


def _described(mtp: MultiToken, values: Values, tokens: NDArray[np.int64], hidden: NDArray[np.float32]) -> Logits:
    """The same by the description."""
    return further_logits(mtp, values, tokens[1:], hidden[:-1])
