"""Functions of values one by one: channels stay where they are, and what is combined is the same channel."""

import onnx

from edgepress.exporter.methods.narrower.trace import Rules, Trace, axis_of, merged, node_name, present

_FUNCTIONS = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu
Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less
LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign
Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"""


def function(trace: Trace, node: onnx.NodeProto) -> None:
    """Broadcast the inputs against each other, as ONNX's multidirectional broadcasting does."""
    trace.give(node, merged(trace, node, present(node), trace.shape(node.output[0])))


def one(trace: Trace, node: onnx.NodeProto) -> None:
    """Only the first input has channels; limits, seeds and modes are numbers."""
    trace.give(node, trace.of(node.input[0]))


def softmax(trace: Trace, node: onnx.NodeProto) -> None:
    """Values along the axis are compared with each other: none can go."""
    axes = list(trace.of(node.input[0]))
    place = axis_of(node, -1, len(axes))
    trace.fix(axes[place], f"{node_name(node)} compares its channels with each other")
    axes[place] = None
    trace.give(node, axes)


RULES: Rules = {
    **{("", name): function for name in _FUNCTIONS.split()},
    **{("", name): one for name in ("Cast", "CastLike", "Clip", "Dropout", "Identity")},
    **{("", name): softmax for name in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("com.microsoft", name): function for name in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")},
}
