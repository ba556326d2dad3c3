"""Weights of a rewritten model: made a piece at a time, copied by region, never read from outside their folder."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.graph import weights as module
from edgepress.exporter.graph.weights import Weights, as_type
from edgepress.onnx_graph import tensors
from edgepress.onnx_graph.tensors import Rows


def rows_of(array: np.ndarray) -> Rows:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return Rows(array.shape, kind, lambda start, stop: array[start:stop])


def model(*weights: onnx.TensorProto) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], list(weights)))


def read_back(made: onnx.ModelProto, folder: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor, str(folder)) for tensor in made.graph.initializer}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    piece=st.integers(1, 4000),
    transposed=st.booleans(),
    half=st.booleans(),
)
def test_a_weight_is_written_piece_by_piece_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, piece: int, transposed: bool, half: bool
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    array = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    made = rows_of(array)
    if half:
        made, array = as_type(made, TensorProto.FLOAT16), array.astype(np.float16)
    if transposed:
        made, array = made.T, array.T
    np.testing.assert_array_equal(made.array(), array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "PIECE", piece)
        patch.setattr(module, "_INLINE", 0)
        weights = Weights(folder)
        written = model(weights.tensor("w", made), weights.tensor("v", made))
        weights.write([written], folder / "data")
    for found in read_back(written, folder).values():
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_stored_weights_are_copied_and_shared(tmp_path: Path) -> None:
    array = np.arange(6000, dtype=np.float32).reshape(60, 100)
    made = model(numpy_helper.from_array(array, "a"), numpy_helper.from_array(array[:30], "b"))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = [onnx.load(tmp_path / "m.onnx", load_external_data=False) for _ in range(2)]
    weights = Weights(tmp_path)
    np.testing.assert_array_equal(weights.rows(loaded[0].graph.initializer[0]).read(10, 12), array[10:12])
    weights.write(loaded, tmp_path / "new")
    for found in (read_back(one, tmp_path) for one in loaded):
        np.testing.assert_array_equal(found["a"], array)
        np.testing.assert_array_equal(found["b"], array[:30])
    assert (tmp_path / "new").stat().st_size < 3 * array.nbytes


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, r"'w' is in '\.\./secret', outside the model's folder"),
        ({"location": "/etc/passwd"}, r"'w' is in '/etc/passwd', an absolute path"),
        ({"location": "link"}, "'w' is in 'link', a link that leads outside the model's folder, to .*secret"),
        ({"location": "gone"}, "'w' is in 'gone', which is missing or unreadable; copy it beside the model"),
        (
            {"location": "data", "offset": "8"},
            "'w' ends at byte 48 of 'data', which has 40; the data file is truncated",
        ),
        ({"location": "data", "offset": "-4"}, r"'w' has a negative offset or length \(-4, 40\)"),
        ({"location": "data", "offset": "x"}, "'w' has an offset or length that is no number"),
        ({"location": "data", "length": "36"}, r"'w' has 36 bytes, its shape \[10\] says 40; the file is broken"),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(40))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "data").write_bytes(bytes(40))
    tensor = TensorProto(name="w", data_type=1, dims=[10], data_location=TensorProto.EXTERNAL)
    for key, value in ({"length": "40"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(InputError, match=message):
        Weights(folder).array(tensor)
    with pytest.raises(InputError, match="say in which folder the model lies"):
        Weights().array(tensor)


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_a_region_that_takes_several_reads_is_whole_and_not_cut_short(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives 0x7ffff000 bytes a read at most: here a file that gives ``most``."""

    class Capped(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            return super().read(min(size, most) if size >= 0 else most)

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:most])

    array = np.random.default_rng(most).standard_normal((60, 100)).astype(np.float32)
    made = model(numpy_helper.from_array(array, "a"))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tensor,) = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    weights = Weights(tmp_path)
    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Capped(self))
    np.testing.assert_array_equal(weights.array(tensor), array)
    assert weights.inline(tensor).raw_data == array.tobytes()
