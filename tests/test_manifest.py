"""The manifest finds every change that can be made to a bundle."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.bundle.manifest import MANIFEST_NAME, canonical, find_problems, read_manifest
from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.tasks.task import Edge, Task


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_a_fresh_bundle_has_no_problems_and_reads_back(bundle: Path) -> None:
    assert find_problems(bundle) == []
    manifest = read_manifest(bundle)
    assert manifest.tensors[0]["sqnr_db"] == 20.5
    assert manifest.serialize() == (bundle / MANIFEST_NAME).read_text(encoding="utf-8")


numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(content=st.dictionaries(st.text(), values, max_size=4))
def test_the_canonical_text_is_that_of_python_s_json(content: dict[str, object]) -> None:
    assert canonical(content) == json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_in_any_file_is_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    bundle = make_bundle(tmp_path_factory.mktemp("flip") / "bundle")
    path = data.draw(st.sampled_from(sorted(bundle.iterdir())))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    problems = find_problems(bundle)
    assert len(problems) >= 1
    assert path.name in problems[0]


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "model.onnx.data").unlink()
    assert find_problems(bundle) == ["model.onnx.data: missing"]


def test_a_truncated_file_is_named_with_both_sizes(bundle: Path) -> None:
    os.truncate(bundle / "model.onnx.data", 255)
    assert find_problems(bundle) == ["model.onnx.data: 255 bytes, the manifest says 256"]


def test_an_extra_file_and_an_extra_linked_folder_are_named(bundle: Path, tmp_path: Path) -> None:
    (bundle / "extra.bin").write_bytes(b"")
    (bundle / "linked").symlink_to(tmp_path, target_is_directory=True)
    problems = find_problems(bundle)
    assert [problem.split(":")[0] for problem in problems] == ["extra.bin", "linked"]


def test_a_file_replaced_by_a_link_to_the_same_bytes_is_named(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").rename(tmp_path / "elsewhere")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert find_problems(bundle) == ["model.onnx: is a symbolic link; a bundle holds plain files only"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_manifest_that_names_a_path_outside_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    manifest = read_manifest(bundle)
    entry = manifest.files["model.onnx"]
    manifest.files[name] = entry
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    assert find_problems(bundle) == [f"{name}: the manifest names a path outside the bundle"]


def hostile(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a manifest that was changed and fits its own digest, as JSON of Python has it."""
    path = bundle / MANIFEST_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    content["manifest_sha256"] = ""
    for _ in range(2):
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        content["manifest_sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


HALF = {"file": "model_fp16.onnx", "requires": ["fp16"], "states": []}
GRAPH = {"file": "model.onnx", "requires": [], "states": []}
STATE = {"name": "conv", "input": "a", "output": "b", "shape": ["batch", 8], "type": "float32", "kind": "convolution"}


def test_states_are_read_as_they_were_written(bundle: Path) -> None:
    hostile(bundle, lambda content: content.update(states=[STATE]))
    (state,) = read_manifest(bundle).states
    assert state == State("conv", "a", "b", ("batch", 8), "float32", "convolution")


def test_a_bundle_without_a_list_of_states_is_read(bundle: Path) -> None:
    hostile(bundle, lambda content: content.pop("states"))
    assert read_manifest(bundle).states == ()
    assert find_problems(bundle) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["totals"].update(a=float("inf")), "Infinity is no number"),
        (lambda content: content["totals"].update(a=float("nan")), "NaN is no number"),
        (lambda content: content["totals"].update(a="\ud800"), "codec can't decode"),
        (lambda content: content["files"]["model.onnx"].update(size=[1]), r"size: Expected `int`, got `array`"),
        (lambda content: content["files"]["model.onnx"].update(size=-1), r"size: Expected `int` >= 0"),
        (lambda content: content["files"]["model.onnx"].update(sha256=None), r"sha256: Expected `str`, got `null`"),
        (lambda content: content.update(targets=["x"]), r"targets: Expected `object`, got `array`"),
        (lambda content: content.update(long_from="x"), r"long_from: Expected `int \| null`, got `str`"),
        (lambda content: content.update(steps=[{}]), r"has no entry 'steps\[0\].name'"),
        (lambda content: content.update(tensors=[1]), r"tensors\[0\]: Expected `object`, got `int`"),
        (lambda content: content.update(states="x"), r"states: Expected `array`, got `str`"),
        (lambda content: content.update(states=[{}]), r"has no entry 'states\[0\].name'"),
        (lambda content: content.update(states=[STATE | {"type": "float64"}]), r"states\[0\].type: Invalid enum value"),
        (
            lambda content: content.update(states=[STATE | {"shape": ["batch", 1.5]}]),
            r"states\[0\].shape\[1\]: Expected",
        ),
        (
            lambda content: content.update(states=[STATE | {"shape": ["batch", "time"]}]),
            r"states\[0\].shape\[1\]: Invalid",
        ),
        (
            lambda content: content.update(states=[STATE | {"shape": ["batch", 2**40]}]),
            r"states\[0\]: .* 16,777,216 long",
        ),
        (lambda content: content.update(states=[STATE, STATE]), r"states: two states have the name conv"),
        (lambda content: content.update(graphs={}), r"graphs: Expected `array`, got `object`"),
        (lambda content: content.update(graphs=[GRAPH]), r"graphs: there are 1, and a list has 2 to 8"),
        (lambda content: content.update(graphs=[HALF, *[GRAPH] * 8]), r"graphs: there are 9, and a list has 2 to 8"),
        (lambda content: content.update(graphs=[HALF, {}]), r"has no entry 'graphs\[1\].file'"),
        (lambda content: content.update(graphs=[HALF, GRAPH | {"file": "../x.onnx"}]), r"graphs\[1\].file: Expected"),
        (lambda content: content.update(graphs=[HALF, GRAPH | {"file": "x/y.onnx"}]), r"graphs\[1\].file: Expected"),
        (lambda content: content.update(graphs=[HALF, GRAPH | {"file": "y.onnx"}]), "y.onnx is not among the files"),
        (lambda content: content.update(graphs=[HALF | {"file": "model.onnx"}, GRAPH]), "one file is there twice"),
        (lambda content: content.update(graphs=[HALF, GRAPH | {"requires": ["fp16"]}]), "the last one, and no other"),
        (lambda content: content.update(graphs=[HALF | {"requires": []}, GRAPH]), "the last one, and no other"),
        (lambda content: content.update(graphs=[HALF | {"requires": ["x" * 40]}, GRAPH]), r"requires\[0\]: Expected"),
        (
            lambda content: content.update(graphs=[HALF | {"requires": ["a"] * 9}, GRAPH]),
            r"requires: Expected `array` of",
        ),
        (lambda content: content.update(graphs=[HALF, GRAPH | {"states": [STATE]}]), "are not those of the bundle"),
        (lambda content: content.update(graphs=[HALF | {"states": [STATE, STATE]}, GRAPH]), "two states have the name"),
        (lambda content: content.update(more=1), r"has unknown fields \(more\)"),
        (lambda content: content.pop("files"), "has no field 'files'"),
        (lambda content: content.pop("recipe"), "has no entry 'recipe'"),
    ],
)
def test_a_hostile_manifest_that_fits_its_digest_is_one_error(
    bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    hostile(bundle, change)
    with pytest.raises(InputError, match=message):
        read_manifest(bundle)
    assert len(find_problems(bundle)) == 1


def test_reading_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="holds a JSON list, not an object"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 99}', encoding="utf-8")
    with pytest.raises(InputError, match="schema version 99"):
        read_manifest(tmp_path)


def _image_task(names: tuple[str, str] = ("pixels", "mask")) -> Task:
    inputs = tuple(Edge(name, "float32", ("batch", 3, 8, 8)) for name in names)
    return Task("image-classification", inputs, (Edge("logits", "float32", ("batch", 10)),))


def test_a_task_reads_back(bundle: Path) -> None:
    manifest = replace(read_manifest(bundle), task=_image_task())
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    assert read_manifest(bundle).task == _image_task()


def test_two_edges_of_one_name_are_refused(bundle: Path) -> None:
    manifest = replace(read_manifest(bundle), task=_image_task(("pixels", "pixels")))
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    with pytest.raises(InputError, match="task: 2 edges are called pixels"):
        read_manifest(bundle)
