"""A graph without some of its channels computes what it did with nothing reading them: bit by bit, in whole numbers."""

import numpy as np
import onnx
import pytest
from channel_models import BLOCKS, IMAGES, GraphOfIntegers, convolutions, encoder, standard_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.methods.narrower.coupling import Coupling, find_coupling
from edgepress.exporter.methods.narrower.cut import cut, masked, plain
from edgepress.sessions import open_on_cpu


def run(model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """What onnxruntime computes."""
    return open_on_cpu(model.SerializeToString()).run(None, feeds)


def random_kept(coupling: Coupling, seed: int) -> NDArray[np.bool_]:
    """Some channels of each group that is not normalized over, at least one."""
    kept, random = coupling.all_kept(), np.random.default_rng(seed)
    for group in coupling.groups:
        if group.kind != "hidden":
            order = random.permutation(group.channels)
            kept[order[random.integers(1, len(order) + 1) :]] = False
    for _, labels in coupling.whole:  # parts of a group that something reads alone
        own = coupling.channel_of[labels]
        if not kept[own].any():
            kept[own[0]] = True
    return kept


def assert_cut_is_masked(model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]], seed: int) -> Coupling:
    model = plain(model)
    coupling = find_coupling(model)
    kept = random_kept(coupling, seed)
    small = cut(model, coupling, kept)
    onnx.checker.check_model(small, full_check=True)
    for found, expected in zip(run(small, feeds), run(masked(model, coupling, kept), feeds), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert coupling.parameters(kept) == sum(
        int(np.prod(tensor.dims)) for tensor in small.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    )
    again = find_coupling(small)
    assert again.multiply_adds(again.all_kept()) == coupling.multiply_adds(kept)
    return coupling


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4), st.integers(0, 1000))
def test_random_networks_of_convolutions(steps: list[str], seed: int) -> None:
    assert_cut_is_masked(convolutions(steps, seed), {"image": IMAGES}, seed)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_block_has_channels_that_go(block: str) -> None:
    coupling = assert_cut_is_masked(convolutions([block, "plain"], 1), {"image": IMAGES}, 1)
    assert sum(len(group) for group in coupling.groups) >= 8


@pytest.mark.parametrize("seed", range(3))
def test_heads_and_widths_of_an_encoder(seed: int) -> None:
    x = np.random.default_rng(seed).integers(-1, 2, (2, 3, 6)).astype(np.float32)
    coupling = assert_cut_is_masked(encoder(fused=False, seed=seed), {"x": x}, seed)
    assert [(group.kind, len(group)) for group in coupling.groups] == [("heads", 4), ("widths", 10)]
    assert "add_19_0" in coupling.kept_whole["matmul_18_0"]  # the residual stream: it begins as the input


def test_heads_of_fused_attention() -> None:
    model = plain(encoder(fused=True))
    coupling = find_coupling(model)
    assert [(group.kind, len(group)) for group in coupling.groups] == [("heads", 4), ("widths", 10)]
    kept = random_kept(coupling, 5)
    x = np.random.default_rng(5).normal(size=(2, 3, 6)).astype(np.float32)
    found, expected = (run(m, {"x": x})[0] for m in (cut(model, coupling, kept), masked(model, coupling, kept)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("how", [{}, {"packed": True}, {"kv_heads": 2}, {"bias": 4}, {"bias": 1, "kv_heads": 2}])
def test_heads_of_onnx_s_attention(how: dict[str, int], *, together: bool) -> None:
    """Heads of queries that share one of keys go with it; who asks how many texts there are keeps none."""
    model = plain(standard_encoder(together=together, **how))  # type: ignore[arg-type] # packed is true or not there
    coupling = find_coupling(model)
    heads = how.get("kv_heads", 4)
    assert [(group.kind, len(group)) for group in coupling.groups] == [("heads", heads), ("widths", 10)]
    products = 3 * (6 * 2 * (4 + 2 * heads) + 8 * 6 + 2 * 6 * 10)
    assert coupling.multiply_adds(coupling.all_kept()) == products + 4 * 2 * (3 * 2 * 3)
    for seed in range(2):
        kept = random_kept(coupling, seed)
        x = np.random.default_rng(seed).normal(size=(2, 3, 6)).astype(np.float32)
        small = cut(model, coupling, kept)
        onnx.checker.check_model(small, full_check=True)
        found, expected = (run(m, {"x": x})[0] for m in (small, masked(model, coupling, kept)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        again = find_coupling(small)
        assert again.multiply_adds(again.all_kept()) == coupling.multiply_adds(kept)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_hidden_values_of_recurrent_layers(op: str, gates: int) -> None:
    g = GraphOfIntegers(2)
    weights = [g.weight(2, gates * 6, 3), g.weight(2, gates * 6, 6), g.weight(2, 2 * gates * 6)]
    y = g.node(op, ["x", *weights], 1, hidden_size=6, direction="bidirectional")[0]  # (length, 2, batch, 6)
    y = g.one("MatMul", y, g.weight(6, 4))
    model = plain(g.model({"x": [5, 1, 3]}, {y: [5, 2, 1, 4]}))
    coupling = find_coupling(model)
    assert [(group.kind, len(group)) for group in coupling.groups] == [("states", 6)]
    kept = random_kept(coupling, 4)
    x = np.random.default_rng(4).normal(size=(5, 1, 3)).astype(np.float32)
    found, expected = (run(m, {"x": x})[0] for m in (cut(model, coupling, kept), masked(model, coupling, kept)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert kept.sum() < len(kept)


def test_counts_are_those_of_the_formula() -> None:
    g = GraphOfIntegers(0)
    x = g.one("Conv", "image", g.weight(8, 3, 3, 3), pads=[1] * 4)
    x = g.one("Conv", x, g.weight(16, 4, 1, 1), group=2)
    y = g.one("MatMul", g.one("Flatten", x), g.weight(16 * 36, 5))
    coupling = find_coupling(plain(g.model({"image": [1, 3, 6, 6]}, {y: [1, 5]})))
    assert coupling.multiply_adds(coupling.all_kept()) == 36 * (8 * 27 + 16 * 4) + 16 * 36 * 5


def test_a_shared_vector_couples_nothing() -> None:
    g = GraphOfIntegers(0)
    ones = g.constant(np.ones(4, np.float32))
    x = "x"
    for _ in range(2):
        x = g.one("MatMul", g.one("Mul", g.one("MatMul", x, g.weight(3, 4)), ones), g.weight(4, 3))
    coupling = find_coupling(plain(g.model({"x": [2, 3]}, {x: [2, 3]})))
    assert [len(group) for group in coupling.groups] == [4, 3, 4]


def test_what_has_no_rule_keeps_its_inputs_whole() -> None:
    g = GraphOfIntegers(0)
    x = g.one("CumSum", g.one("MatMul", "x", g.weight(3, 4)), g.constant(np.array(1, np.int64)))
    y = g.one("MatMul", x, g.weight(4, 3))
    coupling = find_coupling(plain(g.model({"x": [2, 3]}, {y: [2, 3]})))
    assert not coupling.groups
    assert any("CumSum" in reason for reason in coupling.kept_whole.values())


def test_nothing_left_is_refused() -> None:
    model = plain(convolutions(["plain"], 0))
    coupling = find_coupling(model)
    kept = coupling.all_kept()
    kept[coupling.groups[0].channels] = False
    with pytest.raises(InputError, match=r"none of the 8 channels of .* would stay"):
        cut(model, coupling, kept)
