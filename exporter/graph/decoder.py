"""The graph of a decoder: one step of prefill or decode, with the key-value cache as inputs and outputs.

Inputs: ``input_ids`` (batch, sequence) int64, ``attention_mask`` (batch, total) int64 with total = past + sequence,
``past_key_values.{i}.key`` and ``.value`` (batch, kv_heads, past, head_dim) float32. Outputs: ``logits``
(batch, positions, vocabulary) float32 and ``present.{i}.key``/``.value``. When past and present are bound to one
buffer of the full context, GroupQueryAttention updates it in place.

``logits`` has the last position only: the initializer ``logits_start`` is [-1]. Overriding it with [0] when the
session is made (``SessionOptions.add_initializer``) gives the logits of every position, from the same graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.exporter.graph.builder import CONTRIB, FLOAT, FLOAT16, GraphBuilder
from edgepress.exporter.graph.linears import Projection, block_scales, write_linear
from edgepress.exporter.graph.rotary import CONTEXT_LENGTH, write_rotary
from edgepress.exporter.model.description import (
    MLP,
    Activation,
    Attention,
    Decoder,
    Layer,
    Linear,
    Norm,
    Rotation,
    Weight,
)
from edgepress.exporter.plan.plan import Plan
from edgepress.targets import Operator

INT32, INT64, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8

LOGITS_START = "logits_start"
_HEAD_MULTIPLE = 8  # onnxruntime's CPU kernel; what is rotated inside it must be a multiple of 16
_TO_THE_END = np.iinfo(np.int64).max


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
    graph = GraphBuilder(data_file, has_half)
    writer = _DecoderGraph(graph, decoder, plan)
    writer.write()
    model = graph.model(decoder.model_type, version)
    onnx.helper.set_model_props(model, {CONTEXT_LENGTH: str(plan.context_length)})
    return model


def _rotates_apart(attention: Attention, decoder: Decoder) -> bool:
    """Whether rotary embedding must be a node of its own.

    Inside onnxruntime's GroupQueryAttention heads must be a multiple of 16 wide, and so must what is rotated of them.
    """
    if attention.rope is None:
        return False
    return bool(attention.head_dim % 16 or _rotated_dimensions(attention.rope, decoder) % 16)


def _rotated_dimensions(rope: str, decoder: Decoder) -> int:
    return 2 * len(decoder.ropes[rope].inverse_frequencies)


@dataclass(frozen=True)
class _Stream:
    """The residual stream: its value is ``x``, plus ``pending`` which the next norm adds on its way (fused)."""

    x: str
    pending: str | None = None


class _DecoderGraph:
    """Writes the subgraphs of one decoder in the order in which data flows."""

    def __init__(self, graph: GraphBuilder, decoder: Decoder, plan: Plan) -> None:
        self.graph, self.decoder, self.plan = graph, decoder, plan

    def write(self) -> None:
        self._inputs()
        stream = _Stream(self._embed())
        last = len(self.decoder.layers) - 1
        for index, layer in enumerate(self.decoder.layers):
            with self.graph.in_half(index in self.plan.half_layers):
                stream = self._layer(index, layer, stream, trim=index == last)
        if self.decoder.rotation is not None:
            total = (
                stream.x if stream.pending is None else self.graph.node("Add", [stream.x, stream.pending], "rotated")
            )
            stream = _Stream(self._rotate_stream(self.decoder.rotation, total, "rotated_back", back=True))
        hidden, _ = self._norm(self.decoder.final_norm, stream, "final_norm")
        self._head(hidden)

    # ---- inputs -------------------------------------------------------------------------------------------------

    def _inputs(self) -> None:
        """Declare the inputs and derive what attention needs from the mask.

        ::

            attention_mask ─ ReduceSum ─ Sub 1 ─ Cast ─ seqlens_k (batch,)
                           └ Shape[1] ─ Cast ───────── total_length ()
        """
        g = self.graph
        g.input("input_ids", INT64, ["batch", "sequence"])
        g.input("attention_mask", INT64, ["batch", "total"])
        g.output("logits", FLOAT, ["batch", 1, self.decoder.vocab_size])
        one = g.constant("one", np.array([1], np.int64))
        lengths = g.node("ReduceSum", ["attention_mask", one], "lengths", keepdims=0)  # (batch,)
        before = g.node("Sub", [lengths, one], "lengths_minus_1")
        g.node("Cast", [before], "seqlens_k", to=INT32)
        shape = g.node("Shape", ["attention_mask"], "mask_shape", start=1, end=2)  # (1,)
        total = g.node("Squeeze", [shape], "total")
        g.node("Cast", [total], "total_length", to=INT32)
        if self.decoder.positions is not None:
            self._position_ids()

    def _position_ids(self) -> None:
        """``position_ids`` (batch, sequence) = total − sequence, …, total − 1, the same in every row."""
        g = self.graph
        ids_shape = g.node("Shape", ["input_ids"], "ids_shape")  # (2,)
        length = g.node("Gather", [ids_shape, g.constant("index_1", np.array(1, np.int64))], "sequence_length")
        past = g.node("Sub", ["total", length], "past_length")
        step = g.constant("step_1", np.array(1, np.int64))
        row = g.node("Range", [past, "total", step], "positions_row")  # (sequence,)
        g.node("Expand", [row, ids_shape], "position_ids")

    # ---- weights ------------------------------------------------------------------------------------------------

    def _float(self, weight: Weight) -> str:
        tensor = self.plan.of(weight)
        kind = FLOAT16 if tensor.form == "half" else FLOAT
        return self.graph.external(weight.name, kind, weight.shape, tensor.regions["data"])

    def _linear(self, linear: Linear, x: str, output: str, *, normed: bool = True) -> str:
        weight = linear.weight
        tensor = self.plan.of(self.decoder.embedding if weight.kind == "head" and self.decoder.tied else weight)
        bias = self._float(linear.bias) if linear.bias is not None else ""
        projection = Projection(weight, tensor, bias, self.plan.accuracy_level, normed)
        return write_linear(self.graph, projection, x, output)

    def _embed(self) -> str:
        """Look up (batch, sequence, hidden), scale, add learned positions.

        A quantized table is read by GatherBlockQuantized as (vocabulary, row bytes): the same bytes of the data file
        that a tied head reads as (vocabulary, blocks, block bytes). A row's last block is padded in the file, so
        that the padded columns are cut off again when hidden is no multiple of the block.
        """
        g, weight = self.graph, self.decoder.embedding
        tensor = self.plan.of(weight)
        if tensor.scheme is None:
            x = g.node("Gather", [self._float(weight), "input_ids"], "embedded")
        else:
            x = self._embed_quantized()
        if self.decoder.embedding_multiplier != 1.0:
            factor = g.constant("embedding_multiplier", np.array(self.decoder.embedding_multiplier, np.float32))
            x = g.node("Mul", [x, factor], "embedded.scaled")
        if self.decoder.positions is not None:
            added = g.node("Gather", [self._float(self.decoder.positions), "position_ids"], "positions_embedded")
            x = g.node("Add", [x, added], "embedded.positioned")
        if self.decoder.rotation is not None:
            x = self._rotate_stream(self.decoder.rotation, x, "embedded.rotated", back=False)
        return x

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

    def _embed_quantized(self) -> str:
        g, weight = self.graph, self.decoder.embedding
        tensor = self.plan.of(weight)
        scheme = tensor.scheme
        if scheme is None:
            raise ValueError(f"{weight.name} has no scheme")
        rows, hidden = weight.shape
        padded = scheme.blocks(hidden) * scheme.block_size
        table = g.external(f"{weight.name}.rows", UINT8, (rows, padded * scheme.bits // 8), tensor.regions["values"])
        x = g.node(
            "GatherBlockQuantized",
            [table, "input_ids", *block_scales(self.graph, tensor)],
            "embedded",
            domain=CONTRIB,
            bits=scheme.bits,
            block_size=scheme.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if padded == hidden:
            return x
        return self._slice(x, "embedded.cut", axis=2, start=0, stop=hidden)

    def _slice(self, x: str, output: str, *, axis: int, start: int, stop: int) -> str:
        g = self.graph
        bounds = [g.constant(f"slice_{n}", np.array([n], np.int64)) for n in (start, stop, axis)]
        return g.node("Slice", [x, *bounds], output)

    # ---- layers -------------------------------------------------------------------------------------------------

    def _layer(self, index: int, layer: Layer, stream: _Stream, *, trim: bool) -> _Stream:
        """One layer; with ``trim`` (the last one) only the positions from ``logits_start`` on leave attention."""
        name = f"layers.{index}"
        hidden, x = self._norm(layer.attention_norm, stream, f"{name}.attention_norm")
        attended = self._attention(index, layer.attention, hidden)
        if trim:
            attended, x = self._trim(attended, f"{name}.attended.trimmed"), self._trim(x, f"{name}.trimmed")
        attended = self._linear(layer.attention.output, attended, f"{name}.attention.output.y")
        stream = self._add(layer, x, attended, layer.attention_post_norm, f"{name}.attention_post_norm")
        hidden, x = self._norm(layer.mlp_norm, stream, f"{name}.mlp_norm")
        mixed = self._mlp(layer.mlp, hidden, f"{name}.mlp")
        return self._add(layer, x, mixed, layer.mlp_post_norm, f"{name}.mlp_post_norm")

    def _trim(self, x: str, output: str) -> str:
        """Keep the positions from ``logits_start`` on: (batch, sequence, …) → (batch, positions, …)."""
        g = self.graph
        start = g.constant(LOGITS_START, np.array([-1], np.int64))
        stop = g.constant("to_the_end", np.array([_TO_THE_END], np.int64))
        axis = g.constant("slice_1", np.array([1], np.int64))
        return g.node("Slice", [x, start, stop, axis], output)

    def _add(self, layer: Layer, x: str, branch: str, post_norm: Norm | None, name: str) -> _Stream:
        if post_norm is not None:
            branch, _ = self._norm(post_norm, _Stream(branch), name)
        if layer.residual_multiplier != 1.0:
            factor = self.graph.constant("residual_multiplier", np.array(layer.residual_multiplier, np.float32))
            branch = self.graph.node("Mul", [branch, factor], f"{name}.scaled")
        return _Stream(x, branch)

    def _norm(self, norm: Norm | None, stream: _Stream, name: str) -> tuple[str, str]:
        """Return (normed, residual); a pending addend is added by the same node.

        ::

            x ───────┐
            pending ─┴ Skip[Simplified]LayerNormalization ┬ normed
                                                          └ residual = x + pending
        """
        g = self.graph
        if norm is None:
            total = stream.x if stream.pending is None else g.node("Add", [stream.x, stream.pending], f"{name}.sum")
            return total, total
        gains = [self._float(norm.weight)] + ([self._float(norm.bias)] if norm.bias is not None else [])
        simplified = "Simplified" if norm.kind == "rms" else ""
        if stream.pending is None:
            op = f"{simplified}LayerNormalization"
            y = g.node(op, [stream.x, *gains], f"{name}.y", axis=-1, epsilon=norm.epsilon)
            return y, stream.x
        residual = f"{name}.residual"
        y = g.node(
            f"Skip{simplified}LayerNormalization",
            [stream.x, stream.pending, *gains],
            f"{name}.y",
            domain=CONTRIB,
            more_outputs=["", "", residual],
            epsilon=norm.epsilon,
        )
        return y, residual

    def _attention(self, index: int, attention: Attention, hidden: str) -> str:
        """Attend with rotary embedding and cache inside GroupQueryAttention, in float32 as the cache is.

        ::

            hidden ─ qkv ────────────────────────┬ GroupQueryAttention ┬ attended
                       └ (Split ─ norm q, norm k)┘                     └ present.{i}.key, .value
            past_key_values.{i} ─────────────────┘
        """
        g, name = self.graph, f"layers.{index}.attention"
        if attention.head_dim % _HEAD_MULTIPLE:
            raise InputError(
                f"head_dim is {attention.head_dim}; GroupQueryAttention takes multiples of {_HEAD_MULTIPLE} only, "
                "so this model cannot be exported"
            )
        cache: list[int | str] = ["batch", attention.kv_heads, "past", attention.head_dim]
        past = [g.input(f"past_key_values.{index}.{part}", FLOAT, cache) for part in ("key", "value")]
        present = [f"present.{index}.{part}" for part in ("key", "value")]
        for value in present:
            g.output(value, FLOAT, ["batch", attention.kv_heads, "total", attention.head_dim])
        qkv = self._linear(attention.qkv, hidden, f"{name}.qkv.y")
        apart = _rotates_apart(attention, self.decoder)
        rope = [] if attention.rope is None else list(self._rotary(attention.rope))
        query = [qkv, "", ""]
        if apart or attention.query_norm is not None or attention.key_norm is not None:
            query = self._split_qkv(attention, qkv, name)
            query = self._normed(attention, query)
        with g.in_half(False):
            if apart:
                query, rope = self._rotated(attention, query, rope), []
            return g.node(
                "GroupQueryAttention",
                [*query, *past, "seqlens_k", "total_length", *rope],
                f"{name}.attended",
                domain=CONTRIB,
                more_outputs=present,
                num_heads=attention.heads,
                kv_num_heads=attention.kv_heads,
                do_rotary=int(bool(rope)),
                scale=attention.scale,
                softcap=attention.softcap,
                local_window_size=-1 if attention.window is None else attention.window,
            )

    def _split_qkv(self, attention: Attention, qkv: str, name: str) -> list[str]:
        """Split into q, k and v, each (batch, sequence, its heads · head_dim)."""
        widths = [heads * attention.head_dim for heads in (attention.heads, attention.kv_heads, attention.kv_heads)]
        sizes = self.graph.constant(f"qkv_widths_{'_'.join(map(str, widths))}", np.array(widths, np.int64))
        q, k, v = (f"{name}.{part}" for part in "qkv")
        self.graph.node("Split", [qkv, sizes], q, more_outputs=[k, v], axis=-1)
        return [q, k, v]

    def _normed(self, attention: Attention, qkv: list[str]) -> list[str]:
        """Norm q and k, per head or over all heads together."""
        g = self.graph
        q, k, v = qkv
        normed = []
        for norm, x, heads in ((attention.query_norm, q, attention.heads), (attention.key_norm, k, attention.kv_heads)):
            if norm is None or not attention.norm_per_head:
                normed.append(self._norm(norm, _Stream(x), f"{x}_norm")[0])
                continue
            width = heads * attention.head_dim
            by_head = g.constant(f"by_{heads}_heads", np.array([0, 0, heads, attention.head_dim], np.int64))
            flat = g.constant(f"flat_{width}", np.array([0, 0, width], np.int64))
            apart = g.node("Reshape", [x, by_head], f"{x}_by_head")  # (batch, sequence, heads, head_dim)
            y, _ = self._norm(norm, _Stream(apart), f"{x}_norm")
            normed.append(g.node("Reshape", [y, flat], f"{x}_normed"))
        return [*normed, v]

    def _rotated(self, attention: Attention, qkv: list[str], rope: list[str]) -> list[str]:
        """Rotate q and k by nodes of their own; ``rope`` is cos, sin and the row of each token."""
        if attention.rope is None:
            raise ValueError("attention without a rope is not rotated")
        rotated_dimensions = _rotated_dimensions(attention.rope, self.decoder)
        partial = rotated_dimensions < attention.head_dim
        q, k, v = qkv
        cos, sin, rows = rope
        return [
            *(
                self.graph.node(
                    "RotaryEmbedding",
                    [x, rows, cos, sin],
                    f"{x}_rotated",
                    domain=CONTRIB,
                    num_heads=heads,
                    rotary_embedding_dim=rotated_dimensions if partial else 0,
                )
                for x, heads in ((q, attention.heads), (k, attention.kv_heads))
            ),
            v,
        ]

    def _rotary(self, key: str) -> tuple[str, str, str]:
        return write_rotary(self.graph, key, self.decoder.ropes[key])

    def _mlp(self, mlp: MLP, hidden: str, name: str) -> str:
        """``down(act(gate) · up)``; gate and up stay apart: fusing them is measured to gain nothing."""
        g = self.graph
        up = self._linear(mlp.up, hidden, f"{name}.up.y")
        if mlp.gate is None:
            mixed = self._activation(mlp.activation, up, f"{name}.act")
        else:
            gate = self._linear(mlp.gate, hidden, f"{name}.gate.y")
            mixed = g.node("Mul", [self._activation(mlp.activation, gate, f"{name}.act"), up], f"{name}.mixed")
        return self._linear(mlp.down, mixed, f"{name}.down.y", normed=False)

    def _activation(self, kind: Activation, x: str, output: str) -> str:
        g = self.graph
        if kind == "silu":  # x · sigmoid(1.0 · x)
            return g.node("QuickGelu", [x], output, domain=CONTRIB, alpha=1.0)
        if kind == "relu":
            return g.node("Relu", [x], output)
        return g.node("Gelu", [x], output, approximate="tanh" if kind == "gelu_tanh" else "none")

    # ---- head ---------------------------------------------------------------------------------------------------

    def _head(self, hidden: str) -> None:
        """``logits = softcap(multiplier · head(hidden))``."""
        g, decoder = self.graph, self.decoder
        steps: list[tuple[str, str, np.ndarray[tuple[()], np.dtype[np.float32]] | None]] = []
        if decoder.logits_multiplier != 1.0:
            steps.append(("Mul", "logits_multiplier", np.array(decoder.logits_multiplier, np.float32)))
        if decoder.logits_softcap:
            cap = np.array(decoder.logits_softcap, np.float32)
            steps += [("Div", "logits_softcap", cap), ("Tanh", "", None), ("Mul", "logits_softcap", cap)]
        value = self._linear(decoder.head, hidden, "logits.0" if steps else "logits")
        for number, (op, name, constant) in enumerate(steps, 1):
            inputs = [value] if constant is None else [value, g.constant(name, constant)]
            value = g.node(op, inputs, "logits" if number == len(steps) else f"logits.{number}")
