"""Every pass found on disk is held to the same contract: it removes what it says, and keeps the outputs."""

import copy

import numpy as np
import onnx
import pytest
from pass_models import ALL_PASSES, CASES, Case, order, run

from edgepress.errors import InputError
from edgepress.exporter.graph.passes import (
    FACTS,
    STATIC,
    Context,
    Pass,
    PassOrder,
    find_pass,
    pass_for,
    pass_names,
)
from edgepress.exporter.graph.static import AFTER
from edgepress.onnx_graph.walk import all_nodes

KEEPS_SYMBOLS = {name: find_pass(name) for name in pass_names()}


def operators(model: onnx.ModelProto) -> set[str]:
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in all_nodes(model.graph.node)}


def changed(case: Case, *names: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = copy.deepcopy(case.model)
    return model, order(*names).run(model, Context(case.shapes))


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
    assert order(name).run(model, Context(CASES[case].shapes)) == {name: 0}


@pytest.mark.parametrize("case", CASES)
def test_all_passes_together_leave_only_onnx_s_own_operators(case: str) -> None:
    model = copy.deepcopy(CASES[case].model)
    ALL_PASSES.run(model, Context(CASES[case].shapes))
    close(CASES[case], model)
    left = operators(model)
    assert not {name for name in left if "." in name}
    assert not left & {"Shape", "Range", "Identity", "Constant", "QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", pass_names())
def test_a_pass_makes_no_operator_that_others_remove_but_those_it_says(name: str, case: str) -> None:
    model, _ = changed(CASES[case], name)
    removed = {operator for other in pass_names() for operator in find_pass(other).operators}
    assert (operators(model) - operators(CASES[case].model)) & removed <= set(find_pass(name).makes)


@pytest.mark.parametrize("name", pass_names())
def test_facts_are_operators_that_a_pass_removes_or_listed(name: str) -> None:
    one = find_pass(name)
    known = {operator for other in pass_names() for operator in find_pass(other).operators} | set(FACTS)
    assert {*one.requires, *one.makes, *one.where, *one.ensures} <= known
    assert {*one.where, *one.ensures} <= set(FACTS)


def test_what_an_order_ensures() -> None:
    removed = {operator for name in ALL_PASSES.names for operator in find_pass(name).operators}
    assert ALL_PASSES.holds == removed | set(FACTS)
    assert "Range" not in PassOrder(("fold-constants",)).holds
    assert "Range" in PassOrder(("fold-constants",), frozenset({STATIC})).holds
    first = PassOrder(("decompose-skip-norm", "plain-norm"))
    assert first.then("flatten-norm").holds >= first.holds


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("merge-moves",), "merge-moves requires static shapes, which nothing before .*: bind-shapes$"),
        (("flatten-norm", "plain-norm"), "flatten-norm requires no SimplifiedLayerNormalization, .*: plain-norm$"),
        (
            ("plain-norm", "decompose-skip-norm"),
            "decompose-skip-norm makes SimplifiedLayerNormalization, which was removed before it; put plain-norm after",
        ),
        (
            ("bind-shapes", "fold-constants", "decompose-attention"),
            "makes (Identity|Range|Shape), .* put fold-constants",
        ),
    ],
)
def test_a_wrong_order_is_an_error_when_it_is_made(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PassOrder(names)


def test_a_static_decoder_has_what_quantization_asks_for() -> None:
    assert AFTER.holds >= {"QuantizeLinear", "DequantizeLinear", "com.microsoft.GroupQueryAttention", *FACTS}


def test_an_unknown_pass_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"did you mean plain-norm\? Known: .*bind-shapes"):
        find_pass("plainnorm")


def test_the_pass_for_an_operator() -> None:
    assert pass_for("com.microsoft", "GroupQueryAttention") == "decompose-attention"
    assert pass_for("", "SimplifiedLayerNormalization") == "plain-norm"
    assert pass_for("", "LSTM") == ""
