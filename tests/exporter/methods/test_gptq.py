"""GPTQ against Optimal Brain Surgeon as its paper states it: one weight at a time, with an explicit inverse."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods import nearest_plane as columns
from edgepress.exporter.methods.nearest_plane import cholesky_factor, nearest_plane, start_codes
from edgepress.exporter.methods.round.gptq import METHOD


def moments_of(inputs: np.ndarray) -> Moments:
    moments = Moments(inputs.shape[1])
    moments.add(torch.from_numpy(inputs.astype(np.float32)))
    return moments


def brute_force(w: np.ndarray, hessian: np.ndarray, scales: np.ndarray, order: list[int], top: int) -> np.ndarray:
    """Codes − zero point of one row: round a weight, move all that are left to their best (OBS, eq. 2 of GPTQ)."""
    w, left = w.astype(np.float64).copy(), list(order)
    steps = np.zeros(len(w))
    while left:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        i = left[0]
        steps[i] = np.clip(np.round(w[i] / scales[i]), -(top + 1) // 2, top // 2)
        w[left] -= (w[i] - steps[i] * scales[i]) / inverse[0, 0] * inverse[:, 0]
        left = left[1:]
    return steps


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 16),
    rows=st.integers(1, 4),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([1, 3, 64]),
)
def test_it_gives_the_codes_of_optimal_brain_surgeon(seed: int, n: int, rows: int, bits: int, block: int) -> None:
    draw = np.random.default_rng(seed)
    inputs = draw.standard_normal((40, n)) @ draw.standard_normal((n, n))  # correlated
    w = draw.standard_normal((rows, n)).astype(np.float32)
    top = (1 << bits) - 1
    scales = np.full((rows, n), 1.5 * np.abs(w).max() / (1 << (bits - 1)), np.float32)
    hessian = inputs.T @ inputs
    damped = hessian + 0.01 * hessian.diagonal().mean() * np.eye(n)
    order = list(draw.permutation(n))  # the first is rounded first
    back = torch.tensor([int(i) for i in order[::-1]])
    factor = cholesky_factor(torch.from_numpy(hessian)[back][:, back], 0.01)
    zero_points = torch.full((n, rows), float(1 << (bits - 1)), dtype=torch.float64)
    arrays = (torch.from_numpy(a.T.astype(np.float64))[back] for a in (w, scales))
    weights, per_weight = arrays
    with mock.patch.object(columns, "_BLOCK", block):
        codes = nearest_plane(weights, factor, per_weight, zero_points, top=top).numpy().astype(float)
    found = np.empty((rows, n))
    found[:, back.numpy()] = codes.T - (1 << (bits - 1))
    expected = np.stack([brute_force(w[r], damped, scales[r].astype(np.float64), order, top) for r in range(rows)])
    np.testing.assert_array_equal(found, expected)


def test_one_thread_gives_the_codes_of_two() -> None:
    draw = np.random.default_rng(3)
    weights, scales = (torch.from_numpy(draw.standard_normal((300, 40)).astype(np.float32)) for _ in range(2))
    zero_points = torch.full((300, 40), 8.0)
    inputs = torch.from_numpy(draw.standard_normal((400, 300)).astype(np.float32))
    before = torch.get_num_threads()
    try:
        factor = cholesky_factor(inputs.T @ inputs, 0.01)
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(nearest_plane(weights, factor, scales.abs(), zero_points, top=15))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("columns", [64, 100, 200])
@pytest.mark.parametrize("act_order", [True, False])
def test_the_output_is_nearer_than_after_rounding_to_nearest(columns: int, act_order: bool) -> None:
    draw = np.random.default_rng(columns)
    inputs = draw.standard_normal((500, columns)) @ (np.eye(columns) + draw.standard_normal((columns, columns)) / 4)
    w = torch.from_numpy(draw.standard_normal((24, columns)).astype(np.float32))
    moments, scheme = moments_of(inputs), Scheme("gptq", 4, 32)
    x = torch.from_numpy(inputs.astype(np.float32))
    rounded = {
        "gptq": METHOD.quantize(w, scheme, moments, {"damping": 0.01, "act_order": act_order}),
        "rtn": start_codes(w, scheme, moments),
    }
    error = {name: float(((w - codes.dequantize()) @ x.T).square().mean()) for name, codes in rounded.items()}
    assert error["gptq"] < 0.6 * error["rtn"]
    assert rounded["gptq"].codes.max() <= 15


def test_columns_that_are_never_used_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((100, 32))
    inputs[:, 7] = 0
    w = torch.from_numpy(draw.standard_normal((3, 32)).astype(np.float32))
    codes = METHOD.quantize(w, Scheme("gptq", 4, 32), moments_of(inputs), METHOD.options)
    assert bool(torch.isfinite(codes.dequantize()).all())


def test_a_singular_hessian_is_one_clear_error() -> None:
    inputs = np.zeros((10, 32))
    w = torch.ones(2, 32)
    with pytest.raises(InputError, match="Hessian of 32 inputs is singular \\(32 of them are always 0"):
        METHOD.quantize(w, Scheme("gptq", 4, 32), moments_of(inputs), METHOD.options)
    inputs[:, :4] = 1.0
    with pytest.raises(InputError, match="with damping 0; raise"):
        METHOD.quantize(w, Scheme("gptq", 4, 32), moments_of(inputs), {"damping": 0.0, "act_order": True})
