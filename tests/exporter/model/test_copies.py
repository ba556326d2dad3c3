"""A residual stream of several copies: Gemma 3n's text model, tiny; what test_architectures does not ask of all."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tiny_models import VARIANTS

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.methods.folding import not_foldable
from edgepress.exporter.model import network
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

TARGET = "arm64-cpu"
FEWER_ROWS = VARIANTS["gemma3n_text"].config["vocab_size_per_layer_input"]
TOKENS = np.random.default_rng(0).integers(3, tiny_models.VOCABULARY, 50)
GPTQ = """
before = ["awq"]
after = ["bias_correction"]
accuracy_level = 0
[weights]
method = "gptq"
bits = 8
block_size = 32
[calibration]
tokens = 256
length = 32
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("gemma3n_text", tmp_path_factory.mktemp("gemma3n") / "checkpoint")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    """Logits of transformers' own model, (length, vocabulary)."""
    return _logits(checkpoint)


def _logits(checkpoint: Path) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(TOKENS)[None], use_cache=False).logits[0].numpy()


def _network(checkpoint: Checkpoint, decoder: Decoder) -> np.ndarray:
    def values(weight: Weight) -> torch.Tensor:
        return torch.from_numpy(read_weight(checkpoint, weight))

    return network.logits(decoder, values, TOKENS)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_some_tokens_have_no_row_of_their_own() -> None:
    assert (TOKENS >= FEWER_ROWS).any()
    assert (TOKENS < FEWER_ROWS).any()


def test_our_runtime_prefills_in_chunks_and_decodes(checkpoint: Path, expected: np.ndarray, tmp_path: Path) -> None:
    export(checkpoint, out=tmp_path / "bundle", target=TARGET, recipe="fp32", threads=1)
    session = CpuSession(read_config(tmp_path / "bundle"), threads=1, context=64, prefill_chunk=16)
    pieces = [session.append(piece, 0).copy() for piece in np.split(TOKENS, [20, *range(21, len(TOKENS))])]
    assert relative(np.concatenate(pieces), expected) < 1e-5


def test_the_gate_of_an_input_is_not_scaled_where_the_config_says_so(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "config.json").read_text()) | {"altup_correct_scale": False}
    (tmp_path / "config.json").write_text(json.dumps(values))
    plain = Checkpoint.open(tmp_path)
    found, expected = _network(plain, read_decoder(plain)), _logits(tmp_path)
    assert relative(found, expected) < 1e-5
    scaled = Checkpoint.open(checkpoint)
    assert relative(_network(scaled, read_decoder(scaled)), expected) > 1e-3


def test_calibration_repairs_and_the_check_see_all_copies(checkpoint: Path, tmp_path: Path) -> None:
    recipe, text = tmp_path / "gptq.toml", tmp_path / "text.txt"
    recipe.write_text(GPTQ)
    text.write_text(tiny_models.TEXT * 20)
    out = tmp_path / "bundle"
    manifest = export(checkpoint, out=out, target=TARGET, recipe=recipe, threads=1, check=True, calibration=[text])
    schemes = {str(tensor["name"]): str(tensor["scheme"]) for tensor in manifest.tensors}
    assert "'gptq'" in schemes["layers.0.laurel.left"]
    assert "'rtn'" in schemes["copies.projection"]
    assert schemes["layers.0.altup.router"] == "None"
    assert manifest.parity is not None
    assert float(str(manifest.parity["description_difference"])) < 1e-5
    assert float(str(manifest.parity["kl"])) < 0.1
    assert float(str(manifest.parity["graph_difference"])) < 1e-4


def test_what_goes_into_laurel_cannot_be_scaled(checkpoint: Path) -> None:
    left = not_foldable(read_decoder(Checkpoint.open(checkpoint)))
    shared = {name for name, why in left.items() if why == "what goes into it is added to the stream as well"}
    assert {"layers.0.attention.qkv", "layers.0.laurel.left", "layers.3.shared_attention.query"} <= shared
    assert "layers.0.mlp.gate" not in left


def test_the_text_model_of_the_whole_is_found(checkpoint: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """transformers' class of the whole needs timm, so the files are written as its own checkpoints have them."""
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = json.loads((tmp_path / "config.json").read_text())
    whole = {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "text_config": {key: value for key, value in text.items() if key != "architectures"},
        "vision_config": {"model_type": "gemma3n_vision"},
        "audio_config": {"model_type": "gemma3n_audio"},
        "eos_token_id": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(whole))
    tensors = load_file(tmp_path / "model.safetensors")
    named = {name.replace("model.", "model.language_model.", 1): value for name, value in tensors.items()}
    named["model.vision_tower.timm_model.conv_stem.conv.weight"] = np.zeros((4, 3, 3, 3), np.float32)
    named["model.audio_tower.conformer.0.norm.weight"] = np.ones(4, np.float32)
    save_file(named, tmp_path / "model.safetensors", {"format": "pt"})
    found = Checkpoint.open(tmp_path)
    assert relative(_network(found, read_decoder(found)), expected) < 1e-5
    assert relative(Reference(tmp_path).logits(TOKENS), expected) < 1e-5
    shown = format_plan(decide(tmp_path, target=TARGET, recipe="int4"))
    assert "model.vision_tower" in shown
    assert "model.audio_tower" in shown


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("altup_num_inputs", 1, "must be at least 2"),
        ("altup_active_idx", 4, "must be less than altup_num_inputs = 4"),
        ("activation_sparsity_pattern", [0.95] * 5, "must be a list of 4 numbers"),
        ("activation_sparsity_pattern", [1.0] * 4, "must be shares of at least 0 and less than 1"),
        ("num_kv_shared_layers", 4, "a layer that shares keys has none of its type before it"),
        ("hidden_activation", "silu", "inputs by layer are gated by gelu_pytorch_tanh only"),
    ],
)
def test_what_is_not_possible_is_refused_by_its_key(checkpoint: Path, key: str, value: object, says: str) -> None:
    stored = Checkpoint.open(checkpoint)
    with pytest.raises(InputError, match=rf"{key} = .*{says}"):
        describe({**stored.config, key: value}, stored.tensors)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('prune = ["depth"]', "no step knows how to make gemma3n_text smaller"),
        ('before = ["hadamard"]', "hadamard cannot rotate gemma3n_text"),
    ],
)
def test_methods_that_know_one_stream_are_refused_in_the_plan(
    checkpoint: Path, line: str, says: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{line}\n[weights]\nbits = 8\nblock_size = 32\n")
    with pytest.raises(InputError, match=says):
        decide(checkpoint, target=TARGET, recipe=recipe)


def test_static_graphs_are_refused_in_the_plan(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="a table of the model's size would be a constant of the graph"):
        decide(checkpoint, target="qnn-htp", recipe="int8-static")


def test_a_layer_has_its_blocks_in_order(checkpoint: Path) -> None:
    layer = read_decoder(Checkpoint.open(checkpoint)).layers[0]
    blocks = list(every(Block, layer))
    with pytest.raises(ValueError, match="stand last"):
        Layer((blocks[-1], *blocks[:-1]), altup=layer.altup)
    with pytest.raises(ValueError, match="in layers with AltUp"):
        Layer(tuple(blocks))
    with pytest.raises(ValueError, match="neither parallel blocks nor a scale"):
        Layer(tuple(blocks), parallel=True, altup=layer.altup)
