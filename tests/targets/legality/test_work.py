"""Multiply-adds of nodes against what torch's own counter finds, and of those that nobody can count."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.onnx_graph.view import view
from edgepress.targets.legality.work import multiply_adds


def counted(node: onnx.NodeProto, x: tuple[int | str, ...], *weights: tuple[int, ...]) -> int:
    names = [name for name in node.input if name != "x"]
    constants = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in zip(names, weights, strict=True)
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [given], [made], constants)
    [found] = view(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))
    return multiply_adds(found.nodes[0])


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_as_torch_counts_them(groups: int, transposed: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer = kind(8, 16, 3, stride=2, padding=1, groups=groups, bias=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(2, 8, 9, 7))
    op = "ConvTranspose" if transposed else "Conv"
    node = helper.make_node(op, ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=groups)
    assert 2 * counted(node, (2, 8, 9, 7), tuple(layer.weight.shape)) == counter.get_total_flops()


def test_products_and_attention() -> None:
    assert counted(helper.make_node("MatMul", ["x", "w"], ["y"]), (5, 2, 4), (4, 3)) == 5 * 2 * 4 * 3
    assert counted(helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), (4, 2), (4, 3)) == 2 * 4 * 3
    node = helper.make_node("Attention", ["x", "k", "v"], ["y"])
    assert counted(node, (1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)) == 2 * (2 * 5 * 7 * 8)


def test_what_is_no_product_or_of_unknown_size_counts_nothing() -> None:
    assert counted(helper.make_node("Relu", ["x"], ["y"]), (5, 2)) == 0
    assert counted(helper.make_node("MatMul", ["x", "w"], ["y"]), ("n", 4), (4, 3)) == 0
