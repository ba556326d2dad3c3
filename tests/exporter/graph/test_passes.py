"""Passes over shapes and settings of any kind, against onnxruntime's fused kernels and numpy; and what they refuse."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pass_models import (
    CASES,
    Case,
    activation,
    contrib,
    gather_block_quantized,
    group_query,
    matmul_nbits,
    model,
    node,
    normal,
    order,
    run,
    swapped,
)

from edgepress.errors import InputError
from edgepress.exporter.graph.editing import require_opset
from edgepress.exporter.graph.passes import Context

examples = settings(max_examples=60, deadline=None)


def difference(case: Case, *names: str) -> float:
    changed = copy.deepcopy(case.model)
    assert all(order(*names).run(changed, Context(case.shapes)).values())
    assert not any(node.domain for node in changed.graph.node)
    pairs = zip(run(case.model, case.feeds), run(changed, case.feeds), strict=True)
    return max(float(np.abs(after - before).max() / np.abs(before).max()) for before, after in pairs)


@examples
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    head_dim=st.sampled_from([16, 32]),
    sequence=st.integers(1, 9),
    past=st.integers(0, 9),
    packed=st.booleans(),
    pairs=st.sampled_from([0, 8]),
    interleaved=st.integers(0, 1),
    softcap=st.sampled_from([0.0, 1.5]),
    window=st.sampled_from([-1, 1, 4]),
    scale=st.sampled_from([0.0, 0.3]),
    dynamic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_group_query_attention_of_any_shape(
    kv_heads: int,
    group: int,
    head_dim: int,
    sequence: int,
    past: int,
    packed: bool,
    pairs: int,
    interleaved: int,
    softcap: float,
    window: int,
    scale: float,
    dynamic: bool,
    seed: int,
) -> None:
    case = group_query(
        heads=group * kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        sequence=sequence,
        past=past,
        packed=packed,
        rotary=pairs,
        rotary_interleaved=interleaved,
        dynamic=dynamic,
        seed=seed,
        softcap=softcap,
        local_window_size=window,
        scale=scale,
    )
    assert difference(case, "decompose-attention") < 2e-5


@examples
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 150),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([16, 32, 64]),
    zero_points=st.sampled_from(["", "packed", "float"]),
    bias=st.booleans(),
)
def test_block_wise_products_of_any_shape(
    rows: int, columns: int, bits: int, block: int, zero_points: str, bias: bool
) -> None:
    assume((bits, zero_points) != (8, "float"))  # onnxruntime has no such kernel
    case = matmul_nbits(rows=rows, columns=columns, bits=bits, block=block, zero_points=zero_points, bias=bias)
    changed = copy.deepcopy(case.model)
    assert order("plain-matmul").run(changed)["plain-matmul"] == 1
    found, expected = run(changed, case.feeds)[0], product(case, columns, bits, block)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def product(case: Case, columns: int, bits: int, block: int) -> np.ndarray:
    """What MatMulNBits is defined to compute, code by code, in float64."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
    scales, mask, each = constants["scales"], (1 << bits) - 1, 8 // bits
    weights = np.zeros((len(scales), columns))
    for row in range(len(scales)):
        for column in range(columns):
            number, place = divmod(column, block)
            code = constants["codes"][row, number, place // each] >> bits * (place % each) & mask
            zero: float = 1 << (bits - 1)
            if "zp" in constants and constants["zp"].dtype == np.uint8:
                zero = constants["zp"][row, number // each] >> bits * (number % each) & mask
            elif "zp" in constants:
                zero = constants["zp"][row, number]
            weights[row, column] = (float(code) - float(zero)) * scales[row, number]
    return case.feeds["x"].astype(np.float64) @ weights.T + constants.get("bias", 0)


@examples
@given(
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([16, 32]),
    columns=st.sampled_from([16, 48, 80]),
    zero_points=st.booleans(),
)
def test_block_wise_tables_of_any_shape(bits: int, block: int, columns: int, zero_points: bool) -> None:
    case = gather_block_quantized(bits=bits, block=block, columns=columns, zero_points=zero_points)
    assert difference(case, "plain-matmul") == 0


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"smooth_softmax": 1}, r"y: GroupQueryAttention with smooth_softmax = 1 \(a smooth softmax adds a term"),
        ({"qk_output": 1}, r"qk_output = 1 \(scores are an output\)"),
        ({"k_quant_type": "PER_TENSOR"}, r"k_quant_type = PER_TENSOR \(the cache is quantized\)"),
    ],
)
def test_attention_without_a_plain_form_is_refused(attributes: dict[str, object], message: str) -> None:
    changed = copy.deepcopy(group_query().model)
    changed.graph.node[0].attribute.extend(onnx.helper.make_attribute(*item) for item in attributes.items())
    with pytest.raises(InputError, match=message):
        order("decompose-attention").run(changed)


def test_a_head_sink_is_refused() -> None:
    changed = copy.deepcopy(group_query().model)
    changed.graph.node[0].input.extend(["", "", "", "", "sink"])
    with pytest.raises(InputError, match="GroupQueryAttention with head_sink has no plain form here"):
        order("decompose-attention").run(changed)


def test_codes_that_do_not_fill_their_blocks_are_refused() -> None:
    changed = copy.deepcopy(matmul_nbits().model)
    changed.graph.node[0].attribute[0].i *= 2
    with pytest.raises(InputError, match=r"codes has 480 bytes, and \d+ rows of \d+ codes"):
        order("plain-matmul").run(changed)


def test_an_old_opset_is_named_with_the_remedy() -> None:
    x = normal(1, 2, 8)
    old = model([node("Relu", ["x"], ["y"])], {"x": x}, ["y"], opset=17)
    with pytest.raises(
        InputError, match=r"the model is in opset 17, and at least 23 is needed; export it in opset 21 or newer"
    ):
        require_opset(old, 23)
    require_opset(old, 13)
    assert old.opset_import[0].version == 17
    new = model([node("Relu", ["x"], ["y"])], {"x": x}, ["y"], opset=21)
    require_opset(new, 23)
    assert (new.opset_import[0].version, new.ir_version) == (23, 11)
    np.testing.assert_array_equal(run(new, {"x": x})[0], np.maximum(x, 0))


def test_gelu_before_opset_20_is_left_alone() -> None:
    feeds = {"x": normal(1, 2, 8)}
    old = model([contrib("Gelu", ["x"], ["y"])], feeds, ["y"], opset=17)
    assert order("plain-activations").run(old) == {"plain-activations": 0}
    assert difference(activation("Gelu"), "plain-activations") < 1e-6


@pytest.mark.parametrize("shape", [(2, 5, 4, 16), (1, 5, 4, 16), (3, 5, 16), (2, 1, 3, 2, 8)])
def test_static_graphs_norm_three_dimensions_of_which_the_first_is_1(shape: tuple[int, ...]) -> None:
    nodes = [node("RMSNormalization", ["x", "gain"], ["y"], axis=-1, epsilon=1e-5)]
    feeds = {"x": normal(1, *shape)}
    made = model(nodes, feeds, ["y"], {"gain": normal(2, shape[-1])}, opset=23)
    before = run(made, feeds)[0]
    assert order("flatten-norm").run(made) == {"flatten-norm": 1}
    norm = next(node for node in made.graph.node if node.op_type == "RMSNormalization")
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True)
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }
    assert shapes[norm.input[0]] == [1, feeds["x"].size // shape[-1], shape[-1]]
    assert order("flatten-norm").run(made) == {"flatten-norm": 0}
    np.testing.assert_allclose(run(made, feeds)[0], before, rtol=1e-6)


def test_only_a_swap_of_the_last_axes_becomes_one() -> None:
    changed = copy.deepcopy(swapped().model)
    assert order("swap-last").run(changed) == {"swap-last": 1}
    assert [node.op_type for node in changed.graph.node] == ["Reshape", "Transpose", "Transpose", "Reshape"]


@examples
@given(numbers=st.permutations(range(6)) | st.just(list(range(6))), depth=st.integers(1, 2))
def test_a_lookup_is_a_reshape_where_it_takes_everything_in_its_order(numbers: list[int], depth: int) -> None:
    """Of x (2, 3), all elements or all of its rows, some of them told from the end."""
    every = np.arange(6).reshape(2, 3) if depth == 2 else np.arange(2)
    taken = numbers if depth == 2 else [index for index in numbers if index < 2]
    places = np.stack(np.unravel_index(taken, every.shape), axis=-1)
    places[-1] -= np.array(every.shape)
    feeds = {"x": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    before = model([node("GatherND", ["x", "places"], "y")], feeds, ["y"], {"places": places})
    after = copy.deepcopy(before)
    plain = taken == sorted(taken)
    assert order("plain-gather-nd").run(after, Context())["plain-gather-nd"] == plain
    assert [node.op_type for node in after.graph.node] == ["Reshape" if plain else "GatherND"]
    assert np.array_equal(run(before, feeds)[0], run(after, feeds)[0])


def test_layers_share_the_numbers_of_a_mask_and_masks_of_numbers_are_left_alone() -> None:
    case = CASES["attention with a mask of booleans"]
    changed = copy.deepcopy(case.model)
    assert order("float-masks").run(changed, Context()) == {"float-masks": 2}
    assert [node.op_type for node in changed.graph.node].count("Where") == 1
    assert order("float-masks").run(changed, Context()) == {"float-masks": 0}
