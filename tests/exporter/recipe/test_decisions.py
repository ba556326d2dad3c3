"""What is decided stands beside the recipe, which nothing rewrites; the manifest keeps both."""

import json
from pathlib import Path

import pytest
from tiny_models import save

from edgepress.exporter import decide, export
from edgepress.exporter.recipe.decisions import Decisions, decisions_from_json
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Override, Recipe, Storage, recipe_from_json

ASKED = Recipe(
    "mine",
    *[Storage(bits=4)] * 3,
    overrides=(Override("layers.0.*", Storage(bits=8)),),
    after=("bias_correction", "distill"),
)
CHOSEN = Override("layers.1.mlp.up", Storage(bits=2, block_size=(32, 64)), "chosen by budget")
EACH = [
    Decisions(),
    Decisions(left_out={"distill": "it would take days"}),
    Decisions(left_out={"autoround": "it would take days"}, rounded_by={"autoround": "gptq"}),
    Decisions(text=("put_aside.txt",), length=32),
    Decisions(kept_layers={"layers.1": "it overflows"}),
    Decisions(float16_graph=True, float32_scales={"layers.1.mlp.up": "float16 cannot hold them"}),
    Decisions(overrides=(CHOSEN,)),
]


def test_what_stages_go_by_is_the_recipe_with_the_decisions_put_in() -> None:
    found = Decisions({"distill": "why"}, ("a.txt",), 32, {"layers.1": "why"}, (CHOSEN,)).applied(ASKED)
    assert found.after == ("bias_correction",)
    assert (found.calibration.text, found.calibration.length) == (("a.txt",), 32)
    assert found.activations.kept_layers == {"layers.1": "why"}
    assert found.overrides == (*ASKED.overrides, CHOSEN)  # the last that matches wins
    assert Decisions().applied(ASKED) == ASKED
    half = Decisions(float16_graph=True, float32_scales={"layers.1.mlp.up": "why"}).applied(ASKED)
    assert Decisions().applied(half) == half  # nothing that was decided is taken back


def test_a_method_that_is_left_out_is_replaced_wherever_the_recipe_names_it() -> None:
    learned, kept = Storage("autoround", 4), Storage("rtn", 8)
    overrides = (Override("layers.0.*", learned), Override("layers.1.*", kept))
    asked = Recipe("mine", learned, kept, learned, overrides=overrides)
    found = Decisions(rounded_by={"autoround": "gptq"}).applied(asked)
    rounded = Storage("gptq", 4)
    assert found.storages == (rounded, kept, rounded, rounded, kept)
    assert asked.storages == (learned, kept, learned, learned, kept)


@pytest.mark.parametrize("decisions", EACH)
def test_the_manifest_keeps_what_was_decided_and_nothing_else(decisions: Decisions) -> None:
    content = json.loads(json.dumps(decisions.to_json()))
    assert decisions_from_json(content) == decisions
    assert len(content) <= 2  # of the six those that there are


def test_files_of_text_are_kept_by_their_names(tmp_path: Path) -> None:
    assert Decisions(text=(str(tmp_path / "a.txt"),)).to_json() == {"text": ("a.txt",)}


def test_decisions_of_another_version_are_not_guessed() -> None:
    with pytest.raises(KeyError, match="mood"):
        decisions_from_json({"mood": "good"})


def test_a_bundle_says_what_was_asked_and_what_was_decided(tmp_path: Path) -> None:
    """A repair that declines, sequences longer than the context: the recipe in the manifest is still the user's."""
    model, recipe = save("llama", tmp_path / "model"), tmp_path / "mine.toml"
    recipe.write_text(
        'after = ["distill"]\n[weights]\nbits = 4\n[options.distill]\nmost_weights = 1000\n'
        "[calibration]\ntokens = 256\nlength = 64\n"
    )
    manifest = export(model, out=tmp_path / "out", recipe=recipe, context_length=48)
    asked, decisions = recipe_from_json(manifest.recipe), decisions_from_json(manifest.decisions)
    assert asked.after == read_recipe(recipe).after == ("distill",)
    assert asked.calibration.length == 64
    assert decisions.length == 48
    assert list(decisions.left_out) == ["distill"]
    assert decisions.applied(asked) == decide(model, target="arm64-cpu", recipe=recipe, context_length=48).recipe
