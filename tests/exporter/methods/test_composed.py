"""Filters computed as convolutions while they are trained: the same values and gradients; all else stays as it is."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.methods.narrower.filters import Filters, written_as_filters
from edgepress.exporter.methods.narrower.taught.composed import composed

IMAGES = {"x": np.random.default_rng(1).normal(size=(2, 4, 7, 6)).astype(np.float32)}


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def written(channels: list[int]) -> onnx.ModelProto:
    """A strided convolution of 4 channels as filters of these channels, then Relu."""
    constants = [numpy_helper.from_array(drawn(5, 4, 3, 3), "weight"), numpy_helper.from_array(drawn(5), "bias")]
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["conv"], name="conv", strides=[2, 1], pads=[1, 0, 1, 2]),
        helper.make_node("Relu", ["conv"], ["y"], name="y"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in (("x", 4), ("y", 5))
    ]
    graph = helper.make_graph(nodes, "one", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    own = Filters(np.array(channels), drawn(len(channels), 3, 3), drawn(5, len(channels)), np.ones(len(channels)))
    return written_as_filters(model, {"conv": own})


def gradients(model: onnx.ModelProto, *, whole: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """What the graph makes, and the gradients of filters, mixing and bias."""
    made, weights = composed(model) if whole else (model, [])
    network = Network(made)
    names = ["conv.filters", "conv.mixing", "bias"]
    constants = {name: network.constants[name].clone().requires_grad_() for name in names}
    values = {**constants, **{weight.name: weight.value(constants) for weight in weights}}
    y = network.run(network.tensors(IMAGES), constants=values)["y"]
    y.square().sum().backward()
    return y.detach(), {name: value.grad for name, value in constants.items() if value.grad is not None}


def test_values_and_gradients_are_those_of_the_filters() -> None:
    model = written([0, 0, 0, 1, 3, 3, 3, 3, 3])  # nothing reads one of the channels
    assert [node.op_type for node in composed(model)[0].graph.node] == ["Conv", "Relu"]
    (expected, wanted), (found, given) = (gradients(model, whole=whole) for whole in (False, True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert sorted(given) == ["bias", "conv.filters", "conv.mixing"]
    for name, value in wanted.items():
        torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


@pytest.mark.parametrize("what", ["few", "read", "biased", "strided", "order"])
def test_what_is_no_convolution_in_parts_stays(what: str) -> None:
    model = written([0, 1, 1, 2, 3] if what == "few" else [0, 0, 1, 1, 2, 2, 3, 3])
    gather, depthwise, mixing, _ = model.graph.node
    if what == "read":
        model.graph.output.append(helper.make_tensor_value_info(depthwise.output[0], TensorProto.FLOAT, None))
    if what == "biased":
        model.graph.initializer.append(numpy_helper.from_array(drawn(8), "more"))
        depthwise.input.append("more")
    if what == "strided":
        mixing.attribute.append(helper.make_attribute("strides", [1, 2]))
    if what == "order":
        gather.op_type = "Identity"
        del gather.input[1:], gather.attribute[:]
    made, weights = composed(model)
    assert not weights
    assert made == model
