"""What a decoder's subgraphs are written with: projections and norms as the plan stores them, rotary tables.

:class:`DecoderBuilder` is what mixers ask for (:class:`edgepress.exporter.model.mixers.GraphWriter`).
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from edgepress.bundle.states import State
from edgepress.exporter.graph.builder import CONTRIB, FLOAT, FLOAT16, GraphBuilder
from edgepress.exporter.graph.linears import Projection, block_scales, write_linear, write_slot
from edgepress.exporter.graph.rotary import write_alibi, write_query_factors, write_rotary
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers import Stacked
from edgepress.exporter.model.parts.primitives import Alibi, Linear, Norm, Weight
from edgepress.exporter.plan.forms import INT8_LEVEL
from edgepress.exporter.plan.plan import Plan, PlannedTensor, Region
from edgepress.targets import Operator

INT32, INT64, UINT8, BYTE = TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, 8
_STATE_TYPES = {"float32": FLOAT, "float16": FLOAT16, "int8": TensorProto.INT8, "uint8": UINT8}
_NORMS = {"rms": "SimplifiedLayerNormalization", "layer": "LayerNormalization"}
POSITIONS_ROW = "positions_row"
"""The value with the position of each token of a call, (sequence,)."""
LOGITS_START = "logits_start"
LOGITS_STOP = "logits_stop"
PER_LAYER = "per_layer"  # (batch, sequence, columns of all layers)
_TO_THE_END = np.iinfo(np.int64).max
_FAR = 1 << 62  # not the same: onnxruntime merges equal constants, and drops a Slice from 0 on to the end


class PlannedBuilder(GraphBuilder):
    """Builds a graph whose weights lie in ``data_file`` as ``plan`` says; a head reads the bytes of ``tied``."""

    def __init__(
        self, plan: Plan, tied: Weight | None, data_file: str, has_half: Callable[[Operator], bool] = lambda _: False
    ) -> None:
        super().__init__(data_file, has_half)
        self.plan, self._tied = plan, tied
        self.keeps_one = False  # whether :meth:`trim` keeps a position at least, though no logits are wanted

    def weight(self, weight: Weight) -> str:
        """A weight that is not rounded."""
        tensor = self.plan.of(weight)
        kind = FLOAT16 if tensor.form == "half" else FLOAT
        return self.external(weight.name, kind, weight.shape, tensor.regions["data"])

    def linear(self, linear: Linear, x: str, *, normed: bool = True, output: str = "") -> str:
        """A projection as the plan stores it; the result is named after its weight, or ``output``."""
        weight = linear.weight
        tensor = self.plan.of(weight if weight.kind != "head" or self._tied is None else self._tied)
        bias = self.weight(linear.bias) if linear.bias is not None else ""
        projection = Projection(weight, tensor, bias, self.plan.accuracy_level, normed)
        output = output or f"{weight.name}.y"
        slot = self.plan.slot(weight.name)
        if slot is None:
            return write_linear(self, projection, x, output)
        return write_slot(self, slot, x, write_linear(self, projection, x, f"{output}.without_adapter"), output)

    def rows(self, weight: Weight, output: str, ids: str = "input_ids") -> str:
        """The rows of a table that belong to the tokens, (batch, sequence, columns).

        A quantized table is read by GatherBlockQuantized as (vocabulary, row bytes): the same bytes of the data file
        that a tied head reads as (vocabulary, blocks, block bytes). A row's last block is padded in the file, so
        that the padded columns are cut off again when hidden is no multiple of the block.
        """
        tensor = self.plan.of(weight)
        scheme = tensor.scheme
        if scheme is None:
            return self.node("Gather", [self.weight(weight), ids], output)
        rows, columns = weight.shape
        padded = scheme.blocks(columns) * scheme.block_size
        table = self.external(f"{weight.name}.rows", UINT8, (rows, padded * scheme.bits // 8), tensor.regions["values"])
        x = self.node(
            "GatherBlockQuantized",
            [table, ids, *block_scales(self, tensor)],
            output,
            domain=CONTRIB,
            bits=scheme.bits,
            block_size=scheme.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if padded == columns:
            return x
        bounds = [self.constant(f"slice_{n}", np.array([n], np.int64)) for n in (0, columns, 2)]
        return self.node("Slice", [x, *bounds], f"{output}.cut")

    def token_inputs(self, vocab_size: int) -> None:
        """Declare the inputs and derive what attention needs from the mask; declare the logits.

        ::

            attention_mask ─ ReduceSum ─ Sub 1 ─ Cast ─ seqlens_k (batch,)
                           └ Shape[1] ─ Cast ───────── total_length ()
        """
        self.input("input_ids", INT64, ["batch", "sequence"])
        self.input("attention_mask", INT64, ["batch", "total"])
        self.output("logits", FLOAT, ["batch", 1, vocab_size])
        one = self.constant("one", np.array([1], np.int64))
        lengths = self.node("ReduceSum", ["attention_mask", one], "lengths", keepdims=0)  # (batch,)
        before = self.node("Sub", [lengths, one], "lengths_minus_1")
        self.node("Cast", [before], "seqlens_k", to=INT32)
        shape = self.node("Shape", ["attention_mask"], "mask_shape", start=1, end=2)  # (1,)
        total = self.node("Squeeze", [shape], "total")
        self.node("Cast", [total], "total_length", to=INT32)

    def position_ids(self) -> str:
        """``position_ids`` (batch, sequence) = total − sequence, …, total − 1, the same in every row."""
        ids_shape = self.node("Shape", ["input_ids"], "ids_shape")  # (2,)
        length = self.node("Gather", [ids_shape, self.constant("index_1", np.array(1, np.int64))], "sequence_length")
        past = self.node("Sub", ["total", length], "past_length")
        step = self.constant("step_1", np.array(1, np.int64))
        row = self.node("Range", [past, "total", step], POSITIONS_ROW)  # (sequence,)
        return self.node("Expand", [row, ids_shape], "position_ids")

    def state(self, state: State) -> tuple[str, str]:
        """Declare a state: an input before a call, an output after it."""
        kind = _STATE_TYPES[state.type]
        return self.input(state.input, kind, state.input_shape), self.output(state.output, kind, state.output_shape)

    def norm(self, norm: Norm | None, x: str, name: str, *, rows: int = 1) -> str:
        """``x`` normalized over its last axis; with ``rows``, (…, rows, width), each has a gain and bias of its own."""
        if norm is None or rows == 1:
            return self.norm_of_sum(norm, x, None, name)[0]
        gains = [self._by_row(weight, rows) for weight in (norm.weight, norm.bias) if weight is not None]
        return self.node(_NORMS[norm.kind], [x, *gains], f"{name}.y", axis=-1, epsilon=norm.epsilon)

    def _by_row(self, weight: Weight, rows: int) -> str:
        """A weight of all rows together as (rows, width)."""
        shape = (rows, prod(weight.shape) // rows)
        kind = FLOAT16 if self.plan.of(weight).form == "half" else FLOAT
        return self.external(weight.name, kind, shape, self.plan.of(weight).regions["data"])

    def norm_of_sum(self, norm: Norm | None, x: str, pending: str | None, name: str) -> tuple[str, str]:
        """Return (normed, residual) of x + pending; a pending addend is added by the same node.

        ::

            x ───────┐
            pending ─┴ Skip[Simplified]LayerNormalization ┬ normed
                                                          └ residual = x + pending
        """
        if norm is None:
            total = x if pending is None else self.node("Add", [x, pending], f"{name}.sum")
            return total, total
        gains = [self.weight(norm.weight)] + ([self.weight(norm.bias)] if norm.bias is not None else [])
        if pending is None:
            return self.node(_NORMS[norm.kind], [x, *gains], f"{name}.y", axis=-1, epsilon=norm.epsilon), x
        residual = f"{name}.residual"
        y = self.node(
            f"Skip{_NORMS[norm.kind]}",
            [x, pending, *gains],
            f"{name}.y",
            domain=CONTRIB,
            more_outputs=["", "", residual],
            epsilon=norm.epsilon,
        )
        return y, residual

    def trim(self, x: str, output: str = "") -> str:
        """Keep the positions from ``logits_start`` to ``logits_stop``, once.

        (batch, sequence, …) → (batch, positions, …). Where at least one is kept, it is :meth:`drop` that stops.
        """
        output = output or f"{x}.trimmed"
        if self.has_value(output):
            return output
        start = self.constant(LOGITS_START, np.array([-1], np.int64))
        stop = self.constant("to_the_end", np.array([_TO_THE_END], np.int64)) if self.keeps_one else self._stop()
        return self._positions(x, start, stop, output)

    def drop(self, x: str) -> str:
        """Keep of positions that were trimmed those before ``logits_stop``, where that is still to be done."""
        if not self.keeps_one:
            return x
        return self._positions(x, self.constant("first", np.array([0], np.int64)), self._stop(), f"{x}.wanted")

    def _stop(self) -> str:
        return self.constant(LOGITS_STOP, np.array([_FAR], np.int64))

    def _positions(self, x: str, start: str, stop: str, output: str) -> str:
        return self.node("Slice", [x, start, stop, self.constant("slice_1", np.array([1], np.int64))], output)


class DecoderBuilder(PlannedBuilder):
    """Builds the graph of one decoder from its plan, whose weights lie in ``data_file``."""

    def __init__(self, decoder: Decoder, plan: Plan, data_file: str, has_half: Callable[[Operator], bool]) -> None:
        super().__init__(plan, decoder.embedding if decoder.tied else None, data_file, has_half)
        self.decoder = decoder
        self.trimmed = False  # whether what is written sees the positions from ``logits_start`` on alone

    def keeps_window(self, state: str) -> bool:
        """Whether the state that this input is keeps the tokens of a window alone."""
        return any(one.input == state and one.kind == "window" for one in self.plan.states)

    def check_slots(self) -> None:
        """Raise a ValueError when a slot of the plan was not written, as its product is no :meth:`linear`."""
        slots = () if self.plan.adapter_slots is None else self.plan.adapter_slots.slots
        for slot in slots:
            if not self.has_value(f"{slot.name}.adapted"):
                raise ValueError(f"nothing in the graph computes {slot.name} as a projection, so it can have no slot")

    @property
    def accuracy_level(self) -> int:
        """That of products with weights in codes."""
        return self.plan.accuracy_level

    def stack(self, linears: Sequence[Linear]) -> Stacked:
        """Projections that the plan has laid one after the other, as one tensor."""
        first, rows = self.plan.of(linears[0].weight), linears[0].weight.shape[0]
        bias = (
            "" if linears[0].bias is None else self._whole_stack(self.plan.of(linears[0].bias), "data", FLOAT, (rows,))
        )
        scheme = first.scheme
        if scheme is None:
            kind = FLOAT16 if first.form == "half" else FLOAT
            return Stacked(self._whole_stack(first, "data", kind, first.weight.shape), bias)
        columns = first.weight.shape[1]
        packed = (rows, columns * scheme.bits // 8)
        values = self._whole_stack(first, "values", UINT8, packed)
        kind = FLOAT16 if first.form == "half blocks" else FLOAT
        scales = self._whole_stack(first, "scales", kind, scheme.scales_shape(rows, columns))
        zeros = ""
        if not scheme.symmetric:
            zeros = self._whole_stack(first, "zero_points", UINT8, scheme.zero_points_shape(rows, columns))
        if scheme.bits == BYTE and self.accuracy_level != INT8_LEVEL:
            scales = self._made_at_each_call(scales)
        return Stacked(values, bias, scheme.bits, scheme.block_size, scales, zeros)

    def _made_at_each_call(self, scales: str) -> str:
        """The same scales, as no constant.

        QMoE rounds activations to 8 bits at every level where 8-bit weights have constant scales; where they have
        none there is nothing to pack, and it dequantizes.

        ::

            total ─ Cast ─ Sub(itself) ─┬ Add ─ scales
            scales ─────────────────────┘
        """
        if not self.has_value("nothing"):
            total = self.node("Cast", ["total"], "total_float", to=FLOAT)
            self.node("Sub", [total, total], "nothing")
        return self.node("Add", [scales, "nothing"], f"{scales}.at_each_call")

    def _whole_stack(self, first: PlannedTensor, part: str, kind: int, shape: tuple[int, ...]) -> str:
        """A part of all weights of a stack, of which ``first`` is the first: (count, …)."""
        stack, region = first.weight.stack, first.regions[part]
        if stack is None or stack.index:
            raise ValueError(f"{first.weight.name} is not the first of a stack")
        name = f"{stack.name}.{'bias' if first.weight.kind == 'bias' else part}"
        return self.external(name, kind, (stack.count, *shape), Region(region.offset, region.nbytes * stack.count))

    def alibi(self, alibi: Alibi) -> str:
        """What ALiBi adds to scores, (1, heads, sequence, total)."""
        return write_alibi(self, alibi)

    def rotary(self, rope: str) -> tuple[str, str, str]:
        """Cos and sin of a call's positions, and the row of each token."""
        cos, sin, rows = write_rotary(self, rope, self.decoder.ropes[rope])
        return cos, sin, self.trim(rows) if self.trimmed else rows

    def per_layer(self, first: int, width: int) -> str:
        """Some columns of what the decoder's layers get beside the stream."""
        piece = f"{PER_LAYER}.{first // width}"
        if not self.has_value(piece):
            self._split(width)
        return self.trim(piece) if self.trimmed else piece

    def _split(self, width: int) -> None:
        """Split into what each layer gets, once."""
        if self.decoder.per_layer is None:
            raise ValueError("this decoder's layers get nothing beside the stream")
        pieces = [f"{PER_LAYER}.{index}" for index in range(self.decoder.per_layer.columns // width)]
        sizes = self.constant("per_layer_widths", np.full(len(pieces), width, np.int64))
        self.node("Split", [PER_LAYER, sizes], pieces[0], more_outputs=pieces[1:], axis=-1)

    def rotated_dimensions(self, rope: str) -> int:
        """How many dimensions of a head the tables rotate."""
        return 2 * len(self.decoder.ropes[rope].inverse_frequencies)

    def query_factors(self, rope: str) -> str:
        """What queries are multiplied by beside their rotation, (batch, sequence, 1); empty where nothing does."""
        growth = self.decoder.ropes[rope].query_growth
        return "" if growth is None else write_query_factors(self, rope, growth)

    def rotates_neighbours(self, rope: str) -> bool:
        """Whether the pairs that it rotates are neighbours, rather than of the two halves."""
        return self.decoder.ropes[rope].interleaved
