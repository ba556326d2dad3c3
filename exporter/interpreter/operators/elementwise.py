"""Operators that look at one element at a time, of one value or of several."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import TYPES, Call, Operator, number


def _plain(function: Callable[..., Tensor]) -> Operator:
    """An operator that is torch's function of its inputs."""
    return lambda _call, *inputs: function(*inputs)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs."""
    return lambda _call, *inputs: reduce(function, inputs)


def _divide(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Integers are cut off towards 0."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """With ``fmod`` the sign is that of the dividend, else of the divisor."""
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


def _power(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


def _mean(_call: Call, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are attributes before opset 11."""
    if call.version < 11:
        return x.clamp(call.get("min", -math.inf), call.get("max", math.inf))
    if low is not None:
        x = torch.maximum(x, low.to(x.dtype))
    return x if high is None else torch.minimum(x, high.to(x.dtype))


def _cast(call: Call, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Cast and CastLike."""
    if like is not None:
        return x.to(like.dtype)
    to = call.get("to")
    if to not in TYPES:
        call.refuse(f"type {to} is not computed in")
    return x.to(TYPES[to])


def _where(_call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.get("approximate", "none"))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = float(call.get("alpha", 1.6732631921768188)), float(call.get("gamma", 1.0507010221481323))
    return gamma * (x.clamp_min(0) + alpha * (torch.expm1(x.clamp_max(0))))


def _celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.get("alpha", 1.0))


def _elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call.get("alpha", 1.0))


def _leaky(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.get("alpha", 0.01))


def _prelu(_call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _thresholded(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


def _shrink(call: Call, x: Tensor) -> Tensor:
    limit, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return (float(call.get("alpha", 0.2)) * x + float(call.get("beta", 0.5))).clamp(0, 1)


def _hard_swish(_call: Call, x: Tensor) -> Tensor:
    return x * (x / 6 + 0.5).clamp(0, 1)


def _swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


def _quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


def _bias_gelu(_call: Call, x: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(x + bias)


def _fast_gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _dropout(
    call: Call, x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """As in inference: nothing is dropped."""
    if number(training, 0):
        call.refuse("training_mode is set")
    return x if call.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def _is_infinite(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.get("detect_positive", 1):
        found |= x == math.inf
    return found | (x == -math.inf) if call.get("detect_negative", 1) else found


def _shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return a << b if call.get("direction") == "LEFT" else a >> b


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Acosh": _plain(torch.acosh),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "Asin": _plain(torch.asin),
    "Asinh": _plain(torch.asinh),
    "Atan": _plain(torch.atan),
    "Atanh": _plain(torch.atanh),
    "BitShift": _shift,
    "BitwiseAnd": _plain(torch.bitwise_and),
    "BitwiseNot": _plain(torch.bitwise_not),
    "BitwiseOr": _plain(torch.bitwise_or),
    "BitwiseXor": _plain(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _plain(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": _elu,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda _call, x: x,
    "IsInf": _is_infinite,
    "IsNaN": _plain(torch.isnan),
    "LeakyRelu": _leaky,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "Max": _fold(torch.maximum),
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mish": _plain(functional.mish),
    "Mod": _modulo,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(torch.relu),
    "Round": _plain(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Softplus": _plain(functional.softplus),
    "Softsign": _plain(functional.softsign),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _fold(torch.add),
    "Swish": _swish,
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Xor": _plain(torch.logical_xor),
    "com.microsoft:BiasGelu": _bias_gelu,
    "com.microsoft:FastGelu": _fast_gelu,
    "com.microsoft:Gelu": lambda _call, x: functional.gelu(x),
    "com.microsoft:QuickGelu": _quick_gelu,
}
