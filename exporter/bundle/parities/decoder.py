"""Compare a written graph with the checkpoint's own model: what ``edgepress export --check`` does.

Two questions, kept apart. Is the graph right: with its matrix products in float32 (accuracy level 1), it must give the
logits that the description of the model (``model/network.py``) gives with the bundle's dequantized weights; and
the description, with the checkpoint's weights, those of the reference model. So transforms and added biases, which the
reference model has no place for, are checked too. What did quantization cost: how far are the logits of the bundle as
it ships from those of the reference. What predicts a token further, where that is shipped, is :mod:`.further`'s.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.exporter.bundle.cpu_graph import Graph, planned_graphs
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.parities.comparing import (
    Logits,
    compared_share,
    difference,
    divergence,
    open_graph,
    tolerance_of,
)
from edgepress.exporter.bundle.parities.further import parity_further
from edgepress.exporter.bundle.parities.integer_cache import rounding_of
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.tokens.prose import prose_tokens
from edgepress.finite import check_logits
from edgepress.targets import Target
from edgepress.terminal.progress import Progress, silent


def parity(work: Path, planned: Planned, *, cpu: Target, progress: Progress = silent) -> dict[str, object]:
    """Compare the bundle in ``work`` with the reference model on about 100 tokens of prose.

    Reference and description hold one layer's weights at a time; the bundle's own session holds the bundle. Of a bundle
    with several graphs, made for ``cpu`` and its like, each is compared; what is said of others than the one that runs
    everywhere begins with ``float16_``.

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
    description = difference(described, reference, "the description of this model", share=compared_share(plain))
    result: dict[str, object] = {"description_difference": float(f"{description:.3e}"), "tokens": len(tokens)}
    for graph in graphs:
        exact, shipped = found[graph.file]
        check_logits(exact, f"{graph.file} with float32 products, on built-in prose")
        check_logits(shipped, f"{graph.file}, on built-in prose")
        share = compared_share(plain)
        rounding = rounding_of(work, planned, graph, tokens, restored, cpu=cpu, share=share)
        tolerance = tolerance_of(graph, rounding)
        off = difference(exact, restored, f"the graph {graph.file}", tolerance, share=share)
        facts = {
            "graph_difference": float(f"{off:.3e}"),
            "graph_tolerance": float(f"{tolerance:.3e}"),
            **({"cache_rounding": float(f"{rounding:.3e}")} if rounding else {}),
            "kl": float(f"{divergence(reference, shipped):.6f}"),
            "top1_agreement": float(f"{np.mean(reference.argmax(1) == shipped.argmax(1)):.4f}"),
        }
        result |= {f"{'' if graph is graphs[-1] else 'float16_'}{key}": value for key, value in facts.items()}
    return result | parity_further(work, planned, graphs[-1], tokens, stored, tolerance=tolerance, progress=progress)


def _graph_logits(
    work: Path, decoder: Decoder, graph: Graph, tokens: NDArray[np.int64], *, accuracy_level: int | None
) -> Logits:
    """Logits of every position, from the graph as it ships, or with its products at another accuracy level."""
    session = open_graph(work, decoder, graph, len(tokens), accuracy_level=accuracy_level)
    return session.append(tokens, 0).copy()  # the session goes
