"""The contract of every encoder-decoder found on disk: its graphs compute what transformers computes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import encoder_decoders
import numpy as np
import pytest
import transformers

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.exporter import export
from edgepress.exporter.model.encoder_decoders.families import model_types

TARGET = "x86-cpu"
CLOSE = 1e-4  # of the largest value; measured: 3e-7


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with encoder_decoders.on_one_thread():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoder_decoders")


def test_every_family_has_a_tiny_model() -> None:
    assert {name.partition("-")[0] for name in encoder_decoders.MODELS} == set(model_types())


@pytest.mark.parametrize("name", encoder_decoders.MODELS)
def test_its_graphs_compute_what_transformers_computes(name: str, home: Path) -> None:
    checkpoint = encoder_decoders.save(name, home / name)
    manifest = export(checkpoint, out=home / f"{name}-bundle", target=TARGET, recipe="fp32", threads=1)
    assert find_problems(home / f"{name}-bundle") == []
    assert manifest == read_manifest(home / f"{name}-bundle")
    assert encoder_decoders.difference(checkpoint, home / f"{name}-bundle") <= CLOSE


@pytest.mark.parametrize(
    ("name", "recipe", "near"),  # three times what was measured; T5 divides no score by the root of a head's width
    [("whisper", "int8", 0.03), ("moonshine", "int8", 0.03), ("t5", "int8", 0.5), ("marian", "int4", 0.15)],
)
def test_it_is_a_bundle_in_few_bits(name: str, recipe: str, near: float, home: Path) -> None:
    bundle = home / f"{name}-{recipe}"
    checkpoint = encoder_decoders.save(name, home / f"{name}-few")
    manifest = export(checkpoint, out=bundle, target=TARGET, recipe=recipe, threads=1)
    assert find_problems(bundle) == []
    assert any((tensor["scheme"] or {}).get("bits") == int(recipe[3:]) for tensor in manifest.tensors)
    assert CLOSE < encoder_decoders.difference(checkpoint, bundle) < near


def test_targets_side_by_side_are_what_each_is_alone(home: Path) -> None:
    """Beams: what a target has is moved, and what is encoded is read by all."""
    checkpoint = encoder_decoders.save("t5", home / "beams")
    export(checkpoint, out=home / "beams-bundle", target=TARGET, recipe="fp32", threads=1)
    session = encoder_decoders.opened(home / "beams-bundle")
    session.encode(encoder_decoders.source_of(session))
    alone = []
    for ending in ([40, 50], [41, 51], [41, 52]):
        session.begin()
        alone.append(session.append([1, 30, *ending]).copy())
    session.begin()
    session.append([1, 30])
    session.spread(3)
    session.step(np.array([41, 40, 42]))
    session.reorder(np.array([1, 0, 0]))
    together = session.step(np.array([50, 51, 52]))
    assert np.abs(together - np.array(alone)).max() <= CLOSE * np.abs(together).max()


@pytest.mark.parametrize("name", ["bart", "t5", "whisper", "moonshine"])
def test_a_checkpoint_without_a_head_has_its_table_for_one(name: str, home: Path) -> None:
    """As `facebook/bart-base` is saved: transformers ties the two when it opens it with a head, and `check` does."""
    whole = encoder_decoders.save(name, home / f"{name}-whole")
    model, bare = encoder_decoders.reference(whole), home / f"{name}-bare"
    part = type(model).__name__.replace("ForConditionalGeneration", "Model")
    shutil.copytree(whole, bare)
    getattr(transformers, part).from_pretrained(whole).save_pretrained(bare)
    assert json.loads((bare / "config.json").read_text())["architectures"] == [part]
    manifest = export(bare, out=home / f"{name}-bare-bundle", target=TARGET, recipe="fp32", check=True, threads=1)
    assert any("saved without a head" in note for note in manifest.notes)
    if name != "bart":  # whose head has a bias
        assert encoder_decoders.difference(whole, home / f"{name}-bare-bundle") <= CLOSE
