"""Every pass found on disk is held to the same contract: it removes what it says, and keeps the outputs."""

import copy

import numpy as np
import onnx
import pytest
from pass_models import CASES, Case, run

from edgepress.errors import InputError
from edgepress.exporter.graph.passes import Context, Pass, find_pass, pass_for, pass_names, run_passes
from edgepress.onnx_graph.walk import all_nodes

KEEPS_SYMBOLS = {name: find_pass(name) for name in pass_names()}


def operators(model: onnx.ModelProto) -> set[str]:
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in all_nodes(model.graph.node)}


def changed(case: Case, *names: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = copy.deepcopy(case.model)
    return model, run_passes(model, names, Context(case.shapes))


def close(case: Case, model: onnx.ModelProto) -> None:
    if "SimplifiedLayerNormalization" not in operators(model):  # onnxruntime's, in ONNX's domain
        onnx.checker.check_model(model)
    for before, after in zip(run(case.model, case.feeds), run(model, case.feeds), strict=True):
        assert before.shape == after.shape
        assert before.dtype == after.dtype
        assert np.abs(after - before).max(initial=0) <= case.tolerance * np.abs(before).max(initial=0)


@pytest.mark.parametrize("name", pass_names())
def test_a_pass_is_named_as_its_file(name: str) -> None:
    found = find_pass(name)
    assert isinstance(found, Pass)
    assert found.name == name
    assert found.description


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", pass_names())
def test_a_pass_keeps_the_outputs_and_is_done_after_one_run(name: str, case: str) -> None:
    model, changes = changed(CASES[case], name)
    if not changes[name]:
        assert model == CASES[case].model
    close(CASES[case], model)
    removed = find_pass(name).operators
    if name != "fold-constants" and operators(CASES[case].model) & set(removed):
        assert changes[name]
        assert not operators(model) & set(removed)
    assert run_passes(model, [name], Context(CASES[case].shapes)) == {name: 0}


@pytest.mark.parametrize("case", CASES)
def test_all_passes_together_leave_only_onnx_s_own_operators(case: str) -> None:
    order = [
        "drop-rounding",
        "plain-matmul",
        "decompose-attention",
        "decompose-skip-norm",
        "plain-norm",
        "plain-rotary",
        "plain-activations",
        "float32",
        "bind-shapes",
        "fold-constants",
        "flatten-norm",
        "merge-moves",
    ]
    model, _ = changed(CASES[case], *order)
    close(CASES[case], model)
    left = operators(model)
    assert not {name for name in left if "." in name}
    assert not left & {"Shape", "Range", "Identity", "Constant", "QuantizeLinear", "DequantizeLinear"}


def test_an_unknown_pass_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"did you mean plain-norm\? Known: .*bind-shapes"):
        find_pass("plainnorm")


def test_the_pass_for_an_operator() -> None:
    assert pass_for("com.microsoft", "GroupQueryAttention") == "decompose-attention"
    assert pass_for("", "SimplifiedLayerNormalization") == "plain-norm"
    assert pass_for("", "LSTM") == ""
