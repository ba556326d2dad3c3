"""What a decoder's subgraphs are written with: projections and norms as the plan stores them, rotary tables.

:class:`DecoderBuilder` is what mixers ask for (:class:`edgepress.exporter.model.mixers.GraphWriter`).
"""

from collections.abc import Callable

from edgepress.exporter.graph.builder import CONTRIB, FLOAT, FLOAT16, GraphBuilder
from edgepress.exporter.graph.linears import Projection, write_linear
from edgepress.exporter.graph.rotary import write_rotary
from edgepress.exporter.model.description import Decoder, Linear, Norm, Weight
from edgepress.exporter.plan.plan import Plan
from edgepress.targets import Operator


class DecoderBuilder(GraphBuilder):
    """Builds the graph of one decoder from its plan, whose weights lie in ``data_file``."""

    def __init__(self, decoder: Decoder, plan: Plan, data_file: str, has_half: Callable[[Operator], bool]) -> None:
        super().__init__(data_file, has_half)
        self.decoder, self.plan = decoder, plan

    def weight(self, weight: Weight) -> str:
        """A weight that is not rounded."""
        tensor = self.plan.of(weight)
        kind = FLOAT16 if tensor.form == "half" else FLOAT
        return self.external(weight.name, kind, weight.shape, tensor.regions["data"])

    def linear(self, linear: Linear, x: str, *, normed: bool = True, output: str = "") -> str:
        """A projection as the plan stores it; the result is named after its weight, or ``output``."""
        weight = linear.weight
        tensor = self.plan.of(self.decoder.embedding if weight.kind == "head" and self.decoder.tied else weight)
        bias = self.weight(linear.bias) if linear.bias is not None else ""
        projection = Projection(weight, tensor, bias, self.plan.accuracy_level, normed)
        return write_linear(self, projection, x, output or f"{weight.name}.y")

    def norm(self, norm: Norm | None, x: str, name: str) -> str:
        """``x`` normalized over its last axis."""
        return self.norm_of_sum(norm, x, None, name)[0]

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
        simplified = "Simplified" if norm.kind == "rms" else ""
        if pending is None:
            op = f"{simplified}LayerNormalization"
            return self.node(op, [x, *gains], f"{name}.y", axis=-1, epsilon=norm.epsilon), x
        residual = f"{name}.residual"
        y = self.node(
            f"Skip{simplified}LayerNormalization",
            [x, pending, *gains],
            f"{name}.y",
            domain=CONTRIB,
            more_outputs=["", "", residual],
            epsilon=norm.epsilon,
        )
        return y, residual

    def rotary(self, rope: str) -> tuple[str, str, str]:
        """Cos and sin of a call's positions, and the row of each token."""
        return write_rotary(self, rope, self.decoder.ropes[rope])

    def rotated_dimensions(self, rope: str) -> int:
        """How many dimensions of a head the tables rotate."""
        return 2 * len(self.decoder.ropes[rope].inverse_frequencies)
