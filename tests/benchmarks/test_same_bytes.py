from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def same_bytes(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("same_bytes")


def test_a_byte_that_differs_is_named_and_bundles_of_one_side_are_left_out(same_bytes: ModuleType) -> None:
    before = {"demo int4": {"model.onnx": "a", "weights.bin": "b"}, "demo fp32": {"model.onnx": "a"}}
    now = {"demo int4": {"model.onnx": "a", "weights.bin": "c", "extra": "d"}, "demo int8": {"model.onnx": "a"}}
    assert same_bytes.differences(before, now) == ["demo int4: extra, weights.bin"]
    assert same_bytes.differences(before, before) == []


def test_a_manifest_is_compared_entry_by_entry(same_bytes: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"recipe": {"bits": 4}, "hash": "x"}', encoding="utf-8")
    (tmp_path / "weights.bin").write_bytes(b"abc")
    first = same_bytes.digests(tmp_path)
    (tmp_path / "manifest.json").write_text('{"recipe": {"bits": 8}, "hash": "x"}', encoding="utf-8")
    second = same_bytes.digests(tmp_path)
    assert {key for key in first if first[key] != second[key]} == {"manifest.json: recipe"}
    assert set(first) == {"manifest.json: recipe", "manifest.json: hash", "weights.bin"}


def test_every_preset_and_every_family_is_compared(same_bytes: ModuleType) -> None:
    from edgepress.exporter.model.architectures import model_types
    from edgepress.exporter.recipe.reading import preset_names

    jobs = list(same_bytes.jobs(quick=False))
    assert len(jobs) == len(set(jobs))
    assert {preset for model, preset in jobs if model == "demo"} == set(preset_names())
    import tiny_models

    compared = {
        tiny_models.VARIANTS[model].model_type for model, preset in jobs if model != "demo" and preset == "int8"
    }
    assert compared == set(model_types())
