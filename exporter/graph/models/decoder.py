"""The graph of a decoder: one step of prefill or decode, with its mixers' states as inputs and outputs.

Inputs: ``input_ids`` (batch, sequence) int64, ``attention_mask`` (batch, total) int64 with total = past + sequence, and
the states before the call, such as ``past_key_values.{i}.key`` (batch, kv_heads, past, head_dim) float32. Outputs:
``logits`` (batch, positions, vocabulary) float32 and the states after it. When past and present keys are bound to one
buffer of the full context, GroupQueryAttention updates it in place. Where the plan has a state that keeps a window,
past and present are one buffer of at least the window, in which the operator lays out the last tokens by itself.

``logits`` has the last position only: the initializer ``logits_start`` is [-1]. Overriding it with [0] when the
session is made (``SessionOptions.add_initializer``) gives the logits of every position, from the same graph; and
overriding ``logits_stop`` with [0] gives none, which a piece of a prompt needs that others follow.

With something that predicts a token further (:mod:`.mtp`) there is another output, ``hidden`` (batch, sequence, hidden)
float32: what the final norm gives at each position, whatever logits are asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.bundle.mtp import HIDDEN
from edgepress.exporter.graph.builder import CONTRIB, FLOAT
from edgepress.exporter.graph.models.integer_cache import add_scales
from edgepress.exporter.graph.primitives import PER_LAYER, DecoderBuilder
from edgepress.exporter.graph.rotary import CONTEXT_LENGTH
from edgepress.exporter.model.copies import write_added, write_corrected, write_predicted, write_started, write_united
from edgepress.exporter.model.description import AltUp, Block, Decoder, Layer, PerLayer, Rotation
from edgepress.exporter.model.mixers import load_mixer
from edgepress.exporter.model.parts.primitives import Norm, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.plan.plan import Plan
from edgepress.targets import Operator

INT32, INT64, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8


def build_decoder(
    decoder: Decoder,
    plan: Plan,
    *,
    data_file: str,
    version: str,
    has_half: Callable[[Operator], bool] = lambda _: False,
) -> onnx.ModelProto:
    """Return the model of ``decoder`` with the weights that ``plan`` places in ``data_file``.

    ``has_half`` says for which operators there is a float16 kernel: the plan's float16 layers compute those in float16.
    """
    graph = DecoderBuilder(decoder, plan, data_file, has_half)
    DecoderGraph(graph).write()
    graph.check_slots()
    model = graph.model(decoder.model_type, version)
    add_scales(model.graph, plan)
    onnx.helper.set_model_props(model, {CONTEXT_LENGTH: str(plan.context_length)})
    return model


@dataclass(frozen=True)
class _Stream:
    """The residual stream: its value is ``x``, plus ``pending`` which the next norm adds on its way (fused)."""

    x: str
    pending: str | None = None


def _last_with_states(decoder: Decoder) -> tuple[int, int]:
    """Layer and number of the last block that needs every position: what follows it needs those with logits only."""
    places = [
        (index, number)
        for index, layer in enumerate(decoder.layers)
        for number, block in enumerate(layer.blocks)
        if block.mixer.states(index)
    ]
    return max(places, default=(0, 0))


def _attends_after(decoder: Decoder, last: tuple[int, int]) -> bool:
    """Whether a block after the one at ``last`` attends, which onnxruntime's operator refuses to do from no token."""
    return any(
        (index, number) > last and not block.mixer.takes_no_tokens
        for index, layer in enumerate(decoder.layers)
        for number, block in enumerate(layer.blocks)
    )


def _number(value: float) -> np.ndarray[tuple[()], np.dtype[np.float32]]:
    return np.array(value, np.float32)


class DecoderGraph:
    """Writes the subgraphs of one decoder in the order in which data flows."""

    def __init__(self, graph: DecoderBuilder) -> None:
        self.graph, self.decoder, self.plan = graph, graph.decoder, graph.plan
        self._one_multiplier = len({block.multiplier for block in every(Block, graph.decoder.layers)}) == 1

    def write(self) -> None:
        """Write the whole graph: inputs, embedding, layers, head."""
        self.graph.token_inputs(self.decoder.vocab_size)
        if self.decoder.positions is not None:
            self.graph.position_ids()
        self.head(self.hidden(self.embed()))

    def hidden(self, x: str) -> str:
        """What the final norm gives of an embedded text, of the positions that get logits.

        Where something predicts a token further, that reads it: it is given of all positions, and layers compute all.
        """
        g, stream = self.graph, _Stream(x)
        last = (len(self.decoder.layers), 0) if self.decoder.mtp is not None else _last_with_states(self.decoder)
        g.keeps_one = _attends_after(self.decoder, last)
        for index, layer in enumerate(self.decoder.layers):
            with g.in_half(index in self.plan.half_layers):
                trimmed = layer.blocks[last[1]] if index == last[0] else None
                stream = self._layer(index, layer, stream, trimmed)
        if self.decoder.copies is not None:
            stream = _Stream(write_united(g, self.decoder.copies, stream.x))
        if self.decoder.rotation is not None:
            total = stream.x if stream.pending is None else g.node("Add", [stream.x, stream.pending], "rotated")
            stream = _Stream(self._rotate_stream(self.decoder.rotation, total, "rotated_back", back=True))
        hidden, _ = g.norm_of_sum(self.decoder.final_norm, stream.x, stream.pending, "final_norm")
        if self.decoder.mtp is not None:
            self.give(HIDDEN, hidden)
            hidden = g.trim(hidden)
        return hidden

    def give(self, output: str, hidden: str) -> None:
        """Make what is (batch, positions, hidden) an output of the graph."""
        self.graph.output(output, FLOAT, ["batch", "positions", self.decoder.hidden_size])
        self.graph.node("Identity", [hidden], output)

    # ---- embedding ---------------------------------------------------------------------------------------------------

    def embed(self) -> str:
        """Look up (batch, sequence, hidden), scale, add learned positions."""
        g = self.graph
        x = self._scaled(self.graph.rows(self.decoder.embedding, "embedded"), self.decoder.embedding_multiplier)
        if self.decoder.embedding_projection is not None:
            x = g.linear(self.decoder.embedding_projection, x)
        if self.decoder.positions is not None:
            added = g.node("Gather", [g.weight(self.decoder.positions), "position_ids"], "positions_embedded")
            x = g.node("Add", [x, added], "embedded.positioned")
        x = g.norm(self.decoder.embedding_norm, x, "embedded.norm")
        if self.decoder.per_layer is not None:
            self._per_layer(self.decoder.per_layer, x)
        if self.decoder.rotation is not None:
            x = self._rotate_stream(self.decoder.rotation, x, "embedded.rotated", back=False)
        return x if self.decoder.copies is None else write_started(g, self.decoder.copies, x)

    def _per_layer(self, inputs: PerLayer, embedded: str) -> None:
        """What every layer gets of its tokens, (batch, sequence, columns of all layers).

        ::

            input_ids ─ (Where) ─ Gather rows ─ Mul ─────────────────────────────────┐
            embedded ─ projection ─ Reshape (…, layers, width) ─ norm ─ Mul ─ Reshape ┴ Add
        """
        g, width = self.graph, inputs.norm.weight.shape[0]
        ids = self._ids_within(inputs.table.shape[0])
        rows = self._scaled(self.graph.rows(inputs.table, f"{PER_LAYER}.rows", ids), inputs.multiplier)
        by_layer = g.constant("by_layer", np.array([0, 0, -1, width], np.int64))
        flat = g.constant(f"flat_{inputs.columns}", np.array([0, 0, inputs.columns], np.int64))
        y = g.node("Reshape", [g.linear(inputs.projection, embedded), by_layer], f"{PER_LAYER}.by_layer")
        y = self._scaled(g.norm(inputs.norm, y, f"{PER_LAYER}.norm"), inputs.scale)
        y = g.node("Reshape", [y, flat], f"{PER_LAYER}.projected")
        g.node("Add", [rows, y], PER_LAYER)

    def _scaled(self, x: str, multiplier: float) -> str:
        """Multiply by a constant that is named after x; nothing to do for 1."""
        if multiplier == 1.0:
            return x
        name = {"embedded": "embedding_multiplier"}.get(x, f"{x}.multiplier")
        return self.graph.node("Mul", [x, self.graph.constant(name, np.array(multiplier, np.float32))], f"{x}.scaled")

    def _ids_within(self, rows: int) -> str:
        """The tokens, those beyond the rows of a table as token 0."""
        g = self.graph
        if rows >= self.decoder.vocab_size:
            return "input_ids"
        count, first = (g.constant(f"row_{n}", np.array(n, np.int64)) for n in (rows, 0))
        return g.node("Where", [g.node("Less", ["input_ids", count], "has_row"), "input_ids", first], "rows_read")

    def _rotate_stream(self, rotation: Rotation, x: str, output: str, *, back: bool) -> str:
        """Compute x (A ⊗ B), or x (A ⊗ B)ᵀ to go ``back``, as products with the factors.

        ::

            x ─ Reshape (…, left, right) ─ FusedMatMul(Aᵀ, ·) ─ FusedMatMul(·, B) ─ Reshape (…, hidden)
        """
        g, left, right = self.graph, rotation.left, rotation.right
        a, b = (
            g.external(table.name, FLOAT, table.shape, table.region)
            for table in (self.plan.table("rotation.left"), self.plan.table("rotation.right"))
        )
        matrix = g.constant("as_matrix", np.array([0, 0, left, right], np.int64))
        vector = g.constant("as_vector", np.array([0, 0, left * right], np.int64))
        y = g.node("Reshape", [x, matrix], f"{output}.matrix")
        y = g.node("FusedMatMul", [a, y], f"{output}.left", domain=CONTRIB, transA=int(not back))
        y = g.node("FusedMatMul", [y, b], f"{output}.right", domain=CONTRIB, transB=int(back))
        return g.node("Reshape", [y, vector], output)

    # ---- layers -------------------------------------------------------------------------------------------------

    def _layer(self, index: int, layer: Layer, stream: _Stream, trimmed: Block | None) -> _Stream:
        """The stream after a layer; where it has copies, its value is all of them."""
        if layer.altup is not None:
            return self._layer_of_copies(index, layer, layer.altup, stream, trimmed)
        for stage in layer.stages:
            stream = self._stage(index, stage, stream, trimmed)
        if layer.scale is None:
            return stream
        return _Stream(self._scaled_layer(index, layer.scale, stream))

    def _layer_of_copies(
        self, index: int, layer: Layer, altup: AltUp, stream: _Stream, trimmed: Block | None
    ) -> _Stream:
        """AltUp: predict, the blocks on the active copy, correct, and the blocks that add to the copies.

        ::

            copies ─ predict ┬──────────────────── correct ┬─────────── Add ─ copies
                             └ active copy ─ blocks ┘      └ blocks ─┘
        """
        g, name = self.graph, f"layers.{index}.altup"
        copies, x = write_predicted(g, altup, name, stream.x)
        active = _Stream(x)
        for stage in layer.stages:
            if not stage[0].to_copies:
                active = self._stage(index, stage, active, trimmed)
        if trimmed is not None:
            copies = g.trim(copies)
        y = active.x if active.pending is None else g.node("Add", [active.x, active.pending], f"{name}.activated")
        copies, read = write_corrected(g, altup, name, copies, y)
        for number, stage in enumerate(stage for stage in layer.stages if stage[0].to_copies):
            added = self._stage(index, stage, _Stream(read), None)
            assert added.pending is not None
            copies = write_added(g, altup, f"{name}.{number}", copies, added.pending)
        return _Stream(copies)

    def _scaled_layer(self, index: int, scale: Weight, stream: _Stream) -> str:
        """The stream after a layer, times a number that the checkpoint has."""
        g, name = self.graph, f"layers.{index}"
        total = stream.x if stream.pending is None else g.node("Add", [stream.x, stream.pending], f"{name}.sum")
        return g.node("Mul", [total, g.weight(scale)], f"{name}.scaled")

    def _stage(self, index: int, stage: tuple[Block, ...], stream: _Stream, trimmed: Block | None) -> _Stream:
        """Blocks that read the same; of the ``trimmed`` one on, the positions from ``logits_start`` on alone.

        ::

            x ─┬ norm ┬ attention ┐
               │      └ mlp ──────┴ Add ─ what the next norm adds
               └ x
        """
        g, name = self.graph, f"layers.{index}"
        x, pending, total = stream.x, stream.pending, None
        normed: dict[Norm | None, str] = {}
        for block in stage:
            if block.norm not in normed:  # the others read what the first norm has added up
                normed[block.norm], x = g.norm_of_sum(block.norm, x, pending, f"{name}.{block.name}_norm")
                pending = None
        for number, block in enumerate(stage):
            mixed = self._mixed(index, block, normed[block.norm])
            if block is trimmed:
                mixed, x = self._trim_mixed(index, mixed), self.graph.trim(x, f"{name}.trimmed")
                total = total and self.graph.trim(total, f"{total}.trimmed")
                g.trimmed = True
                later = {other.norm for other in stage[number + 1 :]}
                normed |= {norm: self.graph.trim(normed[norm], f"{normed[norm]}.trimmed") for norm in later}
            y = self._output(index, block, mixed, normed[block.norm])
            total = y if total is None else g.node("Add", [total, y], f"{name}.{block.name}_sum")
        last = stage[-1]
        if last.sum_norm is not None and total is not None:
            total = g.norm(last.sum_norm, total, f"{name}.{last.name}_sum_norm")
        if last.stream_multiplier != 1.0:
            factor = g.constant(f"stream_multiplier_{last.stream_multiplier:.9g}", _number(last.stream_multiplier))
            x = g.node("Add", [x, total or ""], f"{name}.{last.name}_total")
            x, total = g.node("Mul", [x, factor], f"{name}.{last.name}_scaled"), None
        if last.stream_norm is None:
            return _Stream(x, total)
        return _Stream(g.norm_of_sum(last.stream_norm, x, total, f"{name}.{last.name}_stream_norm")[0])

    def _mixed(self, index: int, block: Block, hidden: str) -> str:
        """What goes into a block's output projection."""
        mixer = block.mixer
        states = [self.graph.state(self.plan.state(state.name)) for state in mixer.states(index)]
        return load_mixer(mixer.kind).write(mixer, self.graph, f"layers.{index}.{block.name}", hidden, states)

    def _trim_mixed(self, index: int, mixed: str) -> str:
        _, _, what = mixed.rpartition(".")
        return self.graph.trim(mixed, f"layers.{index}.{what}.trimmed")

    def _output(self, index: int, block: Block, mixed: str, hidden: str) -> str:
        """What a block adds to the stream, ``hidden`` being its input."""
        g, y = self.graph, mixed
        if not block.mixer.ends_in_sum:
            y = g.linear(block.mixer.output_projection, mixed, normed=not block.mixer.scaled_by_token)
        post = f"layers.{index}.{block.name}_post_norm"
        if block.post_norm is not None:
            y = g.norm(block.post_norm, y, post)
        if block.adds_input:
            y = g.node("Add", [hidden, y], f"{post}.with_input")
        if block.multiplier != 1.0:
            key = "residual_multiplier" if self._one_multiplier else f"residual_multiplier_{block.multiplier:.9g}"
            factor = g.constant(key, np.array(block.multiplier, np.float32))
            y = g.node("Mul", [y, factor], f"{post}.scaled")
        return y

    # ---- head ---------------------------------------------------------------------------------------------------

    def head(self, hidden: str) -> None:
        """``logits = softcap(multiplier · head(head_projection(hidden)))``."""
        g, decoder = self.graph, self.decoder
        hidden = g.drop(hidden)
        if decoder.head_projection is not None:
            hidden = g.linear(decoder.head_projection, hidden)
        steps: list[tuple[str, str, np.ndarray[tuple[()], np.dtype[np.float32]] | None]] = []
        if decoder.logits_multiplier != 1.0:
            steps.append(("Mul", "logits_multiplier", np.array(decoder.logits_multiplier, np.float32)))
        if decoder.logits_softcap:
            cap = np.array(decoder.logits_softcap, np.float32)
            steps += [("Div", "logits_softcap", cap), ("Tanh", "", None), ("Mul", "logits_softcap", cap)]
        value = g.linear(decoder.head, hidden, output="logits.0" if steps else "logits")
        for number, (op, name, constant) in enumerate(steps, 1):
            inputs = [value] if constant is None else [value, g.constant(name, constant)]
            value = g.node(op, inputs, "logits" if number == len(steps) else f"logits.{number}")
