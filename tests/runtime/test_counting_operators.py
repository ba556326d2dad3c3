"""Profiles of onnxruntime as operators: made-up ones of known nodes, and one that it writes here."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgepress.errors import CheckFailed
from edgepress.runtime.measures.counting.operators import Kernel, OperatorCost, by_operator, fewest, read_profile
from edgepress.sessions import open_on_cpu, session_options

OPERATORS = ["MatMul", "Add", "If", 'com.microsoft:Odd "name"']
Tree = tuple[str, int, list[Any]]  # an operator, its own microseconds, and nodes within it


def trees() -> st.SearchStrategy[Tree]:
    leaf = st.tuples(st.sampled_from(OPERATORS), st.integers(0, 50), st.just([]))
    return st.recursive(leaf, lambda inner: st.tuples(st.just("If"), st.integers(0, 50), st.lists(inner, max_size=3)))


def length(tree: Tree) -> int:
    return tree[1] + sum(map(length, tree[2]))


def events(tree: Tree, at: int, name: str, duration: int) -> Iterator[dict[str, Any]]:
    """A node and those within it, one after the other, as onnxruntime has them: the inner ones first."""
    position = at
    for number, inner in enumerate(tree[2]):
        yield from events(inner, position, f"{name}/{number}", length(inner))
        position += length(inner)
    yield {"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": duration, "args": {"op_name": tree[0]}}


@given(runs=st.lists(st.lists(trees(), max_size=4), max_size=4), gap=st.integers(0, 3))
def test_every_outer_node_is_read_with_its_time(
    runs: list[list[Tree]], gap: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written: list[dict[str, Any]] = [{"name": "session_initialization", "ts": 0, "dur": 5}]
    position, expected = 10, []
    for nodes in runs:
        start, found = position, []
        for number, tree in enumerate(nodes):
            written += events(tree, position, f"n{number}", length(tree))
            found.append(Kernel(f"n{number}", tree[0], length(tree) * 1000 + 500))
            position += length(tree) + gap
        expected.append(found)
        written.append({"cat": "Session", "name": "model_run", "ts": start, "dur": position - start, "args": {}})
        position += 1 + gap
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    path.write_text(json.dumps(written))
    read = read_profile(path)
    # A node of no time at all lies nowhere: it may be in the time of its neighbour, or of the run before.
    assert [[one for one in run if one.instructions > 500] for run in read] == [
        [one for one in run if one.instructions > 500] for run in expected
    ]


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"name": "x"}]', '[{"name": "x", "ts": "a", "dur": 1}]'])
def test_what_is_no_profile_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(content)
    with pytest.raises(CheckFailed, match="is no profile of onnxruntime"):
        read_profile(tmp_path / "p")


def test_a_profile_of_this_onnxruntime_has_the_nodes_of_its_runs(tmp_path: Path) -> None:
    branches = [
        helper.make_graph([helper.make_node(op, ["m", "m"], [op])], op, [], [value(op, None)]) for op in ("Add", "Mul")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["m"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [value("x", [2, 2]), condition], [value("y", None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    options = session_options(1)
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = open_on_cpu(tmp_path / "model.onnx", options)
    for _ in range(2):
        session.run(None, {"x": np.ones((2, 2), np.float32), "c": np.array(True)})
    runs = read_profile(Path(session.end_profiling()))
    assert [[kernel.operator for kernel in run] for run in runs] == [["MatMul", "If"]] * 2


def value(name: str, shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.integers(0, 10**9)), max_size=20))
def test_operators_add_up_and_the_most_expensive_is_first(nodes: list[tuple[str, int]]) -> None:
    found = by_operator([Kernel(str(number), *node) for number, node in enumerate(nodes)])
    assert sum(cost.nodes for cost in found.values()) == len(nodes)
    assert sum(cost.instructions for cost in found.values()) == sum(count for _, count in nodes)
    assert all(left.instructions >= right.instructions for left, right in pairwise(found.values()))


def test_the_fewest_of_repeats_are_taken_node_by_node() -> None:
    runs = [[Kernel("a", "Add", 5), Kernel("b", "Mul", 9)], [Kernel("a", "Add", 7), Kernel("b", "Mul", 3)]]
    assert by_operator(fewest(runs)) == {"Add": OperatorCost(1, 5), "Mul": OperatorCost(1, 3)}
