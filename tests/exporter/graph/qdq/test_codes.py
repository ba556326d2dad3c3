"""The arithmetic of QDQ weights against brute force, and weights that are rounded already."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.graph.qdq.codes import (
    Rounded,
    bias_floor,
    pack_int4,
    recover,
    round_bias,
    round_constant,
    round_weight,
)

FINITE = st.floats(-100, 100, width=32, allow_subnormal=False)


@given(arrays(np.float32, (3, 5), elements=FINITE), st.sampled_from([0, 1]))
def test_8_bits_reach_to_each_channels_largest_and_round_to_nearest(weight: np.ndarray, axis: int) -> None:
    codes, scale = round_weight(weight, axis, 8)
    for channel, (row, code) in enumerate(zip(np.moveaxis(weight, axis, 0), np.moveaxis(codes, axis, 0), strict=True)):
        step = float(scale[channel])
        assert step > 0
        assert np.abs(code).max() == (127 if np.abs(row).max() > 1e-30 else np.abs(code).max())
        assert np.abs(code * step - row.astype(np.float64)).max() <= step * 0.5001


@given(arrays(np.float32, (8, 2), elements=FINITE))
def test_4_bits_are_never_worse_than_reaching_to_the_largest(weight: np.ndarray) -> None:
    codes, scale = round_weight(weight, 1, 4)
    assert codes.min() >= -8
    assert codes.max() <= 7
    for channel in range(2):
        column, step = weight[:, channel].astype(np.float64), np.abs(weight[:, channel]).max() / 7
        if step > 1e-30:
            plain = np.square(np.clip(np.round(column / step), -8, 7) * step - column).sum()
            assert np.square(codes[:, channel] * float(scale[channel]) - column).sum() <= plain * 1.001 + 1e-9


def test_4_bits_clip_a_far_outlier() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((4096, 1)).astype(np.float32)
    _, scale = round_weight(weight, 1, 4)
    assert scale[0] < 0.9 * np.abs(weight).max() / 7
    steps = np.linspace(0.1, 1.2, 400) * np.abs(weight).max() / 7  # a finer grid, one step at a time
    best = min(float(np.square(np.clip(np.round(weight / s), -8, 7) * s - weight).sum()) for s in steps)
    own, step = round_weight(weight, 1, 4)
    assert np.square(own * step - weight).sum() <= 1.01 * best


@given(
    arrays(np.int32, (4, 6), elements=st.integers(-8, 7)),
    arrays(np.float32, 4, elements=st.floats(2**-20, 8, width=32)),
)
def test_rounded_weights_keep_exactly_their_codes(codes: np.ndarray, scale: np.ndarray) -> None:
    weight = (codes * scale[:, None]).astype(np.float32)
    found, steps = recover("w", weight, 0, Rounded(scale, 4))
    assert np.array_equal(found, codes)
    assert np.array_equal(steps, scale)


def test_a_negative_scale_is_turned_if_no_code_is_the_least() -> None:
    codes, scale = np.array([[-7, 3], [7, -8]]), np.array([-0.5, 0.25], np.float32)
    found, steps = recover("w", (codes * scale[:, None]).astype(np.float32), 0, Rounded(scale, 4))
    assert np.array_equal(steps, np.abs(scale))
    assert np.array_equal(found, [[7, -3], [7, -8]])
    weight = (np.array([[-8, 3], [7, -8]]) * scale[:, None]).astype(np.float32)
    with pytest.raises(InputError, match=r"w has codes -8 to 8, int4 ends at 7; take positive scales"):
        recover("w", weight, 0, Rounded(scale, 4))


@pytest.mark.parametrize(
    ("scale", "weight", "message"),
    [
        (
            np.ones((4, 2), np.float32),
            np.ones((4, 8), np.float32),
            r"one scale for each of 4 channels: .*without blocks",
        ),
        (np.ones(3, np.float32), np.ones((4, 8), np.float32), r"shape \(3,\), the weight \(4, 8\)"),
        (np.ones(4, np.float32), np.full((4, 8), 1.25, np.float32), r"0\.250 steps off the grid"),
        (np.zeros(4, np.float32), np.zeros((4, 8), np.float32), "a scale is 0 or not finite"),
        (np.ones(4, np.float32), np.full((4, 8), 8, np.float32), "codes 8 to 8, int4 ends at 7$"),
    ],
)
def test_what_is_not_rounded_per_channel_is_refused_by_name(
    scale: np.ndarray, weight: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=rf"weight\.7.*{message}"):
        recover("weight.7", weight, 0, Rounded(scale, 4))


@given(arrays(np.int32, st.integers(1, 9), elements=st.integers(-8, 7)))
def test_int4_bytes_are_onnxs(codes: np.ndarray) -> None:
    tensor = helper.make_tensor("w", TensorProto.INT4, codes.shape, pack_int4(codes), raw=True)
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int32), codes)


@given(arrays(np.float32, 5, elements=FINITE), st.sampled_from([8, 16]))
def test_constants_are_within_half_a_step_and_0_is_exact(value: np.ndarray, bits: int) -> None:
    codes, scale, zero = round_constant(value, float(value.min()), float(value.max()), bits)
    assert 0 <= zero <= 2**bits - 1
    back = (codes - zero) * np.float64(scale)
    slack = 0.5 + 0.5 * ((value == value.min()) | (value == value.max()))  # the zero point is rounded too
    assert (np.abs(back - value) <= slack * 1.01 * scale + 1e-12).all()


def test_a_bias_that_int32_does_not_hold_is_refused_and_a_floor_makes_it_fit() -> None:
    bias, step = np.array([3.0, -1e-6], np.float32), np.float32(1e-3)
    with pytest.raises(InputError, match=r"the bias b is 3e\+09 steps"):
        round_bias("b", bias, np.array([1e-9, 1e-9], np.float32))
    floor = bias_floor(bias, step)
    _, scale = round_weight(np.full((2, 4), 1e-9, np.float32), 0, 8, floor)
    assert (scale >= floor).all()
    codes = round_bias("b", bias, scale * step)
    assert np.allclose(codes * (scale.astype(np.float64) * step), bias, rtol=1e-6, atol=1e-9)
