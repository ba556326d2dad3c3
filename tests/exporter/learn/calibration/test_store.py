"""Stages: whole or absent, found again under the same key only, and never trusted when they are damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.streams.store import Store, to_arrays

KEY = {"source": "abc", "threads": 1}
ARRAYS = {"a/data": np.arange(6, dtype=np.float32).reshape(2, 3), "b/values": np.arange(8, dtype=np.uint8)}


def begin(directory: Path) -> None:
    """Leave a store with two stages."""
    with Store.open(directory, KEY) as store:
        store.save("0000-layer", ARRAYS, {"reports": {"a": {"sqnr_db": 20.0}}})
        store.save("0001-layer", {})


arrays_drawn = st.dictionaries(
    st.text("abc/.", min_size=1, max_size=6),
    hypothesis_numpy.arrays(
        st.sampled_from([np.float32, np.uint8, np.int64, np.uint16]),
        hypothesis_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(arrays=arrays_drawn, note=st.text(max_size=8))
def test_a_stage_comes_back_as_it_was(
    arrays: dict[str, np.ndarray], note: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("store")
    with Store.open(directory, KEY) as store:
        assert not store.has("0000-layer")
        store.save("0000-layer", arrays, {"note": note})
    with Store.open(directory, KEY) as store:
        found = store.load("0000-layer")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)
        assert store.notes("0000-layer") == {"note": note}
        assert store.stages() == ["0000-layer"]


def test_a_stage_that_is_not_written_to_the_end_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "store")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    with Store.open(tmp_path / "store", KEY) as store:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="no space"):
                store.save("0002-layer", ARRAYS)
        assert not store.has("0002-layer")
        assert store.stages() == ["0000-layer", "0001-layer"]
        assert "0002-layer" not in store.weights().complete
        store.save("0002-layer", ARRAYS)
        assert store.has("0002-layer")


def test_another_key_begins_anew_with_nothing_of_the_old_one(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    begin(directory)
    (directory / "generator").mkdir()
    (directory / "generator" / "model.onnx").write_bytes(b"left by a killed run")
    with Store.open(directory, KEY) as store:
        assert store.stages() == ["0000-layer", "0001-layer"]
    with Store.open(directory, {**KEY, "threads": 2}) as store:
        assert store.stages() == []
        assert {path.name for path in directory.iterdir()} == {"key.json"}
        store.save("0000-layer", {})
    with Store.open(directory, {**KEY, "threads": 2}) as store:
        assert store.stages() == ["0000-layer"]


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_a_damaged_stage_is_named_and_everything_done_again(
    size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path / "store")
    stage = tmp_path / "store" / "0000-layer.safetensors"
    stage.write_bytes(stage.read_bytes()[:size])
    with Store.open(tmp_path / "store", KEY) as store:
        assert store.stages() == []  # what the second was made from is gone too
    assert "stage 0000-layer is damaged" in caplog.text


def test_an_error_keeps_what_is_complete_and_no_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store.open(tmp_path / "store", KEY):
        raise ZeroDivisionError
    assert not (tmp_path / "store").exists()
    begin(tmp_path / "store")
    with pytest.raises(ZeroDivisionError), Store.open(tmp_path / "store", KEY):
        raise ZeroDivisionError
    with Store.open(tmp_path / "store", KEY) as store:
        assert store.stages() == ["0000-layer", "0001-layer"]


def test_weights_of_a_later_stage_replace_those_of_an_earlier_one(tmp_path: Path) -> None:
    first = Quantized(np.zeros((2, 1, 8), np.uint8), np.ones((2, 1), np.float32), None)
    second = Quantized(np.ones((2, 1, 8), np.uint8), np.full((2, 1), 2, np.float32), np.full((2, 1), 7, np.uint8))
    norm = np.arange(3, dtype=np.float32)
    with Store.open(tmp_path / "store", KEY) as store:
        store.save("0000-generated", {"tokens": np.zeros((1, 2), np.int64)})
        store.save("0000-layer", to_arrays("w", first) | to_arrays("norm", norm), {"reports": {"w": {"sqnr_db": 1.0}}})
        store.save("0002-distill", to_arrays("w", second), {"reports": {"w": {"sqnr_db": 2.0}}})
        weights = store.weights()
        assert list(weights) == ["norm", "w"]  # the tokens are no weight
        assert "tokens" not in weights
        found = weights.weight("w")
        assert isinstance(found, Quantized)
        for name in ("values", "scales", "zero_points"):
            np.testing.assert_array_equal(getattr(found, name), getattr(second, name))
        np.testing.assert_array_equal(weights.weight("norm"), norm)
        assert weights.reports == {"w": {"sqnr_db": 2.0}}
        assert weights.complete == ["0000-generated", "0000-layer", "0002-distill"]
