"""Codes that gradients move: where they begin, what their gradients are, and that they stay what a kernel can read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.streams.learned import LearnedCodes

SCHEMES = [
    Scheme("rtn", 4, 16),
    Scheme("rtn", 2, 32, symmetric=False),
    Scheme("rtn", 8, 16, symmetric=False),
    Scheme("rtn", 4, 16, per_channel=True),
]


def draw(scheme: Scheme, seed: int, rows: int = 3, columns: int = 40) -> tuple[Codes, torch.Tensor]:
    """Some codes and a weight that is near them, now and then not."""
    random = np.random.default_rng(seed)
    blocks = scheme.blocks(columns)
    codes = random.integers(0, 1 << scheme.bits, (rows, columns)).astype(np.uint8)
    scales = (random.standard_normal((rows, 1 if scheme.per_channel else blocks)) * np.ones((rows, blocks))).astype(
        "f4"
    )
    zero_points = np.full((rows, blocks), scheme.zero_point, np.uint8)
    if not scheme.symmetric:
        zero_points = random.integers(0, 1 << scheme.bits, (rows, blocks)).astype(np.uint8)
    start = Codes(*(torch.from_numpy(y) for y in (codes, scales, zero_points)), scheme)
    noise = random.standard_normal((rows, columns)).astype("f4") * np.abs(start.dequantize().numpy()).mean() / 4
    return start, start.dequantize() + torch.from_numpy(noise)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCHEMES), st.integers(0, 10**6))
def test_learning_begins_at_the_codes_and_scales_it_is_given(scheme: Scheme, seed: int) -> None:
    start, full = draw(scheme, seed)
    for learned in (LearnedCodes.of(start, full), LearnedCodes.of(start)):
        found = learned.round()
        assert torch.equal(found.codes, start.codes)
        assert torch.equal(found.scales, start.scales)
        torch.testing.assert_close(learned.dequantize(), start.dequantize(), rtol=0, atol=0)


def test_a_position_begins_at_the_weight_itself_when_the_code_is_the_nearest() -> None:
    start, full = draw(SCHEMES[0], 1)
    positions = LearnedCodes.of(start, full).positions
    assert positions is not None
    scales = start.scales.repeat_interleave(16, 1)[:, :40]
    exact = full / scales + 8
    near = (exact - start.codes).abs() < 0.49
    assert 20 < int(near.sum()) < near.numel()
    torch.testing.assert_close(positions[near], exact[near])


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gradients_are_those_of_the_smooth_part(scheme: Scheme) -> None:
    """Finite differences in float64 of Σ g · (p − zero point) · scale · factor, at p = the codes."""
    start, full = draw(scheme, 2)
    learned = LearnedCodes.of(start, full)
    weigh = np.random.default_rng(3).standard_normal((3, 40))
    (learned.dequantize() * torch.from_numpy(weigh.astype("f4"))).sum().backward()
    positions, factors = learned.positions, learned.factors
    assert positions is not None

    def smooth(p: np.ndarray, f: np.ndarray) -> float:
        total = 0.0
        for row in range(3):
            for column in range(40):
                block = column // scheme.block_size
                factor = f[row, 0 if scheme.per_channel else block]
                step = p[row, column] - int(start.zero_points[row, block])
                total += weigh[row, column] * step * float(start.scales[row, block]) * factor
        return total

    p, f = start.codes.numpy().astype(float), np.ones(factors.shape)
    for where, gradient in ((p, positions.grad), (f, factors.grad)):
        assert gradient is not None
        for index in list(np.ndindex(where.shape))[:: max(1, where.size // 12)]:
            middle = where[index]
            where[index] = middle + 1e-3
            above = smooth(p, f)
            where[index] = middle - 1e-3
            below = smooth(p, f)
            where[index] = middle
            assert float(gradient[index]) == pytest.approx((above - below) / 2e-3, rel=1e-4, abs=1e-4)


def test_codes_that_stay_get_no_gradient_and_rows_are_the_rows() -> None:
    start, full = draw(SCHEMES[1], 5)
    fixed, moved = LearnedCodes.of(start), LearnedCodes.of(start, full)
    rows = torch.tensor([2, 0])
    for learned in (fixed, moved):
        torch.testing.assert_close(learned.dequantize(rows), start.dequantize()[rows])
        learned.dequantize(rows).square().sum().backward()
        assert learned.factors.grad is not None
        assert bool((learned.factors.grad[1] == 0).all())
        assert bool((learned.factors.grad[[0, 2]] != 0).any())
    assert fixed.positions is None


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("zeros", ["50% zeros", ""])
def test_zeros_of_a_sparse_scheme_stay_however_long_the_rest_is_trained(scheme: Scheme, zeros: str) -> None:
    start, full = draw(replace(scheme, zeros=zeros), 7)
    blocks = start.zero_points.repeat_interleave(scheme.block_size, 1)[:, :40]
    start.codes[:, ::2] = blocks[:, ::2]
    zero = start.codes == blocks
    learned = LearnedCodes.of(start, full)
    assert learned.positions is not None
    optimizer = torch.optim.Adam([learned.positions, learned.factors], lr=0.2)
    for step in range(20):
        optimizer.zero_grad()
        (learned.dequantize(slice(0, 3)) - 3 * (-1) ** (step // 15)).square().sum().backward()
        optimizer.step()
        learned.keep_in_range()
    moved = learned.round().codes != start.codes
    assert bool(moved[~zero].any())
    assert bool(moved[zero].any()) == (not zeros)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SCHEMES), st.integers(0, 10**6))
def test_codes_stay_in_range_and_scales_of_a_channel_equal_however_they_are_moved(scheme: Scheme, seed: int) -> None:
    start, full = draw(scheme, seed)
    learned = LearnedCodes.of(start, full)
    random = torch.Generator().manual_seed(seed)
    assert learned.positions is not None
    with torch.no_grad():
        learned.positions.add_(torch.randn(3, 40, generator=random) * 100)
        learned.factors.mul_(1 + torch.rand(learned.factors.shape, generator=random))
    before = learned.round()
    learned.keep_in_range()
    found = learned.round()
    assert found.codes.dtype == torch.uint8
    assert int(found.codes.max()) <= (1 << scheme.bits) - 1
    assert torch.equal(found.codes, before.codes)  # what is out of range rounds to its ends already
    assert float(learned.positions.detach().max()) < (1 << scheme.bits) - 0.5
    assert torch.equal(found.zero_points, start.zero_points)
    assert not torch.equal(found.scales, start.scales)
    if scheme.per_channel:
        assert bool((found.scales == found.scales[:, :1]).all())
    stored = Codes.unpack(found.pack(), scheme, 40)
    assert torch.equal(stored.dequantize(), found.dequantize())
