"""Arrays from a file in, arrays out."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from task_models import Arrays, opened

from edgepress.errors import InputError
from edgepress.processing import arrays
from edgepress.runtime.tasks.kinds import find_task, task_names


def doubled(inputs: Arrays) -> Arrays:
    return {"y": np.asarray(inputs["x"], np.float32) * 2}


def model(shape: tuple[int | str, ...] = ("n",), kind: str = "float32") -> object:
    return opened("tensors", {"x": (kind, shape)}, {"y": shape}, doubled)


def test_arrays_of_a_file_are_the_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([1.5, 2]))
    for source in (tmp_path / "x.npz", str(tmp_path / "x.npz"), {"x": [1.5, 2]}):
        np.testing.assert_array_equal(model().answer(source)["y"], [3, 4])


def test_a_batch_of_another_size_is_computed_in_pieces_of_the_graphs() -> None:
    inputs = {"x": np.arange(10.0, dtype=np.float32).reshape(5, 2)}
    np.testing.assert_array_equal(model((2, 2)).run_rows(inputs)["y"], inputs["x"] * 2)


def test_integers_become_the_graphs_type_where_they_fit() -> None:
    assert model(kind="int8").run({"x": np.array([5, -128])})["y"].tolist() == [10, -256]
    for wrong in ([200], [0.5]):
        with pytest.raises(InputError, match="are no int8"):
            model(kind="int8").run({"x": np.array(wrong)})


def test_a_number_stays_one() -> None:
    made = opened("tensors", {"x": ("int64", ())}, {"y": ()}, lambda inputs: {"y": np.asarray(inputs["x"].ndim)})
    assert made.run({"x": np.array(5)})["y"] == 0


def test_files_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    (tmp_path / "text.npz").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "damaged.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY nothing of the kind")
    for name in ("objects.npz", "text.npz", "damaged.npz", "nowhere.npz"):
        with pytest.raises(InputError, match=rf"{name} is no \.npz file"):
            arrays.read_arrays(tmp_path / name)
    (tmp_path / "speech.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"speech.wav is no \.npz file, .* export the model with --task FILE.json"):
        model().answer(tmp_path / "speech.wav")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10_000))
    monkeypatch.setattr(arrays, "MOST", 1000)
    with pytest.raises(InputError, match="more than the 1,000"):
        arrays.read_arrays(tmp_path / "bomb.npz")
    with pytest.raises(InputError, match="not int"):
        model().answer(5)


def test_every_task_has_a_file_whose_name_is_its_own() -> None:
    assert {"tensors", "image-classification", "sentence-similarity"} <= set(task_names())
    for name in task_names():
        assert find_task(name).name == name
    with pytest.raises(InputError, match="no task 'juggling'; there are"):
        find_task("juggling")
