"""Codes: what is stored comes back, and means what the scheme says, for rows of any length."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.arrays.codes import Codes, spread
from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES, Scheme


@dataclass(frozen=True)
class Case:
    codes: Codes
    meant: np.ndarray  # the weights in float64, element by element


@st.composite
def cases(draw: st.DrawFn) -> Case:
    scheme = Scheme("rtn", draw(st.sampled_from(BITS)), draw(st.sampled_from(BLOCK_SIZES)), draw(st.booleans()))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    blocks = scheme.blocks(columns)
    codes = random.integers(0, 1 << scheme.bits, (rows, columns), dtype=np.uint8)
    scales = random.standard_normal((rows, blocks)).astype(np.float32)
    zero_points = np.full((rows, blocks), 1 << scheme.bits - 1, np.uint8)
    if not scheme.symmetric:
        zero_points = random.integers(0, 1 << scheme.bits, (rows, blocks), dtype=np.uint8)
    meant = np.array(
        [
            [
                (int(codes[row, column]) - int(zero_points[row, column // scheme.block_size]))
                * float(scales[row, column // scheme.block_size])
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )
    made = Codes(torch.from_numpy(codes), torch.from_numpy(scales), torch.from_numpy(zero_points), scheme)
    return Case(made, meant)


@settings(deadline=None)
@given(case=cases())
def test_what_is_packed_comes_back(case: Case) -> None:
    codes, (rows, columns) = case.codes, case.meant.shape
    stored = codes.pack()
    assert stored.values.shape == codes.scheme.values_shape(rows, columns)
    assert stored.scales.shape == codes.scheme.scales_shape(rows, columns)
    assert (stored.zero_points is None) == codes.scheme.symmetric
    if stored.zero_points is not None:
        assert stored.zero_points.shape == codes.scheme.zero_points_shape(rows, columns)
    found = Codes.unpack(stored, codes.scheme, columns)
    assert torch.equal(found.codes, codes.codes)
    assert torch.equal(found.scales, codes.scales)
    assert torch.equal(found.zero_points, codes.zero_points)
    assert found.scheme == codes.scheme


@settings(deadline=None)
@given(case=cases())
def test_codes_mean_what_the_scheme_says_before_and_after_packing(case: Case) -> None:
    codes, (_, columns) = case.codes, case.meant.shape
    np.testing.assert_allclose(codes.dequantize().numpy(), case.meant, rtol=1e-6)
    stored = codes.pack()
    padded = stored.scales.shape[1] * codes.scheme.block_size
    whole = dequantize(stored.values, stored.scales, codes.scheme, padded, stored.zero_points)
    np.testing.assert_allclose(whole[:, :columns], case.meant, rtol=1e-6)
    assert not whole[:, columns:].any()  # what pads a row means 0


@given(columns=st.integers(1, 200), block_size=st.sampled_from(BLOCK_SIZES))
def test_spread_gives_each_column_its_blocks_value(columns: int, block_size: int) -> None:
    scheme = Scheme("rtn", 4, block_size)
    blocks = torch.arange(3 * scheme.blocks(columns)).reshape(3, -1)
    found = spread(blocks, scheme, columns)
    assert found.tolist() == [[int(row[column // block_size]) for column in range(columns)] for row in blocks]
