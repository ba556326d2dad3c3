"""Every rule about quantized weights and shapes on Qualcomm's HTP, asked of its compiler and simulator."""

from functools import cache
from pathlib import Path

import npu_models
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_models import order

from edgepress.errors import InputError
from edgepress.targets import Soc, find_soc, find_target
from edgepress.targets.legality.asked import place_all
from edgepress.targets.legality.traps import find_traps, refuse_traps
from edgepress.targets.providers import qnn
from edgepress.targets.qnn_htp import (
    LOOKUP_RULES,
    PRODUCTS,
    RULES,
    SHAPE_RULES,
    Layout,
    Reading,
    Rule,
    StoredWeight,
    lookup_rules_against,
    rules_against,
    shape_rules_against,
)

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")

SM8650 = find_soc(find_target("qnn-htp"), "sm8650")
OTHERS = [find_soc(find_target("qnn-htp"), name) for name in ("sm8350", "sm8550", "sm8750", "sm8850")]
FORMS = [
    (rule, operator, weights, activations)
    for rule in RULES
    for operator in (("MatMul",) if rule.operators == PRODUCTS else rule.operators)
    for weights in rule.weights
    for activations in rule.activations
]
FIRST_FORMS = [next(form for form in FORMS if form[0] is rule) for rule in RULES]
CASES = [(*form, SM8650) for form in FORMS]
CASES += [
    (*form, soc)
    for form in FIRST_FORMS
    for soc in (OTHERS if form[0].wrong else OTHERS[1:2] if form[1] == "Gather" else OTHERS[:1])
]
OTHER_ZERO = {"int4": 3, "uint4": 8, "int8": 64, "uint8": 128}


def named(value: object) -> str:
    if isinstance(value, Rule):
        return f"rule{RULES.index(value)}"
    return value.name if isinstance(value, Soc) else str(value)


def model_of(rule: Rule, operator: str, weights: str, activations: str) -> onnx.ModelProto:
    if operator == "Gather":
        return npu_models.lookup(weights, activations, channels=rule.layout == "channel")
    if operator != "MatMul":
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
        case "one scale for the table":
            return npu_models.lookup(weights, activations, channels=False)
        case "a gain in uint8":
            return npu_models.norm(operator, "uint16" if activations == "int16" else activations, "uint8")
        case other:
            assert other in {"zero point 0", "scales above 0"}
    if operator != "MatMul":
        return npu_models.norm(operator, activations, weights)
    return npu_models.projection(activations, weights, 0, layout=layout)


def asked(model: onnx.ModelProto, soc: Soc) -> tuple[bool, float]:
    """Whether every node lands, and the signal-to-noise ratio against the CPU in dB, of the worst output."""
    return asked_once(model.SerializeToString(), soc)


@cache
def asked_once(serialized: bytes, soc: Soc) -> tuple[bool, float]:
    """As :func:`asked`: several tests ask about the same model."""
    model = onnx.load_from_string(serialized)
    random = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        floats = dtype == np.float32
        feeds[value.name] = (random.standard_normal(shape) if floats else random.integers(0, 48, shape)).astype(dtype)
    session = qnn.open_session(serialized, soc, fp16=True, fallback=True)
    lands = {provider for *_, provider in qnn.assignment(session)} == {qnn.PROVIDER}
    pairs = zip(npu_models.all_on_cpu(model, feeds), session.run(None, feeds), strict=True)
    return lands, min(npu_models.decibels(truth, seen) for truth, seen in pairs)


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
    assert (trap.node, trap.cause, trap.change) == ("matmul", "quantization", "store int4 with zero point 0")
    assert "int4 weights per block with a zero point that is not 0 and uint16 activations" in trap.reason
    onnx.save(wrong, tmp_path / "wrong.onnx")
    with pytest.raises(InputError, match=r"node matmul: the HTP takes int4 weights per block .*store int4 with zero"):
        refuse_traps(tmp_path / "wrong.onnx")
    with pytest.raises(InputError, match="computes wrong results"):
        qnn.compile_context(tmp_path / "wrong.onnx", tmp_path / "c.onnx", SM8650, refuse=refuse_traps)
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


WRONG_SHAPES = [(1, 16, 4, 32), (1, 16, 1, 32), (2, 64, 32), (1, 9, 4, 64)]
RIGHT_SHAPES = [(1, 1, 64, 32), (1, 64, 32), (64, 32), (1, 9, 128)]
FLOAT_CHIPS = [find_soc(find_target("qnn-htp"), name) for name in ("sm8450", "sm8550", "sm8650", "sm8750", "sm8850")]
SHAPE_CASES = [("", soc) for soc in FLOAT_CHIPS] + [("uint8", soc) for soc in (*OTHERS, SM8650)]


@pytest.mark.parametrize(("activations", "soc"), SHAPE_CASES, ids=named)
def test_norms_of_four_dimensions_are_wrong_and_right_after_the_pass(activations: str, soc: Soc) -> None:
    wrong = npu_models.rms_norm(WRONG_SHAPES[0], activations)
    lands, ratio = asked(wrong, soc)
    assert lands
    assert ratio < 10
    assert order(SHAPE_RULES[0].fixed_by).run(wrong) == {"flatten-norm": 1}
    lands, ratio = asked(wrong, soc)
    assert lands
    assert ratio > (20 if activations else 45)
    assert not find_traps(wrong, Path())


@pytest.mark.parametrize("activations", ["", "uint8", "uint16"])
@pytest.mark.parametrize("shape", WRONG_SHAPES + RIGHT_SHAPES)
def test_the_rule_about_shapes_is_as_the_simulator_computes(shape: tuple[int, ...], activations: str) -> None:
    rules = shape_rules_against("RMSNormalization", shape, activations)
    assert bool(rules) == (shape in WRONG_SHAPES and activations != "uint16")
    model = npu_models.rms_norm(shape, activations)
    lands, ratio = asked(model, SM8650)
    assert lands
    assert (ratio < 15) == bool(rules)
    assert bool(find_traps(model, Path())) == bool(rules)


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_layer_norms_of_these_shapes_are_right(shape: tuple[int, ...]) -> None:
    model = npu_models.rms_norm(shape)
    model.graph.node[0].op_type = "LayerNormalization"
    lands, ratio = asked(model, SM8650)
    assert lands
    assert ratio > 45
    assert not find_traps(model, Path())


def test_a_norm_that_would_be_wrong_is_reported_and_not_compiled(tmp_path: Path) -> None:
    path = tmp_path / "norm.onnx"
    onnx.save(npu_models.rms_norm(WRONG_SHAPES[0]), path)
    (placement,) = place_all(path, find_target("qnn-htp"), SM8650)
    assert (placement.runs_on, placement.cause, placement.fixed_by) == ("", "rank", "flatten-norm")
    assert "[1, 16, 4, 32] in floating point" in placement.reason
    assert placement.change == "normalize three dimensions, (1, rows, width)"
    with pytest.raises(InputError, match=r"node norm: .* computes wrong results .*\(the pass flatten-norm\)"):
        qnn.compile_context(path, tmp_path / "c.onnx", SM8650, fp16=True, refuse=refuse_traps)
    assert not (tmp_path / "c.onnx").exists()


HEADS = (14, 2)  # queries and keys of Qwen2.5-0.5B
LOOKUPS = [(soc, *case) for soc in (SM8650, *OTHERS) for case in ((64, "uint16"), (64, "int16"), (256, "uint8"))]


@pytest.mark.parametrize(("soc", "rows", "activations"), LOOKUPS, ids=named)
def test_rows_that_are_broadcast_are_wrong_and_right_where_they_come_first(
    soc: Soc, rows: int, activations: str
) -> None:
    wrong = npu_models.broadcast_rows(rows, HEADS, activations)
    lands, ratio = asked(wrong, soc)
    assert lands
    assert ratio < 10
    (trap,) = find_traps(wrong, Path())
    assert (trap.node, trap.cause, trap.change) == ("gather", "rank", LOOKUP_RULES[0].remedy)
    right = npu_models.broadcast_rows(rows, HEADS, activations, rows_first=True)
    lands, ratio = asked(right, soc)
    assert lands
    assert ratio > (40 if activations == "uint8" else 80)
    assert not find_traps(right, Path())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 7, 16, 32, 33, 64, 96, 128, 256]),
    heads=st.lists(st.sampled_from([1, 2, 3, 4, 8, 9, 14, 16]), min_size=1, max_size=3),
    columns=st.sampled_from([8, 16, 24, 32, 40, 64, 128]),
    activations=st.sampled_from(["", "uint8", "uint16"]),
    rows_first=st.booleans(),
)
def test_no_broadcast_of_rows_is_wrong_without_the_rule(
    rows: int, heads: list[int], columns: int, activations: str, rows_first: bool
) -> None:
    model = npu_models.broadcast_rows(rows, heads, activations, rows_first=rows_first, columns=columns)
    lands, ratio = asked(model, SM8650)
    assert lands
    assert ratio > (40 if activations != "uint16" else 80) or find_traps(model, Path())


@pytest.mark.parametrize(("dtype", "activations"), [(onnx.TensorProto.INT32, ""), (onnx.TensorProto.INT64, "uint16")])
def test_floats_and_wide_indices_are_right(dtype: int, activations: str) -> None:
    model = npu_models.broadcast_rows(64, HEADS, activations)
    model.graph.input[0].type.tensor_type.elem_type = dtype
    lands, ratio = asked(model, SM8650)
    assert lands
    assert ratio > 45
    assert not find_traps(model, Path())


READINGS = [
    ([((1, 1, 64, 32), (1, 14, 64, 32)), ((1, 1, 64, 32), (1, 2, 64, 32))], True),
    ([((64, 32), (14, 64, 32))] * 2, True),
    ([((1, 64, 1, 32), (1, 64, 14, 32))] * 2, False),
    ([((1, 1, 64, 32), (1, 14, 64, 32))], False),  # one reader
    ([((1, 64, 32), (1, 64, 32))] * 2, False),  # nothing is broadcast: an embedding
    ([((1, 1, 1, 32), (1, 14, 1, 32))] * 2, False),  # one row
]


@pytest.mark.parametrize(("readings", "wrong"), READINGS)
def test_what_the_rule_about_lookups_speaks_of(readings: list[Reading], wrong: bool) -> None:
    assert bool(lookup_rules_against("uint16", "int32", readings)) == wrong
    assert not lookup_rules_against("", "int32", readings)
    assert not lookup_rules_against("uint16", "int64", readings)


def test_a_lookup_that_would_be_wrong_is_not_compiled(tmp_path: Path) -> None:
    onnx.save(npu_models.broadcast_rows(64, HEADS, "uint16"), tmp_path / "lookup.onnx")
    with pytest.raises(InputError, match=r"node gather: .* wrong ones for many sizes, .* let the rows come first"):
        qnn.compile_context(tmp_path / "lookup.onnx", tmp_path / "c.onnx", SM8650, refuse=refuse_traps)
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize("soc", [SM8650, *OTHERS], ids=named)
def test_a_product_of_two_uint16_activations_is_as_exact_as_8_bits_for_one_of_them(soc: Soc) -> None:
    """Should this fail, the HTP has learned it, and what docs/benchmarks.md says of a16w8 is out of date."""
    lands, ratio = asked(npu_models.product("uint16", "uint16"), soc)
    assert lands
    assert ratio < 50
    assert asked(npu_models.product("uint8", "uint16"), soc)[1] > ratio - 2
    lands, ratio = asked(npu_models.product("uint16", "int16"), soc)
    assert lands == (soc.arch > 68)
    assert ratio > 70
