"""The contract of doors, in tiers: each kind of model that apps ship is found, agrees with torch, and is a bundle.

All kinds at the cheaper tiers, the first of each family at the dearest (tests/door_shapes.py).
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from door_shapes import FIRSTS, SHAPES, original, reference, traced
from stored_weights import with_stored

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.exporter import export
from edgepress.exporter.decide.encoder_decoder import is_encoder_decoder
from edgepress.exporter.doors.kinds import find_door
from edgepress.exporter.export import export_traced
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu

CLOSE = 1e-4  # of an output's largest value; measured: 2e-6
NEAR = 0.1  # 8 bits of weights and, in blocks, of activations, on random weights; measured: 0.03
EXACT = "accuracy_level = 1\n[weights]\nbits = {bits}\nblock_size = 32\n[embedding]\nbits = {bits}\n"
FEEDS = 4

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", SHAPES)
def test_its_door_is_found_by_its_name_alone(name: str) -> None:
    door = find_door(reference(name))
    assert door is not None
    assert door.name == SHAPES[name].door
    assert not is_encoder_decoder(reference(name))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-6))


def expected_of(name: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What torch computes, or onnxruntime of the user's own file, by the names of outputs that the task has."""
    names = [edge.name for edge in traced(name).task.outputs]
    if SHAPES[name].door == "onnx-file":
        return dict(zip(names, open_on_cpu(reference(name)).run(names, feed), strict=True))
    with torch.inference_mode():
        found: Any = original(name)(**{key: torch.from_numpy(array) for key, array in feed.items()})
    return {one: (found if isinstance(found, torch.Tensor) else found[one]).numpy() for one in names}


@pytest.mark.parametrize("name", SHAPES)
def test_its_float_bundle_agrees_with_the_original_at_any_size(name: str, tmp_path: Path) -> None:
    bundle, opened = tmp_path / "bundle", traced(name)
    export_traced(opened, out=bundle, recipe="fp32", threads=1)
    model = load(bundle, prepared=False, threads=1)
    assert model.task.name == SHAPES[name].task
    shapes = set()
    for feed in islice(opened.examples(3), FEEDS):
        found, expected = model.run(feed), expected_of(name, dict(feed))
        assert {*found} == {*expected}
        assert max(difference(found[one], expected[one]) for one in found) <= CLOSE
        shapes.add(str([array.shape for array in feed.values()]))
    free = any(isinstance(size, str) for edge in opened.task.inputs for size in edge.shape)
    assert len(shapes) > 1 if free else len(shapes) == 1
    assert free, "every shape here has an axis that a call chooses"


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_a_bundle_in_8_bits(name: str, tmp_path: Path) -> None:
    bundle, opened = tmp_path / "bundle", traced(name)
    export_traced(opened, out=bundle, recipe="int8", check=True, threads=1)
    assert find_problems(bundle) == []
    assert any(tensor["scheme"] is not None for tensor in read_manifest(bundle).tensors)
    feed = dict(next(iter(opened.examples(4))))
    found, expected = load(bundle, prepared=False, threads=1).run(feed), expected_of(name, feed)
    assert max(difference(found[one], expected[one]) for one in found) < NEAR


@pytest.mark.parametrize("name", FIRSTS.values())
def test_in_4_bits_it_computes_with_what_it_stores(name: str, tmp_path: Path) -> None:
    bundle, opened = tmp_path / "bundle", traced(name)
    (tmp_path / "recipe.toml").write_text(EXACT.format(bits=4))
    export_traced(opened, out=bundle, recipe=tmp_path / "recipe.toml", threads=1)
    assert find_problems(bundle) == []
    assert any((tensor["scheme"] or {}).get("bits") == 4 for tensor in read_manifest(bundle).tensors)
    feed = dict(next(iter(opened.examples(5))))
    found = load(bundle, prepared=False, threads=1).run(feed)
    stored = with_stored(opened.file, bundle)
    names = [edge.name for edge in opened.task.outputs]
    expected = open_on_cpu(stored.SerializeToString()).run(names, feed)
    assert max(difference(found[one], value) for one, value in zip(names, expected, strict=True)) <= CLOSE


def test_an_export_is_what_its_door_gives(tmp_path: Path) -> None:
    """The tests above open a model once and export it often; a user's one call gives the same bytes."""
    one = export(reference("convnext"), out=tmp_path / "one", recipe="int8", threads=1)
    other = export_traced(traced("convnext"), out=tmp_path / "other", recipe="int8", threads=1)
    assert one.files == other.files
    assert onnx.load(tmp_path / "one" / "model.onnx", load_external_data=False).graph.input[0].name == "pixel_values"
