"""Activations on disk: any shape comes back, whole, in batches and by the sequence."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays import activations as module
from edgepress.exporter.arrays.activations import Activations

shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 8))


@settings(deadline=None)
@given(shape=shapes, most=st.sampled_from([1, 16, 100, 2048]), seed=st.integers(0, 99), data=st.data())
def test_what_is_written_in_batches_comes_back(
    shape: tuple[int, int, int], most: int, seed: int, data: st.DataObject
) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    before, module.BATCH_TOKENS = module.BATCH_TOKENS, most
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "inputs.f32"
            written = Activations(path, shape)
            for batch in data.draw(st.permutations(written.batches())):  # in any order
                written.write(batch, values[batch])
            assert path.stat().st_size == 4 * values.numel()  # on disk, and nothing else
            found = Activations(path, shape)  # as a run that goes on opens it
            assert torch.equal(torch.cat(list(found)), values)
            for batch in found.batches():
                assert torch.equal(found.read(batch), values[batch])
                assert (batch.stop - batch.start) * shape[1] <= max(most, shape[1])
            some = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=6))
            assert torch.equal(found.read_some(np.array(some)), values[some])
    finally:
        module.BATCH_TOKENS = before


@given(shape=shapes)
def test_batches_are_every_sequence_once(shape: tuple[int, int, int]) -> None:
    with TemporaryDirectory() as folder:
        batches = Activations(Path(folder) / "inputs.f32", shape).batches()
    assert [i for batch in batches for i in range(batch.start, batch.stop)] == list(range(shape[0]))


def test_what_was_written_is_not_held_in_memory(tmp_path: Path) -> None:
    """A change to the file is seen: reads come from the disk."""
    stored = Activations(tmp_path / "inputs.f32", (4, 8, 2))
    stored.write(slice(0, 4), torch.ones(4, 8, 2))
    np.full((4, 8, 2), 3, np.float32).tofile(tmp_path / "inputs.f32")
    assert torch.equal(torch.cat(list(stored)), torch.full((4, 8, 2), 3.0))


def test_a_view_is_written_in_the_order_of_its_elements(tmp_path: Path) -> None:
    stored = Activations(tmp_path / "inputs.f32", (3, 8, 2))
    view = torch.arange(16.0).reshape(1, 2, 8).transpose(1, 2)
    stored.write(slice(1, 2), view)
    assert torch.equal(stored.read(slice(1, 2)), view)
    assert not stored.read_some(np.array([0, 2])).any()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    full = tmp_path / "inputs.f32"
    full.symlink_to("/dev/full")
    stored = Activations(full, (4, 800, 2))
    with pytest.raises(InputError, match=r"inputs.f32, 25,600 bytes, cannot be written: No space left .*; free space"):
        stored.write(slice(0, 4), torch.ones(4, 800, 2))
