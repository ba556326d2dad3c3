"""The graph of what predicts one token further than a decoder (:class:`.MultiToken`), over the same data file.

Inputs: ``input_ids`` and ``attention_mask`` as a decoder's graph has them, ``hidden`` (batch, sequence, hidden)
float32, and the states before the call. At position i of the text they are token i + 1 and what the decoder's final
norm gave at token i. Outputs: ``logits`` (batch, positions, vocabulary) float32 of token i + 2, ``hidden_next`` (batch,
positions, hidden) float32, which is ``hidden`` for a token further, and the states after the call. Both are of the
positions from ``logits_start`` to ``logits_stop``, as a decoder's graph has them.

::

    input_ids ─ Gather ─ norm ┐
    hidden ───────────── norm ┴ Concat ─ projection ─ layer ─ norm ┬ hidden_next
                                                                  └ head ─ logits
"""

from collections.abc import Callable
from dataclasses import replace

import onnx

from edgepress.bundle.mtp import HIDDEN, HIDDEN_NEXT
from edgepress.exporter.graph.builder import FLOAT
from edgepress.exporter.graph.models.decoder import DecoderGraph
from edgepress.exporter.graph.primitives import DecoderBuilder
from edgepress.exporter.graph.rotary import CONTEXT_LENGTH
from edgepress.exporter.model.description import MultiToken
from edgepress.exporter.plan.plan import Plan
from edgepress.targets import Operator


def build_mtp(
    mtp: MultiToken,
    plan: Plan,
    *,
    data_file: str,
    version: str,
    has_half: Callable[[Operator], bool] = lambda _: False,
) -> onnx.ModelProto:
    """Return the model of ``mtp`` with the weights that its decoder's ``plan`` places in ``data_file``."""
    own = replace(plan, states=mtp.decoder.states(), half_layers=(), adapter_slots=None)
    graph = DecoderBuilder(mtp.decoder, own, data_file, has_half)
    written = DecoderGraph(graph)
    graph.token_inputs(mtp.decoder.vocab_size)
    hidden = graph.input(HIDDEN, FLOAT, ["batch", "sequence", mtp.decoder.hidden_size])
    both = [graph.norm(mtp.embedding_norm, written.embed(), "embedding_norm")]
    both.append(graph.norm(mtp.hidden_norm, hidden, "hidden_norm"))
    x = graph.linear(mtp.projection, graph.node("Concat", both, "both", axis=-1), output="projected")
    found = written.hidden(x)
    written.give(HIDDEN_NEXT, found)
    written.head(found)
    model = graph.model(f"{mtp.decoder.model_type}.mtp", version)
    onnx.helper.set_model_props(model, {CONTEXT_LENGTH: str(plan.context_length)})
    return model
