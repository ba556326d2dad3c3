"""What a student learns from: nothing of it is held out, and what cannot be changed is refused."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.methods.narrower.taught.lessons import OPTIONS, Lessons, make_lessons
from edgepress.exporter.methods.options import OptionValue, read_options


def lessons(shapes: list[tuple[int, ...]], *, free: bool, steps: int = 30, **asked: OptionValue) -> Lessons:
    """Lessons of samples whose values say which they are."""
    numbers = iter(range(1000))
    feeds = [
        {"x": np.stack([np.full(shape[1:], next(numbers), np.float32) for _ in range(shape[0])])} for shape in shapes
    ]
    options = read_options("retrain", OPTIONS, asked)
    return make_lessons(feeds, free=free, name="retrain", steps=steps, batch=8, options=options, seed=0)


def numbers_of(feeds: object) -> set[float]:
    return set(np.concatenate([np.asarray(feed["x"]).ravel() for feed in feeds]).tolist())  # type: ignore[attr-defined]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_what_is_held_out_is_not_learned(*, free: bool, flip: bool) -> None:
    found = lessons([(1, 3, 4, 4)] * 40, free=free, flip=flip)
    learned, held = numbers_of(found.feeds), numbers_of(found.checked)
    assert not learned & held
    assert learned | held == set(range(40))
    assert len(held) == 2
    rows = {len(np.asarray(feed["x"])) for feed in found.feeds}
    assert (rows, found.each, len(found.feeds)) == (({8}, 1, 30) if free else ({1}, 8, 240))


def test_batches_of_samples_are_taken_apart_where_the_batch_is_free() -> None:
    found = lessons([(10, 3, 4, 4)] * 4, free=True)
    assert len(numbers_of(found.checked)) == 2
    assert {len(np.unique(np.asarray(feed["x"]))) for feed in found.feeds} == {8}


@pytest.mark.parametrize("shapes", [[(1, 5), (1, 6), (1, 7)], [(2, 5)] * 3])
def test_samples_that_cannot_be_drawn_alone_come_as_they_are(shapes: list[tuple[int, ...]]) -> None:
    found = lessons(shapes, free=False)
    assert len(found.feeds) == 2
    assert len(found.checked) == 1
    assert found.each == 8 // shapes[0][0]
    with pytest.raises(InputError, match=r"\[options.retrain\] flip, zoom, shift, mix and paste change samples of one"):
        lessons(shapes, free=False, mix=True)


def test_one_sample_is_too_few() -> None:
    with pytest.raises(InputError, match="retrain needs two calibration sequences or more"):
        lessons([(1, 3, 4, 4)], free=True)


@pytest.mark.parametrize(("axis", "free"), [("batch", True), (1, False)])
def test_whether_a_graph_takes_several_samples(axis: int | str, *, free: bool) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [axis, 3])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [axis, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [made])
    assert Network(helper.make_model(graph)).free_batch is free
