"""Every rule about quantized weights on Qualcomm's HTP, asked of the compiler and computed on the simulator."""

from pathlib import Path

import npu_models
import numpy as np
import onnx
import pytest

from edgepress.errors import InputError
from edgepress.targets import Soc, find_soc, find_target
from edgepress.targets.legality.traps import find_traps, refuse_traps
from edgepress.targets.providers import qnn
from edgepress.targets.qnn_htp import NORMS, RULES, Layout, Rule, StoredWeight, rules_against

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")

SM8650 = find_soc(find_target("qnn-htp"), "sm8650")
OTHERS = [find_soc(find_target("qnn-htp"), name) for name in ("sm8350", "sm8550", "sm8750", "sm8850")]
FORMS = [
    (rule, operator, weights, activations)
    for rule in RULES
    for operator in (NORMS if rule.operators == NORMS else ("MatMul",))
    for weights in rule.weights
    for activations in rule.activations
]
FIRST_FORMS = [next(form for form in FORMS if form[0] is rule) for rule in RULES]
CASES = [(*form, SM8650) for form in FORMS]
CASES += [(*form, soc) for form in FIRST_FORMS for soc in (OTHERS if form[0].wrong else OTHERS[:1])]
OTHER_ZERO = {"int4": 3, "uint4": 8, "int8": 64, "uint8": 128}


def named(value: object) -> str:
    if isinstance(value, Rule):
        return f"rule{RULES.index(value)}"
    return value.name if isinstance(value, Soc) else str(value)


def model_of(rule: Rule, operator: str, weights: str, activations: str) -> onnx.ModelProto:
    if operator in NORMS:
        return npu_models.norm(operator, activations, weights)
    zero = OTHER_ZERO[weights] if rule.centred is False else 0
    return npu_models.projection(activations, weights, zero, layout=rule.layout, negative=bool(rule.negative))


def model_of_remedy(rule: Rule, operator: str, weights: str, activations: str) -> onnx.ModelProto:
    layout = rule.layout
    match rule.remedy:
        case "int4 with zero point 0":
            weights = "int4"
        case "uint16 activations":
            activations = "uint16"
        case "one scale a channel":
            weights, layout = "int4", "channel"
        case "a gain in uint8":
            return npu_models.norm(operator, "uint16" if activations == "int16" else activations, "uint8")
        case other:
            assert other in {"zero point 0", "scales above 0"}
    return npu_models.projection(activations, weights, 0, layout=layout)


def asked(model: onnx.ModelProto, soc: Soc) -> tuple[bool, float]:
    """Whether every node lands, and the signal-to-noise ratio against the CPU in dB."""
    x = {"x": np.random.default_rng(1).standard_normal((1, 16, 64)).astype(np.float32)}
    session = qnn.open_session(model.SerializeToString(), soc, fp16=True, fallback=True)
    lands = {provider for *_, provider in qnn.assignment(session)} == {qnn.PROVIDER}
    return lands, npu_models.decibels(npu_models.on_cpu(model, x), session.run(None, x)[0])


@pytest.mark.parametrize(("rule", "operator", "weights", "activations", "soc"), CASES, ids=named)
def test_the_compiler_does_what_the_rule_says(
    rule: Rule, operator: str, weights: str, activations: str, soc: Soc
) -> None:
    lands, ratio = asked(model_of(rule, operator, weights, activations), soc)
    if rule.wrong:
        assert not lands or ratio < 15
        assert lands or soc.arch < 73  # blocks are left to the CPU by v68
    else:
        assert not lands


@pytest.mark.parametrize(("rule", "operator", "weights", "activations"), FIRST_FORMS, ids=named)
def test_the_remedy_lands_and_is_right(rule: Rule, operator: str, weights: str, activations: str) -> None:
    lands, ratio = asked(model_of_remedy(rule, operator, weights, activations), SM8650)
    assert lands
    assert ratio > (20 if activations == "uint8" else 45)


@pytest.mark.parametrize("activations", ["uint8", "uint16"])
@pytest.mark.parametrize("weights", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("layout", ["tensor", "channel", "block"])
@pytest.mark.parametrize(("centred", "negative"), [(True, False), (False, False), (True, True)])
def test_no_wrong_result_is_without_a_rule(
    activations: str, weights: str, layout: Layout, centred: bool, negative: bool
) -> None:
    if layout == "block" and weights.endswith("8") and activations == "uint8":
        pytest.skip("onnxruntime's CPU provider has no such product to compare with")
    zero = 0 if centred else OTHER_ZERO[weights]
    lands, ratio = asked(npu_models.projection(activations, weights, zero, layout=layout, negative=negative), SM8650)
    stored = StoredWeight("MatMul", weights, layout, centred, negative, activations)
    wrong = [rule for rule in rules_against(stored) if rule.wrong]
    assert (lands and ratio < 15) == (lands and bool(wrong))


def test_the_trap_of_zero_points_is_seen_before_it_is_compiled(tmp_path: Path) -> None:
    wrong = npu_models.projection("uint16", "int4", 1, layout="block")
    lands, ratio = asked(wrong, SM8650)
    assert lands
    assert ratio < 15
    (trap,) = find_traps(wrong, tmp_path)
    assert trap.node == "matmul"
    assert trap.weight == StoredWeight("MatMul", "int4", "block", False, False, "uint16")
    onnx.save(wrong, tmp_path / "wrong.onnx")
    with pytest.raises(InputError, match=r"node matmul: the HTP takes int4 weights per block .*store int4 with zero"):
        refuse_traps(tmp_path / "wrong.onnx")
    with pytest.raises(InputError, match="computes wrong results"):
        qnn.compile_context(tmp_path / "wrong.onnx", tmp_path / "c.onnx", SM8650)
    assert not (tmp_path / "c.onnx").exists()


def test_zero_points_are_found_in_external_data_too(tmp_path: Path) -> None:
    wrong = npu_models.projection("uint16", "int4", 1)
    onnx.save(wrong, tmp_path / "w.onnx", save_as_external_data=True, size_threshold=0, location="w.data")
    with pytest.raises(InputError, match="per tensor with a zero point that is not 0"):
        refuse_traps(tmp_path / "w.onnx")


def test_negative_scales_are_refused(tmp_path: Path) -> None:
    onnx.save(npu_models.projection("uint16", "int8", negative=True, layout="channel"), tmp_path / "n.onnx")
    with pytest.raises(InputError, match=r"per channel with a negative scale .*; store scales above 0"):
        refuse_traps(tmp_path / "n.onnx")


def test_a_right_model_is_not_refused(tmp_path: Path) -> None:
    onnx.save(npu_models.projection("uint16", "int4", 0, layout="channel"), tmp_path / "right.onnx")
    refuse_traps(tmp_path / "right.onnx")
