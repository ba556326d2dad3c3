"""Functions of a graph are counted, not written out; what never ends is refused before onnxruntime opens it."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.errors import InputError
from edgepress.runtime.graph_file.functions import MOST_NODES, check_functions

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(call, ["x"], ["y"], domain="f" if call.startswith("F") else "") for call in calls]
    return helper.make_function("f", name, ["x"], ["y"], nodes, OPSETS)


def written(path: Path, functions: list[onnx.FunctionProto], *calls: str) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    nodes = [helper.make_node(call, ["x"], ["y"], domain="f") for call in calls]
    branch = helper.make_graph([helper.make_node("F0", ["x"], ["y"], domain="f")], "branch", [], [value])
    nodes.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(nodes, "g", [value], [value])
    path.write_bytes(helper.make_model(graph, functions=functions, opset_imports=OPSETS).SerializeToString())
    return path


def doubling(levels: int) -> list[onnx.FunctionProto]:
    return [function(f"F{level}", *[f"F{level + 1}"] * 2) for level in range(levels)] + [function(f"F{levels}", "Relu")]


def test_as_many_nodes_as_are_opened_pass_and_more_do_not(tmp_path: Path) -> None:
    levels = MOST_NODES.bit_length() - 3  # the graph's call and those of two branches: three times 2 ** levels
    check_functions(written(tmp_path / "fits.onnx", doubling(levels), "F0"))
    with pytest.raises(InputError, match=f"become {3 * 2 ** (levels + 1):,} nodes"):
        check_functions(written(tmp_path / "bomb.onnx", doubling(levels + 1), "F0"))


def test_a_bomb_of_any_size_is_counted_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"become 1,000,000,000,000 nodes, and 8,192 is the most"):
        check_functions(written(tmp_path / "bomb.onnx", doubling(300), "F0"))


@pytest.mark.parametrize("functions", [[function("F0", "F0")], [function("F0", "F1"), function("F1", "F0")]])
def test_a_function_that_calls_itself_is_named(tmp_path: Path, functions: list[onnx.FunctionProto]) -> None:
    with pytest.raises(InputError, match="the function 'F0' calls itself"):
        check_functions(written(tmp_path / "loop.onnx", functions, "F0"))


def test_a_graph_without_functions_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "plain.onnx", [], "F0")
    check_functions(path)
    for content in (path.read_bytes()[:-1], b"", b"\xff" * 20):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"plain\.onnx is damaged"):
            check_functions(path)
