"""How a checkpoint is read: names that a wrapper changed, contexts that YaRN makes longer, and what is noted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, save

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.names import plain_names

RENAMED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile, layer by layer": lambda name: name.replace("mlp.", "_orig_mod.mlp."),
    "DataParallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "FSDP and checkpointing": lambda name: name.replace("mlp.", "_fsdp_wrapped_module._checkpoint_wrapped_module.mlp."),
    "peft": lambda name: f"base_model.model.{name}",
    "Lightning": lambda name: f"model.{name}",
    "with images": lambda name: f"language_model.{name}",
    "with images, head beside": lambda name: name.replace("model.", "model.language_model.", 1),
}


def rename(model: Path, change: Callable[[str], str]) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, model / "model.safetensors")


@pytest.mark.parametrize("kind", RENAMED)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])  # untied, tied, with another prefix
def test_names_of_a_wrapper_are_understood_and_noted(kind: str, name: str, tmp_path: Path) -> None:
    if kind == "with images, head beside" and name == "gpt2":
        pytest.skip("GPT-2's names do not begin with `model.`")
    model = save(name, tmp_path / "model")
    tokens = np.arange(3, 19, dtype=np.int64)
    before, expected = Checkpoint.open(model), Reference(model).logits(tokens)
    rename(model, RENAMED[kind])
    after = Checkpoint.open(model)
    assert after.tensors.keys() == before.tensors.keys()
    assert len(after.renamed) == sum(RENAMED[kind](stored) != stored for stored in before.tensors)
    np.testing.assert_array_equal(Reference(model).logits(tokens), expected)
    manifest = export(model, out=tmp_path / "bundle")
    assert any("names of a wrapper" in note for note in manifest.notes) == bool(after.renamed)


def test_names_that_would_become_one_stay_as_they_are() -> None:
    names = ["_orig_mod.model.norm.weight", "model.norm.weight"]
    assert plain_names(names) == {name: name for name in names}


@pytest.mark.parametrize("stored", [["model.embed_tokens.weight", "model.layers.0.a"], ["transformer.h.0.a"], []])
def test_names_of_transformers_stay_as_they_are(stored: list[str]) -> None:
    assert plain_names(stored) == {name: name for name in stored}


def test_another_prefix_is_named_with_what_to_do(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    rename(model, lambda name: f"policy.{name}")
    with pytest.raises(InputError, match=r"it has policy\.model\.embed_tokens\.weight: rename the tensors"):
        decide(model, target="arm64-cpu", recipe="int4")


def test_an_adapter_that_is_not_merged_is_named(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")
    tensors[f"{name}.lora_A.default.weight"] = torch.zeros(8, 64)
    save_file({f"base_model.model.{key}": value for key, value in tensors.items()}, model / "model.safetensors")
    with pytest.raises(InputError, match=r"of an adapter that is not merged: .* merge_and_unload"):
        decide(model, target="arm64-cpu", recipe="int4")


def edit(model: Path, **values: object) -> None:
    path = model / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "rope_parameters"}
    path.write_text(json.dumps(kept | values))


def test_yarn_as_the_models_card_gives_it_says_how_to_get_the_longer_context(tmp_path: Path) -> None:
    """Qwen's cards add ``rope_scaling`` alone, and leave ``max_position_embeddings`` as it was."""
    model = save("qwen2", tmp_path / "model")
    edit(model, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT})
    says = f"its YaRN reaches {4 * CONTEXT} positions and max_position_embeddings says {CONTEXT}: set that to"
    with pytest.raises(InputError, match=f"context_length 400 is more than the model's {CONTEXT}; {says}"):
        decide(model, target="arm64-cpu", recipe="int4", context_length=400)
    assert any(says in note for note in decide(model, target="arm64-cpu", recipe="int4").notes)
    edit(
        model,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT},
        max_position_embeddings=4 * CONTEXT,
    )
    prepared = decide(model, target="arm64-cpu", recipe="int4", context_length=400)
    assert prepared.plan.context_length == 400
    assert prepared.notes == ()


def test_a_context_beyond_qwens_says_what_its_card_does(tmp_path: Path) -> None:
    model = save("qwen2", tmp_path / "model")
    with pytest.raises(InputError) as error:
        decide(model, target="arm64-cpu", recipe="int4", context_length=300)
    wanted = f'"factor": 3.0, "original_max_position_embeddings": {CONTEXT}}} and set "max_position_embeddings": 384'
    assert wanted in str(error.value)
    model = save("llama", tmp_path / "llama")
    with pytest.raises(InputError, match="ask for that or less"):
        decide(model, target="arm64-cpu", recipe="int4", context_length=300)


def test_what_was_passed_over_and_added_is_in_plan_and_manifest(tmp_path: Path) -> None:
    model = save("qwen2", tmp_path / "model")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_bias": True}))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    names = [f"<extra {index}>" for index in range(5)]
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"extra_special_tokens": names}))
    notes = decide(model, target="arm64-cpu", recipe="int4").notes
    assert "attention_bias = True is passed over" in notes[0]
    assert "completed" in notes[1]
    assert "'<extra 0>', '<extra 1>', '<extra 2>' and 2 more" in notes[1]
    assert (
        "beyond the 320 rows of the embedding" in notes[2]
    )  # the tiny model has a row for each of its own tokens only
    export(model, out=tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle").notes == notes
