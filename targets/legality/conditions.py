"""The conditions that operator tables state in prose, as checks: one entry a sentence, matched by its beginning."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from edgepress.onnx_graph.view import Node, Value
from edgepress.targets.legality.report import Cause


class Finding(NamedTuple):
    """Why a node does not meet a condition, and the smallest change that would make it."""

    cause: Cause
    reason: str
    change: str


Check = Callable[[Node, "re.Match[str]"], Finding | None]


def check_sentence(node: Node, sentence: str) -> Finding | None:
    """Hold ``node`` to one sentence of a table.

    Raises:
        LookupError: no check is written for the sentence; what it says has to be passed on to the reader.

    """
    for pattern, check in _CHECKS:
        if match := pattern.match(sentence):
            return check(node, match)
    raise LookupError(sentence)


def _ranks(*allowed: int, inputs: Sequence[int] = (0,)) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        for index in inputs:
            value = node.input(index)
            if value is None:
                continue
            if value.shape is None:
                return Finding("dynamic shape", f"the rank of input {value.name!r} is not known", "fix the shapes")
            if len(value.shape) not in allowed:
                wanted = " or ".join(map(str, allowed))
                reason = f"input {value.name!r} has {len(value.shape)} dimensions, not {wanted}"
                return Finding("rank", reason, f"reshape it to {wanted} dimensions")
        return None

    return check


def _at_most(rank: int) -> Check:
    return _ranks(*range(rank + 1))


def _constants(*indices: int) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        return next((found for index in indices if (found := _must_be_constant(node.input(index)))), None)

    return check


def _must_be_constant(value: Value | None) -> Finding | None:
    if value is None or value.constant:
        return None
    return Finding("constant", f"input {value.name!r} is computed; it must be a constant", "make it an initializer")


def _quantization_constants(node: Node, _: "re.Match[str]") -> Finding | None:
    data = {0} if node.op in {"QuantizeLinear", "DequantizeLinear"} else {0, 3, 8}
    if node.op in {"QLinearAveragePool", "QLinearSigmoid", "QLinearSoftmax"}:
        data = {0}
    parameters = [value for index, value in enumerate(node.inputs) if index not in data]
    return next((found for value in parameters if (found := _must_be_constant(value))), None)


def _attribute(name: str, *allowed: object, default: object = None) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        value = node.attribute(name, default)
        if value in allowed:
            return None
        wanted = " or ".join(map(str, allowed))
        return Finding("attribute", f"attribute {name} is {value}, not {wanted}", f"write it with {name} = {wanted}")

    return check


def _without(name: str) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        if node.attribute(name) is None:
            return None
        return Finding("attribute", f"attribute {name} is set", f"write it without {name}")

    return check


def _all_zero(name: str) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        if not any(node.attribute(name, [])):
            return None
        return Finding("attribute", f"attribute {name} is not all 0", f"write it with {name} = 0, and pad after it")

    return check


def _types(*allowed: str, inputs: Sequence[int]) -> Check:
    def check(node: Node, _: "re.Match[str]") -> Finding | None:
        for index in inputs:
            value = node.input(index)
            if value is not None and value.type and value.type not in {f"tensor({name})" for name in allowed}:
                reason = f"input {value.name!r} is {value.type}, not {' or '.join(allowed)}"
                return Finding("dtype", reason, f"cast it to {allowed[0]}")
        return None

    return check


def _all(*checks: Check) -> Check:
    def check(node: Node, match: "re.Match[str]") -> Finding | None:
        return next((found for one in checks if (found := one(node, match))), None)

    return check


def _nothing(_node: Node, _match: "re.Match[str]") -> None:
    """A sentence that explains and demands nothing of the node."""


def _transposed_unless_constant(node: Node, _: "re.Match[str]") -> Finding | None:
    weight = node.input(1)
    if weight is None or weight.constant or node.attribute("transB", 0) == 1:
        return None
    reason = f"input {weight.name!r} is computed and transB is 0"
    return Finding("attribute", reason, "transpose it before, and set transB = 1")


def _indices_constant_or_int32(node: Node, _: "re.Match[str]") -> Finding | None:
    indices = node.input(1)
    if indices is None or indices.constant or indices.type == "tensor(int32)":
        return None
    reason = f"indices {indices.name!r} are computed and {indices.type or 'of unknown type'}, not int32"
    return Finding("dtype", reason, "make the indices int32")


def _scalar_indices(node: Node, _: "re.Match[str]") -> Finding | None:
    indices = node.input(1)
    if indices is None or indices.shape != ():
        return None
    return Finding("rank", f"indices {indices.name!r} are a scalar", "give them one dimension, and squeeze after it")


def _even_split(node: Node, match: "re.Match[str]") -> Finding | None:
    data = node.input(0)
    axis = node.attribute("axis", 0)
    if data is not None and data.shape is not None and -len(data.shape) <= axis < len(data.shape):
        size = data.shape[axis]
        sizes = {value.shape[axis] for value in node.outputs if value and value.shape and axis < len(value.shape)}
        if (size is not None and size % max(len(node.outputs), 1)) or len(sizes) > 1:
            reason = f"axis {axis} of {size} is split into {len(node.outputs)} uneven parts"
            return Finding("attribute", reason, "write it as Slice nodes")
    return _constants(1)(node, match)


def _fixed_when_crd(node: Node, _: "re.Match[str]") -> Finding | None:
    data = node.input(0)
    if node.attribute("mode", "DCR") != "CRD" or data is None or data.static:
        return None
    return Finding("dynamic shape", f"mode is CRD and input {data.name!r} has no fixed shape", "fix the shapes")


def _pads_not_negative(node: Node, _: "re.Match[str]") -> Finding | None:
    pads = node.input(1)
    amounts = np.array(node.attribute("pads", []))
    if pads is not None and pads.data is not None:
        try:
            amounts = onnx.numpy_helper.to_array(pads.data)
        except (TypeError, ValueError):
            return None
    if not amounts.size or amounts.min() >= 0:
        return None
    return Finding("attribute", f"pads are negative ({amounts.min()})", "write it as a Slice")


def _slope(node: Node, _: "re.Match[str]") -> Finding | None:
    slope = node.input(1)
    if slope is None or slope.shape is None:
        return None
    if int(np.prod([size or 0 for size in slope.shape])) == 1 or (len(slope.shape) == 3 and slope.shape[1:] == (1, 1)):
        return None
    shape = "×".join(map(str, slope.shape))
    return Finding("rank", f"slope {slope.name!r} is {shape}, not C×1×1 or one element", "reshape the slope to C×1×1")


def _last_axis(node: Node, _: "re.Match[str]") -> Finding | None:
    data = node.input(0)
    axis = node.attribute("axis", -1 if node.version >= 13 else 1)
    if node.version < 13 or axis == -1 or (data and data.shape is not None and axis == len(data.shape) - 1):
        return None
    return Finding("attribute", f"axis is {axis}, not the last one", "transpose that axis to the end")


def _forms(node: Node, match: "re.Match[str]") -> Finding | None:
    """AMD's columns: float models are BF16; QDQ is A16W8, or with 8-bit activations A8W8 and XINT8."""
    takes = set(match["forms"].split(", "))
    stored = {value.stored for value in node.inputs if value and value.dequantized and not value.constant}
    if node.op in {"QuantizeLinear", "DequantizeLinear"}:
        stored = {value.type for value in (*node.outputs, node.input(0)) if value and "int" in value.type}
    if not stored:
        form, forms = "float", {"BF16"}
    elif stored & {"tensor(uint16)", "tensor(int16)"}:
        form, forms = "16-bit", {"A16W8"}
    else:
        form, forms = "8-bit", {"A8W8", "XINT8"}
    if takes & forms:
        return None
    reason = f"{node.op} is taken as {', '.join(sorted(takes))}, not in {form} form"
    return Finding("quantization", reason, f"give the node's inputs the form {sorted(takes)[0]}")


def _one_scale(node: Node, _: "re.Match[str]") -> Finding | None:
    weight = node.input(1)
    if weight is None or not weight.dequantized or weight.scales == 1:
        return None
    reason = f"weight {weight.name!r} has {weight.scales} scales; the provider's integer products take one"
    return Finding("quantization", reason, "store the weight in float, or with one scale")


def _one_type(node: Node, _: "re.Match[str]") -> Finding | None:
    data, weight = node.input(0), node.input(1)
    if data is None or weight is None or not (data.dequantized and weight.dequantized) or data.stored == weight.stored:
        return None
    reason = f"activations are {data.stored} and weights {weight.stored}; the provider takes one type for both"
    return Finding("quantization", reason, "make the activations int8, with zero points lower by 128")


def _matrices(node: Node, _: "re.Match[str]") -> Finding | None:
    """NNAPI's FULLY_CONNECTED, or what the provider writes for batches (IsSupportedBatchMatMul)."""
    left, right = node.input(0), node.input(1)
    if left is None or right is None or left.shape is None or right.shape is None:
        return None
    if len(left.shape) == len(right.shape) == 2:
        return _must_be_constant(right)
    if len(left.shape) == len(right.shape) and left.shape[:-2] == right.shape[:-2]:
        return None
    reason = f"{left.name!r} has {len(left.shape)} dimensions and {right.name!r} has {len(right.shape)}"
    return Finding("rank", f"{reason}; both have 2, or the same batches", "reshape both to 2 dimensions")


_ONLY_2D_WINDOW = _ranks(4)
_CHECKS: list[tuple[re.Pattern[str], Check]] = [
    (re.compile(pattern), check)
    for pattern, check in [
        (r"Only 2D (Pool|Conv|ConvTranspose|Resize) is supported", _ONLY_2D_WINDOW),
        (r"Only 1D/2D Conv is supported", _ranks(3, 4)),
        (r"Only 2D Op is supported", _ranks(2, inputs=(0, 1))),
        (r"4D input", _ranks(4)),
        (r"Weights? and bias (should|must) be constant", _constants(1, 2)),
        (r"Bias if provided must be constant", _constants(2)),
        (r"All quantization scales and zero points should be constant", _quantization_constants),
        (r"Input B (should|must) be constant", _constants(1)),
        (r"If input B is not constant, transB should be 1", _transposed_unless_constant),
        (r"Input indices should be constant if not int32 type", _indices_constant_or_int32),
        (r"Input `indices` with scalar value is not supported", _scalar_indices),
        (r"Number of splits must evenly divide split axis size", _even_split),
        (r"If provided, `splits` must be constant", _constants(1)),
        (r"Input axes should be constant", _constants(1)),
        (r"If provided, axes should be constant", _constants(3)),
        (r"Only DCR mode DepthToSpace is supported", _attribute("mode", "DCR", default="DCR")),
        (r"If 'mode' is 'CRD' the input must have a fixed shape", _fixed_when_crd),
        (r"Only constant mode", _attribute("mode", "constant", default="constant")),
        (r"Input pads and constant_value should be constant", _constants(1, 2)),
        (r"Input pads values should be non-negative", _pads_not_negative),
        (r"Both inputs must be bool", _types("bool", inputs=(0, 1))),
        (r"Only supports cases when both inputs are fp32", _types("float", inputs=(0, 1))),
        (r"`X`/`Y` branches must be float or float16", _types("float", "float16", inputs=(1, 2))),
        (r"batch_dims must be 0", _attribute("batch_dims", 0, default=0)),
        (
            r"Only support for transA == 0, alpha == 1.0 and beta == 1.0",
            _all(
                _attribute("transA", 0, default=0),
                _attribute("alpha", 1.0, default=1.0),
                _attribute("beta", 1.0, default=1.0),
            ),
        ),
        (r"starts/ends/axes/steps must be constant|Inputs `starts`, `ends`, `axes`", _constants(1, 2, 3, 4)),
        (r"Input slope should be constant", _constants(1)),
        (r"Input slope should either have shape \[C, 1, 1\]", _slope),
        (r"Attribute `start` with non-default value is not supported", _attribute("start", 0, default=0)),
        (r"Attribute `end` is not supported", _without("end")),
        (r"padding_type of SAME_UPPER/SAME_LOWER", _attribute("auto_pad", "NOTSET", "VALID", default="NOTSET")),
        (
            r"kernel_shape must have default values",
            _nothing,
        ),  # a kernel_shape that differs from the weight's is illegal
        (r"output_shape is not supported", _without("output_shape")),
        (r"output_padding must have default values", _all_zero("output_padding")),
        (
            r"`coordinate_transformation_mode` == `asymmetric`",
            _attribute("coordinate_transformation_mode", "asymmetric", default="half_pixel"),
        ),
        (r"`mode` == `linear` or `nearest`", _attribute("mode", "linear", "nearest", default="nearest")),
        (r"`mode` == `linear`", _attribute("mode", "linear", default="nearest")),
        (r"`nearest_mode` == `floor`", _attribute("nearest_mode", "floor", default="round_prefer_floor")),
        (r"`exclude_outside` == false", _attribute("exclude_outside", 0, default=0)),
        (r"`scales` or `sizes` must be constant", _constants(2, 3)),
        (r"`repeats` may be a constant initializer", _at_most(5)),
        (r"Quantized weights have one scale", _one_scale),
        (r"Quantized activations have the type", _one_type),
        (r"Products of matrices, or of batches", _matrices),
        (r"Axis must be the last one from opset 13 on", _last_axis),
        (r"Forms: (?P<forms>.+)", _forms),
        (r"Produced by ORT's", _nothing),
        (r"this ask for a `epislon`", _nothing),
    ]
]
