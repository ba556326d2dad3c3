"""What predicts a token further: its graph beside transformers and torch, how it is stored, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import mtp_checkpoints
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
import tiny_wrappers
from safetensors.torch import load_file, save_file

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.graph.models.mtp import build_mtp

TOKENS = np.random.default_rng(0).integers(3, tiny_models.VOCABULARY, 20)
VARIANTS = ("qwen3_5_text", "qwen3_5_text-zoo", "qwen3_5_moe_text", "qwen3_next")
_EVERY = np.array([0], np.int64)  # onnxruntime reads its memory at each call
_EVERY_VALUE = onnxruntime.OrtValue.ortvalue_from_numpy(_EVERY)
FLOAT = 1e-5  # of the largest; measured: 1e-6
FP32 = "[weights]\nbits = 32\n"
INT4 = "[weights]\nbits = 4\nblock_size = 32\n"


def recipe(folder: Path, content: str, *, mtp: str = "mtp = true\n") -> Path:
    path = folder / "recipe.toml"
    path.write_text(mtp + content)
    return path


def call(session: onnxruntime.InferenceSession, tokens: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A call after the text so far, whose states and length ``more`` has; everything that comes of it."""
    past = next((value.shape[2] for name, value in more.items() if name.startswith("past_key_values")), 0)
    feed = {"input_ids": tokens[None], "attention_mask": np.ones((1, past + len(tokens)), np.int64), **more}
    for value in session.get_inputs():
        shape = [1 if axis == "batch" else 0 if isinstance(axis, str) else axis for axis in value.shape]
        feed.setdefault(value.name, np.zeros(shape, np.float32))
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def opened(path: Path, *, every: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if every:
        options.add_initializer("logits_start", _EVERY_VALUE)
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_computes_what_torch_does(variant: str, tmp_path: Path) -> None:
    checkpoint = mtp_checkpoints.save(variant, tmp_path / "checkpoint")
    out = tmp_path / "bundle"
    manifest = export(checkpoint, out=out, target="x86-cpu", recipe=recipe(tmp_path, FP32), threads=1)
    oracle = mtp_checkpoints.Oracle(checkpoint)
    hidden = oracle.hidden(TOKENS)
    wanted, further = oracle.further(TOKENS[1:], hidden[:-1])

    given = call(opened(out / "model.onnx"), TOKENS)["hidden"][0]
    assert np.abs(given - hidden.numpy()).max() < FLOAT * np.abs(hidden.numpy()).max()

    (entry,) = manifest.drafters
    session = opened(out / entry.file, every=True)
    first = call(session, TOKENS[1:13], hidden=given[None, :12])  # and then those after it, by its states
    states = {state.input: first[state.output] for state in entry.states}
    then = call(session, TOKENS[13:], hidden=given[None, 12:-1], **states)
    logits, rows = (np.concatenate([one[name][0] for one in (first, then)]) for name in ("logits", "hidden_next"))
    assert np.abs(logits - wanted).max() < FLOAT * np.abs(wanted).max()
    assert np.abs(rows - further.numpy()).max() < FLOAT * np.abs(further.numpy()).max()
    last = call(opened(out / entry.file), TOKENS[1:], hidden=given[None, :-1])
    assert last["logits"].shape[1] == last["hidden_next"].shape[1] == 1
    np.testing.assert_allclose(last["logits"][0], wanted[-1:], atol=FLOAT * np.abs(wanted).max())


def test_a_graph_of_it_that_is_wrong_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two halves that its projection reads change places: all shapes fit, and no text would tell."""

    def swapped(*given: Any, **named: Any) -> onnx.ModelProto:
        model = build_mtp(*given, **named)
        (both,) = (node for node in model.graph.node if node.op_type == "Concat" and "embedding_norm" in node.input[0])
        both.input[:] = reversed(both.input)
        return model

    checkpoint = mtp_checkpoints.save("qwen3_5_text", tmp_path / "checkpoint")
    monkeypatch.setattr("edgepress.exporter.bundle.cpu_graph.build_mtp", swapped)
    with pytest.raises(CheckFailed, match=r"the graph mtp\.onnx does not compute what .* difference \d"):
        export(checkpoint, out=tmp_path / "out", target="x86-cpu", recipe=recipe(tmp_path, FP32), threads=1, check=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mtp", [True, False])
def test_it_is_stored_beside_the_model_and_reads_its_embedding(mtp: bool, tmp_path: Path) -> None:
    """Its own weights come last in the data file, so that all before them is what it is without them."""
    checkpoint = mtp_checkpoints.save("qwen3_5_text", tmp_path / "checkpoint")
    asked = recipe(tmp_path, INT4, mtp="mtp = true\n" if mtp else "")
    out = tmp_path / "bundle"
    manifest = export(checkpoint, out=out, target="x86-cpu", recipe=asked, threads=1, check=True)
    assert find_problems(out) == []
    own = {str(tensor["name"]): tensor for tensor in manifest.tensors if str(tensor["name"]).startswith("mtp.")}
    said = " ".join(manifest.notes)
    if not mtp:
        assert not own
        assert not manifest.drafters
        assert "mtp.*, 15 tensors" in said
        assert "a recipe with mtp = true ships it" in said
        assert not (out / "mtp.onnx").exists()
        assert "hidden" not in {value.name for value in opened(out / "model.onnx").get_outputs()}
        return
    assert "mtp" not in said
    parity = {key: float(str(value)) for key, value in (manifest.parity or {}).items()}
    assert 0 < parity["mtp_graph_difference"] < FLOAT
    assert 0 < parity["mtp_kl"] < 0.1  # of int4, on a tiny random model
    assert own["mtp.projection"]["scheme"] is not None
    assert own["mtp.projection"]["sources"] == ["mtp.fc.weight"]
    assert len(own) == 14  # of 15 tensors: q, k and v are one, and the gate among q's rows is apart
    without = recipe(tmp_path, INT4, mtp="")
    plain = export(checkpoint, out=tmp_path / "plain", target="x86-cpu", recipe=without, threads=1)
    size = plain.files["model.onnx.data"].size
    before, after = ((folder / "model.onnx.data").read_bytes() for folder in (tmp_path / "plain", out))
    assert after[:size] == before
    assert len(after) - size < 1.05 * sum(int(str(tensor["bytes_after"])) for tensor in own.values()) + 4096
    per_token = 2 * 2 * 64 * 4  # keys and values of two heads of 64, in float32
    said = f"mtp (mtp.onnx): `--speculate mtp`, {per_token:,} bytes of states a token"
    assert said in format_inspection(inspect(out))
    planned = format_plan(decide(checkpoint, target="x86-cpu", recipe=recipe(tmp_path, INT4)))
    assert said in planned
    assert "MB besides at 128 tokens, the head once more among it" in planned
    one, other = (call(opened(folder / "model.onnx"), TOKENS)["logits"] for folder in (tmp_path / "plain", out))
    # A graph that gives ``hidden`` computes its last layer for every token, and kernels round several rows otherwise.
    np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT * np.abs(other).max())


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ('[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\n', "x86-cpu"),
        ('[weights]\nmethod = "gptq"\nbits = 4\n[calibration]\ntokens = 256\nlength = 64\n', "x86-cpu"),
        ('before = ["awq", "hadamard"]\n[weights]\nbits = 8\n[calibration]\ntokens = 256\nlength = 64\n', "x86-cpu"),
        ("[weights]\nbits = 8\n[cache]\nbits = 8\n", "x86-cpu"),
        ('[weights]\nbits = 8\n[activations]\ntype = "float16"\n', "arm64-cpu"),
        ("[weights]\nbits = 8\n", "arm64-cpu"),  # with a graph in float16 beside
    ],
    ids=["dynamic", "gptq", "transforms", "integer-cache", "float16", "two-graphs"],
)
def test_every_recipe_ships_it(content: str, target: str, tmp_path: Path) -> None:
    """Near what it is in float32, whatever the model's own weights become: h is the model's own."""
    checkpoint = mtp_checkpoints.save("qwen3_5_text", tmp_path / "checkpoint")
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 20)
    asked = recipe(tmp_path, content)
    out = tmp_path / "bundle"
    calibration = [text] if "calibration" in content or "cache" in content else []
    manifest = export(checkpoint, out=out, target=target, recipe=asked, threads=1, calibration=calibration, check=True)
    parity = {key: float(str(value)) for key, value in (manifest.parity or {}).items()}
    assert 0 < parity["mtp_graph_difference"] < (5e-2 if "float16" in content or "cache" in content else FLOAT)
    oracle = mtp_checkpoints.Oracle(checkpoint)
    hidden = oracle.hidden(TOKENS)
    wanted, _ = oracle.further(TOKENS[1:], hidden[:-1])
    found = call(opened(out / "mtp.onnx", every=True), TOKENS[1:], hidden=hidden[None, :-1].numpy())["logits"][0]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    assert {str(tensor["name"]) for tensor in read_manifest(out).tensors} >= {"mtp.projection", "mtp.hidden_norm"}


def test_it_is_found_beside_a_text_model_in_a_whole(tmp_path: Path) -> None:
    """Real checkpoints of Qwen3.5 take images too: ``mtp.*`` stands beside ``model.language_model.*``."""
    checkpoint = tmp_path / "checkpoint"
    tiny_wrappers.save_wrapper("qwen3_5", checkpoint)
    alone = mtp_checkpoints.save("qwen3_5_text", tmp_path / "alone")
    path = checkpoint / "model.safetensors"
    own = {name: tensor for name, tensor in load_file(alone / "model.safetensors").items() if name.startswith("mtp.")}
    save_file(load_file(path) | own, path, {"format": "pt"})
    prepared = decide(checkpoint, target="x86-cpu", recipe=recipe(tmp_path, FP32))
    assert prepared.decoder.mtp is not None
    assert not any("mtp" in note for note in prepared.notes)


def test_what_cannot_be_is_one_error(tmp_path: Path) -> None:
    checkpoint = mtp_checkpoints.save("qwen3_5_text", tmp_path / "checkpoint")

    def refused(content: str, message: str, *, target: str = "x86-cpu", model: Path = checkpoint) -> None:
        with pytest.raises(InputError, match=message):
            decide(model, target=target, recipe=recipe(tmp_path, content))

    refused('prune = ["depth"]\n' + FP32, r"mtp = true and prunes \(depth\)")
    static = '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'
    refused(static, r"takes ranges from calibration \(minmax\)")
    refused(FP32, "is for qnn-htp, whose files hold the model alone", target="qnn-htp")
    refused(FP32, "has no layer that predicts a token further", model=tiny_models.save("llama", tmp_path / "llama"))
    (tmp_path / "typed.toml").write_text("mtp = 1\n" + FP32)
    with pytest.raises(InputError, match="mtp must be true or false, not 1"):
        decide(checkpoint, target="x86-cpu", recipe=tmp_path / "typed.toml")
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    for key, value in {"mtp_num_hidden_layers": 2, "mtp_use_dedicated_embeddings": True}.items():
        path.write_text(json.dumps(config | {key: value}))
        refused(FP32, f"{key} = {value}")
    path.write_text(json.dumps(config))
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["mtp.layers.0.mlp.up_proj.weight"]
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    refused(FP32, r"has no tensor mtp\.layers\.0\.mlp\.up_proj\.weight")
    logging.getLogger("edgepress").handlers.clear()
