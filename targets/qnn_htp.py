"""Qualcomm's Hexagon tensor processor (HTP) through onnxruntime's QNN provider."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgepress.targets import Soc, Target

Layout = Literal["tensor", "channel", "block"]
"""What shares a scale and a zero point: the whole weight, a channel of it, or a block of a channel."""


@dataclass(frozen=True)
class StoredWeight:
    """How a quantized weight is stored, and for what.

    ``operator`` reads the dequantized weight, ``kind`` is the type of its codes and ``activations`` that of the codes
    that the operator's first input was dequantized from; for Gather, whose first input is the weight, those that its
    output is quantized to. ``centred`` says that all zero points are 0 as stored,
    ``negative`` that a scale is below 0.
    """

    operator: str
    kind: str
    layout: Layout
    centred: bool
    negative: bool
    activations: str


@dataclass(frozen=True)
class Rule:
    """Quantized weights that the HTP leaves to the CPU, or (``wrong``) takes and computes wrongly without a word.

    ``centred`` and ``negative`` are None where a rule is for either; the rest is of :class:`StoredWeight`.
    """

    operators: tuple[str, ...]
    weights: tuple[str, ...]
    layout: Layout
    activations: tuple[str, ...]
    remedy: str
    wrong: bool = False
    centred: bool | None = None
    negative: bool | None = None

    def speaks_of(self, weight: StoredWeight) -> bool:
        """Whether this rule is about such a weight."""
        return (
            weight.operator in self.operators
            and weight.kind in self.weights
            and weight.layout == self.layout
            and weight.activations in self.activations
            and self.centred in {None, weight.centred}
            and self.negative in {None, weight.negative}
        )


@dataclass(frozen=True)
class ShapeRule:
    """Operators that the HTP takes and computes wrongly, without a word, for some shapes of their first input.

    Wrong results were seen only where the axes before the last two have more than one element together, for some sizes
    and not for others without a bound that could be told; so the rule is about all of them. ``activations`` are types
    of the codes that the first input was dequantized from, ``""`` for floats (in float16). ``fixed_by`` names the pass
    of the exporter that applies the remedy.
    """

    operators: tuple[str, ...]
    activations: tuple[str, ...]
    remedy: str
    fixed_by: str

    def speaks_of(self, operator: str, shape: Sequence[int], activations: str) -> bool:
        """Whether this rule is about an operator that reads such a value."""
        return operator in self.operators and activations in self.activations and math.prod(shape[:-2]) > 1


Reading = tuple[Sequence[int], Sequence[int]]
"""Shapes of an operand and of the result of the node that reads it."""


@dataclass(frozen=True)
class LookupRule:
    """Rows that Gather looks up in a table of codes, and that the HTP gives wrongly, without a word, to their readers.

    Where two nodes or more read (1, 1, S, W) as (1, H, S, W), the compiler looks rows up in tiles of S, with the first
    tile's indices for every tile. Seen for some sizes and not for others without a bound that could be told, so the
    rule is about all of them; never seen where the axis that is broadcast comes after S, (1, S, 1, W) as (1, S, H, W).
    """

    activations: tuple[str, ...]
    indices: tuple[str, ...]
    remedy: str

    def speaks_of(self, activations: str, indices: str, readings: Sequence[Reading]) -> bool:
        """Whether this rule is about rows of such codes, looked up by such indices and read like this."""
        if activations not in self.activations or indices not in self.indices:
            return False
        return sum(_broadcast_before_rows(*reading) for reading in readings) > 1


def _broadcast_before_rows(operand: Sequence[int], result: Sequence[int]) -> bool:
    """Whether the operand is broadcast along an axis that another one of it, but for the last, comes after."""
    aligned = [1] * (len(result) - len(operand)) + list(operand)
    spread = [axis for axis, size in enumerate(aligned) if size < result[axis]]
    return bool(spread) and any(size > 1 for size in aligned[spread[0] + 1 : -1])


PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
NORMS = ("RMSNormalization", "LayerNormalization")
FOUR, EIGHT, SIXTEEN = ("int4", "uint4"), ("int8", "uint8"), ("int16", "uint16")

# What was found by asking onnxruntime-qnn 2.7.0; tests/targets/test_qnn_rules.py asks again for every rule, on five
# versions of the HTP. Zero points are those stored: 0 is the middle of int4 and the end of uint4.
RULES = (
    Rule(PRODUCTS, ("int4",), "tensor", SIXTEEN, "int4 with zero point 0", wrong=True, centred=False),
    Rule(PRODUCTS, ("uint4",), "channel", ("uint8", "uint16"), "int4 with zero point 0", wrong=True, centred=True),
    Rule(PRODUCTS, FOUR + EIGHT, "block", SIXTEEN, "int4 with zero point 0", wrong=True, centred=False),
    Rule(PRODUCTS, FOUR + EIGHT, "tensor", ("uint8", "uint16"), "scales above 0", wrong=True, negative=True),
    Rule(PRODUCTS, ("int4", "int8"), "channel", ("uint8", "uint16"), "scales above 0", wrong=True, negative=True),
    Rule(PRODUCTS, ("int4", "int8"), "channel", ("uint8", *SIXTEEN), "zero point 0", centred=False),
    Rule(PRODUCTS, ("uint4",), "channel", ("uint8", *SIXTEEN), "int4 with zero point 0", centred=False),
    Rule(PRODUCTS, ("uint4", "uint8"), "tensor", ("int16",), "uint16 activations"),
    Rule(PRODUCTS, FOUR, "block", ("uint8",), "one scale a channel"),
    Rule(NORMS, ("int8",), "tensor", ("uint8", *SIXTEEN), "a gain in uint8"),
    Rule(NORMS, SIXTEEN, "tensor", ("uint8",), "a gain in uint8"),
    Rule(NORMS, ("int4",), "tensor", SIXTEEN, "a gain in uint8"),
    Rule(("LayerNormalization",), ("uint4", "uint8", "int16"), "tensor", ("int16",), "uint16 activations"),
    Rule(("LayerNormalization",), ("uint16",), "tensor", SIXTEEN, "a gain in uint8"),
    Rule(("RMSNormalization",), ("uint16",), "tensor", ("int16",), "uint16 activations"),
    Rule(("Gather",), EIGHT + FOUR + SIXTEEN, "channel", ("uint8", *SIXTEEN), "one scale for the table"),
)

# Right in 16-bit integers, and LayerNormalization is right.
SHAPE_RULES = (
    ShapeRule(("RMSNormalization",), ("", "uint8"), "normalize three dimensions, (1, rows, width)", "flatten-norm"),
)


# Right in floats and with int64 indices, and where a Transpose or a product stands between the lookup and its readers.
LOOKUP_RULES = (LookupRule(SIXTEEN + EIGHT, ("int32",), "let the rows come first: (1, S, 1, W)"),)


def rules_against(weight: StoredWeight) -> list[Rule]:
    """Return the rules that keep a node with such a weight off the HTP, or make it wrong."""
    return [rule for rule in RULES if rule.speaks_of(weight)]


def shape_rules_against(operator: str, shape: Sequence[int], activations: str) -> list[ShapeRule]:
    """Return the rules by which the HTP would compute an operator wrongly for the shape of its first input."""
    return [rule for rule in SHAPE_RULES if rule.speaks_of(operator, shape, activations)]


def lookup_rules_against(activations: str, indices: str, readings: Sequence[Reading]) -> list[LookupRule]:
    """Return the rules by which the HTP would give rows that are looked up wrongly to the nodes that read them."""
    return [rule for rule in LOOKUP_RULES if rule.speaks_of(activations, indices, readings)]


# Number, HTP version, VTCM and float16 are what the compiler in onnxruntime-qnn 2.7.0 (QAIRT 2.51.0) makes of each:
# tests/targets/test_qnn.py compiles for every chip and reads them out of the context binary. Numbers and names agree
# with LiteRT's and ExecuTorch's tables (Qualcomm's, 2026), which call sm8475 v69: this compiler makes v68 code for it.
SOCS = (
    Soc("sm8350", "Snapdragon 888", model=30, arch=68, vtcm_mb=4, float16=False),
    Soc("sm8450", "Snapdragon 8 Gen 1", model=36, arch=69, vtcm_mb=8, float16=True),
    Soc("sm8475", "Snapdragon 8+ Gen 1", model=42, arch=68, vtcm_mb=8, float16=True),
    Soc("sm8550", "Snapdragon 8 Gen 2", model=43, arch=73, vtcm_mb=8, float16=True),
    Soc("sm8635", "Snapdragon 8s Gen 3", model=68, arch=73, vtcm_mb=4, float16=False),
    Soc("sm8650", "Snapdragon 8 Gen 3", model=57, arch=75, vtcm_mb=8, float16=True),
    Soc("sm8735", "Snapdragon 8s Gen 4", model=85, arch=73, vtcm_mb=8, float16=False),
    Soc("sm8750", "Snapdragon 8 Elite", model=69, arch=79, vtcm_mb=8, float16=True),
    Soc("sm8845", "Snapdragon 8 Gen 5", model=97, arch=81, vtcm_mb=8, float16=True),
    Soc("sm8850", "Snapdragon 8 Elite Gen 5", model=87, arch=81, vtcm_mb=8, float16=True),
    Soc("sm7325", "Snapdragon 778G", model=35, arch=68, vtcm_mb=2, float16=False),
    Soc("sm7450", "Snapdragon 7 Gen 1", model=41, arch=68, vtcm_mb=2, float16=True),
    Soc("sm7550", "Snapdragon 7 Gen 3", model=64, arch=73, vtcm_mb=2, float16=False),
    Soc("sm7675", "Snapdragon 7+ Gen 3", model=70, arch=73, vtcm_mb=4, float16=False),
    Soc("sc8280x", "Snapdragon 8cx Gen 3", model=37, arch=68, vtcm_mb=4, float16=False),
    Soc("sc8380xp", "Snapdragon X Elite", model=60, arch=73, vtcm_mb=8, float16=True),
    Soc("sc8480xp", "Snapdragon X2 Elite", model=88, arch=81, vtcm_mb=8, float16=True),
    Soc("qcs6490", "Dragonwing QCS6490 (boards)", model=93, arch=68, vtcm_mb=2, float16=False),
    Soc("qcs8300", "Dragonwing IQ-8 (boards)", model=82, arch=75, vtcm_mb=8, float16=True),
    Soc("qcs8550", "Dragonwing QCS8550 (boards)", model=66, arch=73, vtcm_mb=8, float16=True),
    Soc("qcs9100", "Dragonwing IQ-9 (boards)", model=77, arch=73, vtcm_mb=8, float16=True),
    Soc("sa8295", "SA8295P (cars)", model=39, arch=68, vtcm_mb=8, float16=True),
    Soc("sa8255", "SA8255P (cars)", model=52, arch=73, vtcm_mb=8, float16=True),
    Soc("sxr2230p", "Snapdragon XR2 Gen 2 (headsets)", model=53, arch=69, vtcm_mb=8, float16=True),
)

TARGET = Target(
    name="qnn-htp",
    description="Qualcomm Hexagon NPU (HTP), onnxruntime's QNN provider",
    provider="QNNExecutionProvider",
    checked="asked",
    source="the HTP compiler",
    package="onnxruntime-qnn",
    socs=SOCS,
    qdq=("a8w8", "a16w8", "a16w4"),
    form="static",
    recipes=("int8-static-a16", "int4-channel", "int8-static", "fp16"),
)
