"""Samples that are changed: every pixel is where the change says, and the same batch comes by the same number."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepress.exporter.streams.augmented import Augmented, Changes, moved, zoomed

ALL = Changes(flip=True, zoom=1.5, shift=2, mix=True, paste=True)
BATCH = 6
changes = st.builds(
    Changes, flip=st.booleans(), zoom=st.sampled_from([1.0, 1.3]), shift=st.integers(0, 3), paste=st.booleans()
)


Arrays = dict[str, NDArray[Any]]


def batch_of(pool: Arrays, how: Changes, index: int, *, count: int = 10, size: int = BATCH, seed: int = 3) -> Arrays:
    return dict(Augmented(pool, count, size, how, seed=seed)[index])


def numbered(count: int, height: int, width: int) -> NDArray[np.float32]:
    """Images (count, 2, height, width) whose values say which image they are of."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 2, height, width)).copy()


@settings(deadline=None, max_examples=25)
@given(how=changes, size=st.tuples(st.integers(2, 9), st.integers(2, 9)), index=st.integers(0, 9))
def test_values_stay_values_of_the_pool(how: Changes, size: tuple[int, int], index: int) -> None:
    """Moving and pasting invents no value: constant images stay constant, or hold a rectangle of one other."""
    pool: Arrays = {"image": numbered(10, *size), "label": np.arange(10)}
    batch = batch_of(pool, how, index)
    assert batch["image"].shape == (BATCH, 2, *size)
    for image, label in zip(batch["image"], batch["label"], strict=True):
        near = np.rint(image)
        np.testing.assert_allclose(image, near, atol=1e-5)
        others = np.unique(near[near != label])
        assert len(others) <= (1 if how.paste else 0)
        if len(others):
            rows, columns = (np.flatnonzero((near[0] != label).any(axis)) for axis in (1, 0))
            assert (near[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == others[0]).all()
            assert (near != label).sum() == 2 * len(rows) * len(columns)


def test_the_same_number_gives_the_same_batch_and_others_differ() -> None:
    pool: Arrays = {"image": np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)}
    first, again, later, other = (batch_of(pool, ALL, *how)["image"] for how in ((2,), (2,), (3,), (4,)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    assert not np.array_equal(later, other)
    assert not np.array_equal(first, batch_of(pool, ALL, 2, seed=2)["image"])
    assert len(batch_of(pool, ALL, 0, size=99)["image"]) == 40
    assert len(list(Augmented(pool, 5, 4, ALL, seed=1))) == 5


def test_a_ramp_that_is_zoomed_is_a_ramp() -> None:
    """An affine map of a linear image is linear: its steps are the map's own, in the middle of a large image."""
    size, most = 65, 1.3
    y, x = np.mgrid[:size, :size].astype(np.float32)
    images = np.repeat(np.stack([x, y])[None], 50, 0)
    found = zoomed(images, most, np.random.default_rng(0))[:, :, 28:37, 28:37].astype(np.float64)
    along = np.diff(found, axis=3).mean((2, 3)), np.diff(found, axis=2).mean((2, 3))  # (n, 2): of x and of y
    for axis, step in ((3, along[0]), (2, along[1])):
        np.testing.assert_allclose(
            np.diff(found, axis=axis),
            np.broadcast_to(step[:, :, None, None], np.diff(found, axis=axis).shape),
            atol=1e-3,
        )
    areas = np.abs(along[0][:, 0] * along[1][:, 1] - along[0][:, 1] * along[1][:, 0])  # of what a pixel sees
    assert ((areas > 1 / most**2 - 1e-3) & (areas < most**2 + 1e-3)).all()
    assert areas.min() < 0.8
    assert areas.max() > 1.2
    angles = np.degrees(np.arctan2(along[0][:, 1], along[0][:, 0]))
    assert np.abs(angles).max() < 15 * 1.25
    assert np.ptp(angles) > 15


def test_half_are_turned_and_all_are_shifted() -> None:
    images = np.broadcast_to(np.arange(7, dtype=np.float32), (400, 1, 5, 7)).copy()
    turned = moved(images, Changes(flip=True), np.random.default_rng(0))[:, 0, 0]
    backwards = (turned[:, 0] == 6).mean()
    assert 0.4 < backwards < 0.6
    shifted = moved(images, Changes(shift=2), np.random.default_rng(0))[:, 0, 0]
    assert sorted(set(shifted[:, 3])) == [1, 2, 3, 4, 5]
    assert set(shifted[:, 0]) == {0, 1, 2}  # at the edge it is repeated


def test_what_is_mixed_lies_between_two_samples() -> None:
    pool: Arrays = {"image": numbered(50, 4, 4), "sound": np.arange(50, dtype=np.float32)[:, None], "id": np.arange(50)}
    batch = batch_of(pool, replace(Changes(), mix=True), 0, size=48)
    image, own = batch["image"][:, 0, 0, 0], batch["id"]
    np.testing.assert_allclose(batch["sound"][:, 0], image)  # all inputs of a sample with one share
    assert 0.2 < (image == own).mean() < 0.8
    assert np.unique(np.rint(image)).size > 20


@pytest.mark.parametrize("batch", [1, 4])
def test_nothing_asked_changes_nothing(batch: int) -> None:
    pool: Arrays = {"image": np.random.default_rng(0).normal(size=(9, 3, 4, 4)).astype(np.float32), "id": np.arange(9)}
    found = batch_of(pool, Changes(), 1, size=batch)
    np.testing.assert_array_equal(found["image"], pool["image"][found["id"]])
