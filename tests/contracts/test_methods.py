"""Every compression method found on disk is held to the same contract."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_tasks import TinyModel, layer_task, logits, tiny_model

from edgepress.errors import InputError
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.packing import Quantized, dequantize, unpack, unpack_zero_points
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES, Scheme
from edgepress.exporter.methods import kinds
from edgepress.exporter.methods.kinds import (
    FOLDERS,
    AnyMethod,
    LinearMethod,
    Method,
    Pruning,
    Transform,
    load_method,
    method_names,
    method_options,
    unchanged,
)
from edgepress.exporter.methods.options import read_options
from edgepress.exporter.recipe.recipe import Recipe, Storage

FILES = {
    path.stem: path
    for folder in FOLDERS
    for path in (Path(kinds.__file__).parent / folder).glob("*.py")
    if path.stem != "__init__"
}
ROWS = [name for name in method_names() if isinstance(load_method(name), Method)]
LINEAR = [name for name in method_names() if isinstance(load_method(name), LinearMethod)]
HYBRIDS = ("lfm2", "qwen3_5_text", "granitemoehybrid", "falcon_h1", "mamba", "mamba2", "jamba", "olmoe", "minicpm3")
TRANSFORMS = [name for name in method_names() if isinstance(load_method(name), Transform)]

# Largest share of Σ x² that the error of normal samples may be: half as much again as the worst of 3000 draws.
SHARE = {2: 0.34, 4: 0.027, 8: 1.2e-4}

schemes = st.builds(
    Scheme,
    st.just("method"),
    st.sampled_from(BITS),
    st.sampled_from(BLOCK_SIZES),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
)


def weights(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def restored(stored: Quantized, scheme: Scheme, columns: int) -> np.ndarray:
    return dequantize(stored.values, stored.scales, scheme, columns, stored.zero_points)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=60, deadline=None)
@given(
    scheme=schemes,
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    cut=st.integers(0, 9),
    weighted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_method_keeps_its_shapes_its_error_and_its_rows_apart(
    name: str, scheme: Scheme, rows: int, columns: int, cut: int, weighted: bool, seed: int
) -> None:
    quantize, x = load_method(name).quantize, weights(seed, rows, columns)
    importance = np.abs(weights(seed + 1, 1, columns))[0] + np.float32(0.1) if weighted else None
    whole = quantize(x, scheme, importance)
    blocks = scheme.blocks(columns)
    assert (whole.values.shape, whole.values.dtype) == (scheme.values_shape(rows, columns), np.uint8)
    assert (whole.scales.shape, whole.scales.dtype) == (scheme.scales_shape(rows, columns), np.float32)
    assert (whole.zero_points is None) == scheme.symmetric
    zero_points = np.full((rows, blocks), scheme.zero_point, np.uint8)
    if whole.zero_points is not None:
        assert (whole.zero_points.shape, whole.zero_points.dtype) == (scheme.zero_points_shape(rows, columns), np.uint8)
        zero_points = unpack_zero_points(whole.zero_points, scheme.bits, blocks)
    if scheme.per_channel:
        assert (whole.scales == whole.scales[:, :1]).all()
        assert (zero_points == zero_points[:, :1]).all()
    codes = unpack(whole.values, scheme.bits).reshape(rows, -1)
    assert (codes[:, columns:] == zero_points[:, -1:]).all(), "padding means 0"
    pieces = [quantize(piece, scheme, importance) for piece in (x[:cut], x[cut:]) if len(piece)]
    np.testing.assert_array_equal(np.concatenate([piece.values for piece in pieces]), whole.values)
    np.testing.assert_array_equal(np.concatenate([piece.scales for piece in pieces]), whole.scales)
    if whole.zero_points is not None:
        np.testing.assert_array_equal(np.concatenate([piece.zero_points for piece in pieces]), whole.zero_points)
    share = np.square(restored(whole, scheme, columns) - x).sum() / np.square(x).sum()
    assert share <= SHARE[scheme.bits]


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=20, deadline=None)
@given(scheme=schemes)
def test_zeros_stay_zeros(name: str, scheme: Scheme) -> None:
    stored = load_method(name).quantize(np.zeros((3, 70), np.float32), scheme, None)
    np.testing.assert_array_equal(restored(stored, scheme, 70), np.zeros((3, 70)))


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=30, deadline=None)
@given(scheme=schemes, columns=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_zeros_among_others_stay_zeros(name: str, scheme: Scheme, columns: int, share: float, seed: int) -> None:
    gone = np.random.default_rng(seed).random((3, columns)) < share
    stored = load_method(name).quantize(np.where(gone, np.float32(0), weights(seed, 3, columns)), scheme, None)
    assert (restored(stored, scheme, columns)[gone] == 0).all()


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=20, deadline=None)
@given(
    scheme=schemes,
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    seed=st.integers(0, 2**16),
)
def test_a_linear_method_keeps_its_shapes_and_what_it_says_of_zeros(
    name: str, scheme: Scheme, rows: int, columns: int, seed: int
) -> None:
    method, moments = load_method(name), Moments(columns)
    moments.add(torch.from_numpy(weights(seed + 1, 2 * columns, columns)))
    codes = method.quantize(torch.from_numpy(weights(seed, rows, columns)), scheme, moments, method.options)
    assert (codes.codes.shape, codes.codes.dtype) == ((rows, columns), torch.uint8)
    assert codes.scales.shape == codes.zero_points.shape == (rows, scheme.blocks(columns))
    assert int(codes.codes.max()) < 1 << scheme.bits
    assert bool(torch.isfinite(codes.dequantize()).all())
    again = codes.unpack(codes.pack(), scheme, columns)
    assert torch.equal(again.dequantize(), codes.dequantize())
    if method.zeros(method.options):
        assert float((codes.dequantize() == 0).float().mean()) >= 0.5 - 1 / columns
    nothing = method.quantize(torch.zeros(rows, columns), scheme, moments, method.options)
    assert bool((nothing.dequantize() == 0).all())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_importance_moves_the_error_to_where_it_matters_less(
    name: str, bits: int, symmetric: bool, per_channel: bool
) -> None:
    scheme, x = Scheme(name, bits, 32, symmetric, per_channel), weights(1, 64, 128)
    importance = np.where(np.arange(128) % 8 == 0, 100.0, 1.0).astype(np.float32)
    weighed, plain = (load_method(name).quantize(x, scheme, w) for w in (importance, None))

    def error(stored: Quantized) -> float:
        return float((importance * (restored(stored, scheme, 128) - x) ** 2).sum())

    assert error(weighed) < error(plain)


def test_every_file_in_a_kind_s_folder_is_a_method() -> None:
    assert method_names() == sorted(FILES)
    folders = {path.name for path in Path(kinds.__file__).parent.iterdir() if path.is_dir()}
    assert folders - {"__pycache__", "smaller", "narrower", "on_graphs"} == set(FOLDERS)  # of helpers, and of graphs


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_method_is_of_its_folder_s_kind_and_says_what_its_options_may_be(name: str) -> None:
    method = load_method(name)
    assert type(method) in FOLDERS[FILES[name].parent.name]
    assert callable(method.check)
    assert (
        read_options(name, method.declared, {}) == method.options == {k: o.default for k, o in method.declared.items()}
    )
    for key, option in method.declared.items():
        assert option.unset_at_zero or not option.problem(option.default), key
        assert option.problem(None), key
        assert option.problem([option.default]), key
    with pytest.raises(InputError, match=f"options.{name}. has no option 'nothing'"):
        read_options(name, method.declared, {"nothing": 1})


@pytest.mark.parametrize("folder", sorted(FOLDERS))
@pytest.mark.parametrize(
    "method",
    [
        Method("misplaced", lambda *_: None),
        Transform("misplaced", unchanged, lambda *_: None),
        Pruning("misplaced", lambda *_: None),
        Pruning("another_name", lambda *_: None),
        object(),
    ],
    ids=["Method", "Transform", "Pruning", "another name", "no method"],
)
def test_a_method_in_a_folder_of_another_kind_is_an_error_in_the_program(
    folder: str, method: AnyMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = isinstance(method, FOLDERS[folder]) and method.name == "misplaced"
    module = ModuleType("misplaced")
    module.METHOD = method  # type: ignore[attr-defined] # as a file has it
    where = f"{kinds.__package__}.{folder}.misplaced"
    monkeypatch.setitem(sys.modules, where, module)
    monkeypatch.setattr(kinds, "_files", lambda: {"misplaced": folder})
    if fits:
        assert load_method("misplaced") is method
    else:
        with pytest.raises(
            TypeError, match=rf"{where}.METHOD must be a {FOLDERS[folder][0].__name__}.* named 'misplaced'"
        ):
            load_method("misplaced")


def test_an_unknown_method_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"rtn"):
        load_method("rtm")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("variant", ["llama-biases-head_dim", "gpt2-untied-scales", *HYBRIDS])
def test_a_transform_changes_weights_and_no_logit(name: str, variant: str, tmp_path: Path) -> None:
    transform, model = load_method(name), tiny_model(variant)
    storage = Storage("rtn", 4, 32)
    recipe = Recipe("contract", storage, storage, storage, before=(name,))
    found = TinyModel(transform.describe(model.decoder, recipe), dict(model.weights))
    for index, layer in enumerate(model.decoder.layers):
        task = layer_task(found, tmp_path, storage, index)
        transform.fold(task, method_options(transform, recipe))
        found.weights.update(task.weights)
        for block in layer.blocks:
            inputs = [linear.weight.name for linear in block.mixer.input_projections]
            assert not all(torch.equal(found.weights[weight], model.weights[weight]) for weight in inputs)
    before, after = logits(model.decoder, model.weights), logits(found.decoder, found.weights)
    assert float((after - before).abs().max()) <= 1e-5 * float(before.abs().max())
