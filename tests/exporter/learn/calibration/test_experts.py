"""Experts are rounded by what goes into them, and to nearest where that is too little."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.learn.budget.sensitivity import tensor_groups
from edgepress.exporter.learn.calibration import rounding
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Layer
from edgepress.exporter.model.operations import Steps
from edgepress.exporter.recipe.reading import read_recipe

RECIPE = """
accuracy_level = 0
[weights]
method = "{method}"
bits = 4
block_size = 32
[embedding]
method = "rtn"
bits = 8
block_size = 32
[calibration]
tokens = {tokens}
length = 32
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    tiny_models.save("olmoe", path / "model")
    (path / "text.txt").write_text(tiny_models.TEXT * 20)
    return path


def stored(home: Path, method: str, tokens: int) -> tuple[StoredWeights, dict[str, str]]:
    """What a bundle holds of each weight, and what its plan says of them."""
    recipe, out = home / f"{method}{tokens}.toml", home / f"{method}{tokens}"
    options = f"[options.{method}]\npattern = '2:4'\n" if method in ("wanda", "magnitude") else ""
    recipe.write_text(RECIPE.format(method=method, tokens=tokens) + options)
    asked: dict[str, Any] = {"target": "x86-cpu", "recipe": recipe, "calibration": [home / "text.txt"]}
    export(home / "model", out=out, threads=1, force=True, **asked)
    plan = decide(home / "model", target="x86-cpu", recipe=recipe).plan
    return StoredWeights(out / DATA_FILE, plan), {tensor.weight.name: tensor.reason for tensor in plan.tensors}


def test_few_tokens_are_not_what_an_expert_is_rounded_by(home: Path) -> None:
    nearest, few, many = (stored(home, *how) for how in (("rtn", 512), ("gptq", 96), ("gptq", 512)))
    expert, attention = "model.layers.0.mlp.experts.1.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    np.testing.assert_array_equal(few[0](expert), nearest[0](expert))  # 96 tokens, of which 2 of 6 experts see each
    assert not np.array_equal(many[0](expert), nearest[0](expert))
    assert not np.array_equal(few[0](attention), nearest[0](attention))
    assert "rtn for an expert to which fewer than 64 tokens of the text come" in few[1]["layers.0.experts.1.down"]
    assert "fewer than" not in few[1]["layers.0.attention.output"]
    assert "fewer than" not in nearest[1]["layers.0.experts.1.down"]
    entries = {tensor["name"]: tensor for tensor in read_manifest(home / "gptq96").tensors}
    counts = [entries[f"layers.0.experts.{number}.down"].get("few_tokens", 64) for number in range(6)]
    assert entries["layers.0.experts.1.down"]["few_tokens"] < 64
    assert all(count <= 64 for count in counts)
    assert sum(counts) <= 2 * 96  # of which each token counts twice, but those of experts with enough
    enough = {tensor["name"] for tensor in read_manifest(home / "gptq512").tensors if "few_tokens" not in tensor}
    assert {"layers.0.experts.1.down", "layers.0.attention.output"} <= enough
    assert not any("few_tokens" in tensor for tensor in read_manifest(home / "rtn512").tensors)


@pytest.mark.parametrize("room", [0, 1 << 18])
def test_experts_of_a_layer_are_rounded_in_few_passes(home: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Where a layer's activations do not fit into memory: the same codes, and not one pass for each projection."""
    kept, _ = stored(home, "gptq", 512)
    begun: list[int] = []
    original = network.layer_steps

    def spy(layer: Layer, *rest: Any) -> Steps:
        begun.append(1)
        return original(layer, *rest)

    monkeypatch.setattr(rounding, "_room", lambda _: room)
    monkeypatch.setattr(network, "layer_steps", spy)
    again, _ = stored(home, "gptq", 512)
    for number in (0, 5):
        for role in ("gate", "up", "down"):
            name = f"model.layers.2.mlp.experts.{number}.{role}_proj.weight"
            np.testing.assert_array_equal(again(name), kept(name))
    if room:  # q, k, v · output · router · gate and up of all · down of all · the layer as it is stored
        assert len(begun) == 3 * 6


def test_zeros_of_an_expert_that_few_tokens_come_to_are_chosen_by_its_weights(home: Path) -> None:
    """Two ways to choose zeros, one by inputs and one not, then leave the same."""
    few, many, by_weights = (stored(home, *how) for how in (("wanda", 96), ("wanda", 512), ("magnitude", 96)))
    expert = "model.layers.0.mlp.experts.1.down_proj.weight"
    np.testing.assert_array_equal(few[0](expert), by_weights[0](expert))
    assert not np.array_equal(many[0](expert), by_weights[0](expert))
    assert "by the weights alone for an expert to which fewer than 64" in few[1]["layers.0.experts.1.down"]


def test_a_budget_decides_all_experts_of_a_layer_together(home: Path) -> None:
    decoder = decide(home / "model", target="x86-cpu", recipe="int4").decoder
    recipe = read_recipe("int4-small")
    assert recipe.budget is not None
    groups = {group.name: group for group in tensor_groups(decoder, recipe, replace(recipe.budget, group="tensor"))}
    assert {f"layers.{index}.experts" for index in range(3)} <= set(groups)
    assert not any(".experts.0" in name for name in groups)
    together = groups["layers.0.experts"]
    assert len(together.weights) == 2 * 6
    for candidate in together.candidates:
        assert len({scheme.block_size for scheme in candidate.schemes if scheme is not None}) <= 1
