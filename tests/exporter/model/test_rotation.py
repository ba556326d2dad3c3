"""Hadamard matrices by their definition, and rotations against the Kronecker product written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.model.description import Rotation
from edgepress.exporter.model.operations import rotate
from edgepress.exporter.model.rotation import factors, hadamard, orthogonal, split


@pytest.mark.parametrize("order", range(1, 129))
def test_a_hadamard_matrix_is_one(order: int) -> None:
    found = hadamard(order)
    if found is not None:
        assert set(np.unique(found)) <= {-1.0, 1.0}
        np.testing.assert_array_equal(found @ found.T, order * np.eye(order))


def test_which_orders_there_are() -> None:
    """All multiples of 4 have one, as far as is known; ours lack those that need other constructions."""
    lacking = [order for order in range(4, 129, 4) if hadamard(order) is None]
    assert lacking == [52, 92, 100, 116]
    assert [order for order in range(1, 129) if order % 4 and hadamard(order) is not None] == [1, 2]


@settings(max_examples=40, deadline=None)
@given(order=st.integers(1, 64), seed=st.integers(0, 99), keeps_mean=st.booleans())
def test_factors_are_orthogonal_and_keep_the_mean_when_asked(order: int, seed: int, keeps_mean: bool) -> None:
    q = orthogonal(order, np.random.default_rng(seed), keeps_mean=keeps_mean)
    np.testing.assert_allclose(q @ q.T, np.eye(order), atol=1e-12)
    if keeps_mean:
        np.testing.assert_allclose(q.sum(axis=1), np.ones(order), atol=1e-12)


# Hidden sizes of GPT-2, SmolLM2, Qwen2.5, TinyLlama, Llama 3.2 and Phi-3
@pytest.mark.parametrize("channels", [64, 288, 576, 768, 896, 960, 1024, 1280, 1536, 1600, 2048, 3072, 4096])
def test_every_channel_goes_into_all_others_alike(channels: int) -> None:
    left, right = split(channels)
    assert left * right == channels
    whole = np.kron(*factors(Rotation(left, right, seed=3)))
    np.testing.assert_allclose(np.abs(whole), channels**-0.5, rtol=1e-12)


def test_sizes_without_a_hadamard_matrix_get_a_random_orthogonal_factor() -> None:
    assert split(72 + 28) == (25, 4)  # 100 = 4 · 25
    whole = np.kron(*factors(Rotation(25, 4, seed=0)))
    np.testing.assert_allclose(whole @ whole.T, np.eye(100), atol=1e-12)


@pytest.mark.parametrize("keeps_mean", [False, True])
def test_rotating_is_the_kronecker_product(keeps_mean: bool) -> None:
    rotation = Rotation(12, 8, seed=1, keeps_mean=keeps_mean)
    whole = np.kron(*factors(rotation))
    x = np.random.default_rng(0).standard_normal((2, 5, 96))
    there = rotate(rotation, torch.from_numpy(x))
    np.testing.assert_allclose(there.numpy(), x @ whole, atol=1e-12)
    np.testing.assert_allclose(rotate(rotation, there, back=True).numpy(), x, atol=1e-12)
    assert np.abs(whole).max() < 0.5  # spread, even with the mean kept


def test_another_seed_is_another_rotation_and_the_same_one_the_same() -> None:
    first, again, other = (np.kron(*factors(Rotation(8, 8, seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
