"""Qualcomm's Hexagon tensor processor (HTP) through onnxruntime's QNN provider."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgepress.targets import Soc, Target

Layout = Literal["tensor", "channel", "block"]
"""What shares a scale and a zero point: the whole weight, a channel of it, or a block of a channel."""


@dataclass(frozen=True)
class Rule:
    """Quantized weights that the HTP leaves to the CPU, or (``wrong``) takes and computes wrongly without a word.

    ``operators`` are what reads the dequantized weight, ``weights`` and ``activations`` the types of the codes (the
    activation's are those that the operator's first input was dequantized from), ``zero`` says which zero points the
    rule is for: ``other`` if one of them is not 0.
    """

    operators: tuple[str, ...]
    weights: tuple[str, ...]
    layout: Layout
    zero: Literal["0", "other", "any"]
    activations: tuple[str, ...]
    wrong: bool
    remedy: str

    def speaks_of(
        self, operator: str, weights: str, layout: Layout, zero_points: Sequence[int], activations: str
    ) -> bool:
        """Whether this rule is about a weight of these properties."""
        found = "other" if any(zero_points) else "0"
        return (
            operator in self.operators
            and weights in self.weights
            and layout == self.layout
            and self.zero in {"any", found}
            and activations in self.activations
        )


PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
NORMS = ("RMSNormalization", "LayerNormalization")
FOUR, EIGHT, SIXTEEN = ("int4", "uint4"), ("int8", "uint8"), ("int16", "uint16")

# What was found by asking onnxruntime-qnn 2.7.0; tests/targets/test_qnn_rules.py asks again for every rule, on five
# versions of the HTP. Zero points are those stored: 0 is the middle of int4 and the end of uint4.
RULES = (
    Rule(PRODUCTS, ("int4",), "tensor", "other", SIXTEEN, wrong=True, remedy="int4 with zero point 0"),
    Rule(PRODUCTS, ("uint4",), "channel", "0", ("uint8", "uint16"), wrong=True, remedy="int4 with zero point 0"),
    Rule(PRODUCTS, FOUR + EIGHT, "block", "other", SIXTEEN, wrong=True, remedy="int4 with zero point 0"),
    Rule(PRODUCTS, ("int4", "int8"), "channel", "other", ("uint8", *SIXTEEN), wrong=False, remedy="zero point 0"),
    Rule(PRODUCTS, ("uint4",), "channel", "other", ("uint8", *SIXTEEN), wrong=False, remedy="int4 with zero point 0"),
    Rule(PRODUCTS, ("uint4", "uint8"), "tensor", "any", ("int16",), wrong=False, remedy="uint16 activations"),
    Rule(PRODUCTS, FOUR, "block", "any", ("uint8",), wrong=False, remedy="one scale a channel"),
    Rule(NORMS, ("int8",), "tensor", "any", ("uint8", *SIXTEEN), wrong=False, remedy="a gain in uint8"),
    Rule(NORMS, SIXTEEN, "tensor", "any", ("uint8",), wrong=False, remedy="a gain in uint8"),
)


def rules_against(
    operator: str, weights: str, layout: Layout, zero_points: Sequence[int], activations: str
) -> list[Rule]:
    """Return the rules that keep ``operator`` off the HTP, or make it wrong, for a weight of these properties."""
    return [rule for rule in RULES if rule.speaks_of(operator, weights, layout, zero_points, activations)]


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
)
