"""Sums over what goes into a projection, against float64."""

from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.arrays import moments as module
from edgepress.exporter.arrays.moments import Moments


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    columns=st.integers(1, 20),
    strip=st.sampled_from([1, 3, 512]),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_moments_are_those_of_all_rows(seed: int, columns: int, strip: int, counts: list[int]) -> None:
    draw = np.random.default_rng(seed)
    batches = [draw.standard_normal((2, count, columns)).astype(np.float32) for count in counts]
    moments = Moments(columns)
    with mock.patch.object(module, "_STRIP", strip):
        for batch in batches:
            moments.add(torch.from_numpy(batch))
            _ = moments.second  # looking at the sums does not change them
        rows = np.concatenate([batch.reshape(-1, columns) for batch in batches]).astype(np.float64)
        np.testing.assert_allclose(moments.second, rows.T @ rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.mean_square, np.square(rows).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moments.largest, np.abs(rows).max(0).astype(np.float32))
    assert moments.count == len(rows)
