"""Layers that share keys and values, get inputs beside the stream, and have experts: Gemma 4's text model, tiny."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
import torch
import transformers

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.learn.budget.sensitivity import tensor_groups
from edgepress.exporter.methods.folding import not_foldable
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.recipe.recipe import Budget
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

TARGET = "arm64-cpu"
TOKENS = np.random.default_rng(0).integers(3, tiny_models.VOCABULARY, 50)
GPTQ = """
before = ["awq"]
accuracy_level = 0
[weights]
method = "gptq"
bits = 8
block_size = 32
[calibration]
tokens = 512
length = 64
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("gemma4_text", tmp_path_factory.mktemp("gemma4") / "checkpoint")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    out = checkpoint.parent / "bundle"
    export(checkpoint, out=out, target=TARGET, recipe="fp32", threads=1)
    return out


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    """Logits of transformers' own model, (length, vocabulary)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(TOKENS)[None], use_cache=False).logits[0].numpy()


def test_layers_that_share_have_no_state(bundle: Path) -> None:
    states = read_manifest(bundle).states
    assert [state.name for state in states] == [
        f"layers.{layer}.{part}" for layer in range(4) for part in ("key", "value")
    ]
    assert {state.name: state.shape[3] for state in states if state.name.endswith("key")} == {
        "layers.0.key": 16,
        "layers.1.key": 16,
        "layers.2.key": 32,
        "layers.3.key": 16,
    }


def test_our_runtime_prefills_in_chunks_and_decodes(bundle: Path, expected: np.ndarray) -> None:
    """Its caches are buffers of the whole context, which the layers that share read where others write."""
    session = CpuSession(read_config(bundle), threads=1, context=64, prefill_chunk=16)
    for ends in ([20], list(range(18, len(TOKENS)))):
        session.reset()
        pieces = [session.append(piece, 0).copy() for piece in np.split(TOKENS, ends)]
        found = np.concatenate(pieces)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_of_a_prompt_layers_without_keys_compute_the_last_position_alone(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    values = {f"layers.{index}.{name}.attended": name for index, name in ((3, "attention"), (5, "shared_attention"))}
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    path = bundle / "with_outputs.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    path.unlink()
    past = {
        node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
        for node in session.get_inputs()
        if node.name.startswith("past")
    }
    feeds = {"input_ids": TOKENS[None], "attention_mask": np.ones((1, len(TOKENS)), np.int64), **past}
    own, shared = session.run(list(values), feeds)
    assert own.shape[:2] == (1, len(TOKENS))
    assert shared.shape[:2] == (1, 1)


def test_calibration_carries_what_is_beside_the_stream(checkpoint: Path, tmp_path: Path) -> None:
    """AWQ and GPTQ see each layer's inputs, the shared keys among them; the graph is held against its weights."""
    recipe, text = tmp_path / "gptq.toml", tmp_path / "text.txt"
    recipe.write_text(GPTQ)
    text.write_text(tiny_models.TEXT * 20)
    manifest = export(
        checkpoint, out=tmp_path / "bundle", target=TARGET, recipe=recipe, threads=1, check=True, calibration=[text]
    )
    schemes = {str(tensor["name"]): str(tensor["scheme"]) for tensor in manifest.tensors}
    assert "'gptq'" in schemes["layers.5.shared_attention.query"]
    assert "'gptq'" in schemes["layers.0.per_layer_input.gate"]
    assert "'rtn'" in schemes["per_layer.table"]  # a table is only read
    assert manifest.parity is not None
    assert float(str(manifest.parity["description_difference"])) < 1e-5
    assert float(str(manifest.parity["kl"])) < 0.1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top_k_experts": 7}, "top_k_experts = 7: must be at most num_experts = 6"),
        ({"num_experts": None}, "num_experts"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu': experts are gated by gelu_pytorch_tanh only"),
    ],
)
def test_experts_that_are_not_possible_are_refused_by_their_key(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    stored = Checkpoint.open(tiny_models.save("gemma4_text-experts", tmp_path / "experts"))
    with pytest.raises(InputError, match=says):
        describe(stored.config | changes, stored.tensors)


def test_experts_share_a_line_of_the_plan_and_few_tokens_are_said(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("gemma4_text-experts", tmp_path / "experts")
    recipe, text = tmp_path / "gptq.toml", tmp_path / "text.txt"
    recipe.write_text(GPTQ)
    text.write_text(tiny_models.TEXT * 20)
    prepared = decide(checkpoint, target=TARGET, recipe=recipe, calibration=[text])
    lines = [line for line in format_plan(prepared).splitlines() if "layers.1.experts.*" in line]
    assert [line.split()[:2] for line in lines] == [
        ["layers.1.experts.*.gate_up", "6×64×64"],
        ["layers.1.experts.*.down", "6×64×32"],
    ]
    assert all("rtn for an expert to which fewer than 64 tokens of the text come" in line for line in lines)
    groups = tensor_groups(prepared.decoder, prepared.recipe, Budget(kl=0.1, candidates=("4:32", "8:32")))
    assert [len(group.weights) for group in groups if "experts" in group.name] == [12, 12]
    left = not_foldable(prepared.decoder)
    assert left["layers.0.experts.3.gate_up"] == "projections of it have gains of their own"
    dynamic = {t.weight.name: t for t in decide(checkpoint, target="x86-cpu", recipe="int8-dynamic").plan.tensors}
    assert dynamic["layers.0.mlp.gate"].is_integer
    assert dynamic["layers.0.experts.0.down"].form == "blocks"
    assert "no range of activations" in dynamic["layers.0.experts.0.down"].reason


def test_only_chosen_experts_compute(tmp_path: Path) -> None:
    """Of one token two of six experts have a row; the others' products have none."""
    checkpoint, out = tiny_models.save("gemma4_text-experts", tmp_path / "experts"), tmp_path / "bundle"
    export(checkpoint, out=out, target="x86-cpu", recipe="int4", threads=1)
    model = onnx.load(out / "model.onnx", load_external_data=False)
    values = [f"layers.0.experts.{index}.gate_up.y" for index in range(6)]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    (out / "with_outputs.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(out / "with_outputs.onnx", providers=["CPUExecutionProvider"])
    feeds = {
        node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
        for node in session.get_inputs()
        if node.name.startswith("past")
    }
    for count in (1, 9):
        feeds |= {"input_ids": TOKENS[None, :count], "attention_mask": np.ones((1, count), np.int64)}
        rows = [len(value) for value in session.run(values, feeds)]
        assert sum(rows) == 2 * count
        assert max(rows) <= count


def test_keys_that_are_values_are_counted_once(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("gemma4_text-keys-are-values", tmp_path / "checkpoint")
    stored = sum(int(np.prod(tensor.shape)) for tensor in Checkpoint.open(checkpoint).tensors.values())
    assert decide(checkpoint, target=TARGET, recipe="int4").plan.parameters == stored


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_kv_shared_layers", 6, "a layer that shares keys has none of its type before it"),
        ("num_kv_shared_layers", 4, "a layer that shares keys has none of its type before it"),
        ("use_bidirectional_attention", "all", "not implemented; known: vision"),
        ("vocab_size_per_layer_input", 300, "is less than vocab_size = 320"),
        ("hidden_activation", "silu", "inputs by layer are gated by gelu_pytorch_tanh only"),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_key(checkpoint: Path, key: str, value: object, says: str) -> None:
    stored = Checkpoint.open(checkpoint)
    with pytest.raises(InputError, match=f"{key} = .*{says}"):
        describe({**stored.config, key: value}, stored.tensors)


def test_pruning_is_refused_with_its_reason(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "prune.toml"
    recipe.write_text('prune = ["mlp_width"]\n[weights]\nbits = 8\nblock_size = 32\n')
    with pytest.raises(InputError, match="no step knows how to make gemma4_text smaller"):
        decide(checkpoint, target=TARGET, recipe=recipe)


def test_scales_of_the_table_are_mapped_as_they_are(checkpoint: Path) -> None:
    """Scales in float16 would be cast for all rows when a session is opened."""
    plan = decide(checkpoint, target=TARGET, recipe="int4").plan
    forms = {tensor.weight.name: tensor.form for tensor in plan.tensors}
    assert (forms["per_layer.table"], forms["embedding"]) == ("blocks", "half blocks")
