"""An export is deterministic, whole or absent, and refuses what it cannot do before it writes anything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_models
from safetensors.numpy import load_file, save_file

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import decide, export
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.bundle.parities import comparing
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.exporter.graph.models import integer_cache
from edgepress.exporter.plan.layout import PAGE


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("checkpoint") / "llama")


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "broken"))


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def edit_config(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def forget_generation(checkpoint: Path) -> Path:
    (checkpoint / "generation_config.json").unlink(missing_ok=True)
    return checkpoint


def edit_tensors(checkpoint: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    edit(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int8-dynamic", "int4", "int4-128"])
def test_the_same_inputs_give_the_same_bytes_on_any_thread_count_and_in_any_place(
    llama: Path, tmp_path: Path, recipe: str
) -> None:
    elsewhere = Path(shutil.copytree(llama, tmp_path / "elsewhere"))
    export(llama, out=tmp_path / "a", recipe=recipe, threads=1)
    export(elsewhere, out=tmp_path / "deeper" / "b", recipe=recipe, threads=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "deeper" / "b")
    assert find_problems(tmp_path / "a") == []


def test_the_manifest_says_what_was_done_to_every_tensor(llama: Path, tmp_path: Path) -> None:
    manifest = export(llama, out=tmp_path / "out", recipe="int4")
    assert read_manifest(tmp_path / "out") == manifest
    names = set(load_file(llama / "model.safetensors"))
    assert {source for tensor in manifest.tensors for source in tensor["sources"]} == names
    for tensor in manifest.tensors:
        quantized = tensor["scheme"] is not None
        assert quantized == (tensor["kind"] in {"linear", "embedding", "head"})
        assert (tensor["sqnr_db"] is not None) == quantized
    assert set(manifest.source) >= {"config.json", "model.safetensors"}


def test_sqnr_is_that_of_the_stored_bytes(llama: Path, tmp_path: Path) -> None:
    prepared = decide(llama, target="arm64-cpu", recipe="int4")
    manifest = export(llama, out=tmp_path / "out", recipe="int4")
    stored = StoredWeights(tmp_path / "out" / "model.onnx.data", prepared.plan)
    original = load_file(llama / "model.safetensors")
    for tensor in manifest.tensors:
        if tensor["scheme"] is not None:
            pairs = [(original[name].astype(np.float64), stored(name)) for name in tensor["sources"]]
            power = sum((x**2).sum() for x, _ in pairs)
            noise = sum(((x - y) ** 2).sum() for x, y in pairs)
            assert tensor["sqnr_db"] == pytest.approx(10 * np.log10(power / noise), abs=2e-3)


def test_tied_embedding_and_head_are_the_same_bytes_once(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("qwen2", tmp_path / "checkpoint")
    export(checkpoint, out=tmp_path / "out", recipe="int4")
    model = onnx.load_model(tmp_path / "out" / "model.onnx", load_external_data=False)
    users = {node.op_type: node for node in model.graph.node}
    head = next(node for node in model.graph.node if "logits" in node.output)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer
    }
    table = users["GatherBlockQuantized"]
    assert places[head.input[1]] == places[table.input[0]]
    scales = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    assert head.input[2] == table.input[2]  # one Cast
    assert scales[head.input[2]] in places


def test_a_head_entry_that_a_tied_model_cannot_use_is_said(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("qwen2", tmp_path / "checkpoint")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[weights]\nbits = 4\n[head]\nbits = 8\n", encoding="utf-8")
    assert "[head] is not used" in format_plan(decide(checkpoint, target="arm64-cpu", recipe=recipe))
    assert "[head] is not used" not in format_plan(decide(checkpoint, target="arm64-cpu", recipe="int4"))


def test_large_regions_lie_on_pages(llama: Path, tmp_path: Path) -> None:
    plan = decide(llama, target="arm64-cpu", recipe="fp32").plan
    for tensor in plan.tensors:
        for region in tensor.regions.values():
            assert region.offset % (PAGE if region.nbytes >= 16 * PAGE else 64) == 0
    export(llama, out=tmp_path / "out", recipe="fp32")
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size == plan.data_bytes


def test_what_exists_is_kept_without_force_and_what_is_no_bundle_with_it(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(InputError, match="exists already"):
        export(llama, out=out)
    with pytest.raises(InputError, match="--force replaces bundles only"):
        export(llama, out=out, force=True)
    with pytest.raises(InputError, match="--force replaces bundles only"):
        export(llama, out=out / "mine", force=True)
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    export(llama, out=out, recipe="int8", force=True)
    export(llama, out=out, recipe="int4", force=True)
    assert find_problems(out) == []
    assert read_manifest(out).recipe["name"] == "int4"


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
def test_killed_in_the_middle_leaves_the_old_bundle_or_none(llama: Path, tmp_path: Path, delay: float) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgepress", "export", str(llama), "--out", str(out), "--recipe", "fp32"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(path.name.endswith(".partial") for path in tmp_path.iterdir()):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists() or find_problems(out) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: edit_config(c, model_type="rwkv"), r"rwkv.*llama"),
        (lambda c: edit_config(c, hidden_size=65), "65"),
        (lambda c: edit_config(c, num_hidden_layers=4), r"layers\.3"),
        (lambda c: edit_config(c, num_hidden_layers=2), r"layers\.2"),
        (lambda c: edit_config(c, vocab_size=100), "100"),
        (lambda c: edit_config(c, hidden_act="swishy"), "swishy"),
        (lambda c: edit_config(c, is_causal=False), "is_causal"),
        (lambda c: edit_config(forget_generation(c), eos_token_id=None), "eos_token_id"),
        (lambda c: edit_config(forget_generation(c), eos_token_id=10**6), r"^config\.json: eos_token_id 1000000"),
        (
            lambda c: (c / "generation_config.json").write_text('{"eos_token_id": [2, 1000000]}'),
            r"^generation_config\.json: eos_token_id 1000000",
        ),
        (lambda c: (c / "config.json").write_text("{"), "JSON"),
        (lambda c: (c / "config.json").unlink(), "config.json"),
        (lambda c: (c / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda c: (c / "tokenizer.json").write_text("{"), "JSON"),
        (lambda c: os.truncate(c / "model.safetensors", 5000), "model.safetensors"),
        (
            lambda c: (c / "model.safetensors").rename(c / "pytorch_model.bin"),
            r"a safetensors file; rename it to \.safe",
        ),
        (lambda c: (c / "model.safetensors").rename(c / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00."), "pickle"),
        (lambda c: edit_tensors(c, lambda t: t.pop("model.norm.weight")), r"model\.norm\.weight"),
        (lambda c: edit_tensors(c, lambda t: t.update(extra=t["model.norm.weight"].copy())), "extra"),
        (
            lambda c: edit_tensors(c, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].astype(int)})),
            "I64",
        ),
        (lambda c: edit_tensors(c, lambda t: t["model.norm.weight"].fill(np.nan)), r"model\.norm\.weight"),
        (
            lambda c: edit_tensors(c, lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 5), np.inf)),
            r"model\.layers\.1\.mlp\.up_proj\.weight",
        ),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    broken: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(broken)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        export(broken, out=tmp_path / "out")
    assert str(caught.value).count("\n") <= 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "model.safetensors"])
def test_a_link_out_of_the_checkpoint_is_not_followed(broken: Path, tmp_path: Path, name: str) -> None:
    shutil.move(broken / name, tmp_path / "outside")
    (broken / name).symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="link"):
        export(broken, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arm64-cpu"):
        export(llama, out=tmp_path / "out", target="arm64")
    with pytest.raises(InputError, match=r"4096.*128"):
        export(llama, out=tmp_path / "out", context_length=4096)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[weights]\nbits = 4\n[[override]]\nmatch = 'layer.*'\nbits = 8\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"'layer\.\*' matches no tensor"):
        export(llama, out=tmp_path / "out", recipe=recipe)
    recipe.write_text("[weights]\nbits = 4\nmethod = 'gptqq'\n", encoding="utf-8")
    with pytest.raises(InputError, match="gptqq"):
        export(llama, out=tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


def test_overrides_reach_the_bundle(llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[weights]\nbits = 4\nblock_size = 16\n[head]\nbits = 8\n[[override]]\nmatch = 'layers.0.*'\nbits = 32\n",
        encoding="utf-8",
    )
    manifest = export(llama, out=tmp_path / "out", recipe=recipe)
    schemes = {str(tensor["name"]): tensor["scheme"] for tensor in manifest.tensors}
    assert schemes["layers.0.mlp.up"] is None
    assert schemes["layers.1.mlp.up"] == asdict(Scheme("rtn", 4, 16))
    assert schemes["head"] == asdict(Scheme("rtn", 8, 16))


def test_check_puts_parity_into_the_manifest_and_fails_on_a_wrong_graph(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = export(llama, out=tmp_path / "out", recipe="int4", check=True)
    assert manifest.parity is not None
    assert 0 < float(str(manifest.parity["graph_difference"])) < 1e-5
    assert float(str(manifest.parity["kl"])) > 0
    monkeypatch.setattr(comparing, "TOLERANCE", 1e-12)
    with pytest.raises(CheckFailed, match="logit difference"):
        export(llama, out=tmp_path / "other", recipe="int4", check=True)
    assert not (tmp_path / "other").exists()


def test_check_takes_caches_of_integers_and_no_wrong_scales(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be as far off as rounding by their scales is; others, in the graph alone or found so, are not theirs."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[weights]\nbits = 8\n[cache]\nbits = 8\n", encoding="utf-8")
    manifest = export(llama, out=tmp_path / "out", target="x86-cpu", recipe=recipe, check=True)
    assert manifest.parity is not None
    off, rounding, tolerance = (
        float(str(manifest.parity[key])) for key in ("graph_difference", "cache_rounding", "graph_tolerance")
    )
    assert 0.5 * rounding < off < 1.5 * rounding  # the same rounding, but for each token's own
    assert tolerance == pytest.approx(1e-3 + 2 * rounding, rel=1e-3)
    assert 1e-4 < tolerance < 1e-1
    exporting = sys.modules["edgepress.exporter.export"]  # its package has the function in its place
    found, made = exporting.find_cache_scales, integer_cache.numpy_helper.from_array

    def tenth(*given: Any, **named: Any) -> dict[str, Any]:
        return {name: 0.1 * scale for name, scale in found(*given, **named).items()}

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "find_cache_scales", tenth)
        with pytest.raises(CheckFailed, match=r"the scales of layers\.\d\.\w+ in model\.onnx cut off \d+\.\d% of its"):
            export(llama, out=tmp_path / "other", target="x86-cpu", recipe=recipe, check=True)

    def third(array: Any, name: str) -> Any:
        return made(0.3 * array if "key" in name else array, name)

    monkeypatch.setattr(integer_cache.numpy_helper, "from_array", third)
    with pytest.raises(CheckFailed, match=r"the graph model\.onnx does not compute what the reference model computes"):
        export(llama, out=tmp_path / "third", target="x86-cpu", recipe=recipe, check=True)


def test_the_plan_predicts_the_bundle(llama: Path, tmp_path: Path) -> None:
    prepared = decide(llama, target="arm64-cpu", recipe="int4-128")
    predicted = plan_to_json(prepared)
    manifest = export(llama, out=tmp_path / "out", recipe="int4-128")
    assert predicted["totals"]["data_file_bytes"] == manifest.files["model.onnx.data"].size
    assert predicted["estimates"]["bundle_bytes"] == pytest.approx(manifest.totals["bytes_after"], rel=0.25)
    text = format_plan(prepared)
    for tensor in prepared.plan.tensors:
        assert tensor.weight.name in text
    assert "block 128 → 64, as a row has 64 columns" in text


def test_inspect_counts_operators_and_bytes(llama: Path, tmp_path: Path) -> None:
    manifest = export(llama, out=tmp_path / "out", recipe="int4")
    seen = inspect(tmp_path / "out")
    assert seen["operators"]["com.microsoft.GroupQueryAttention"] == 3
    stored = sum(tensor["bytes_after"] for tensor in manifest.tensors)
    tables = sum(group["bytes"] for name, group in seen["groups"].items() if name.startswith("rope"))
    inline = sum(group["bytes"] for name, group in seen["groups"].items() if "." not in name and name != "final_norm")
    assert sum(group["bytes"] for group in seen["groups"].values()) - tables - inline == stored
    assert "GroupQueryAttention" in format_inspection(seen)
    assert inspect(tmp_path / "out" / "model.onnx")["nodes"] == seen["nodes"]
    (tmp_path / "noise.onnx").write_bytes(b"\xff\x00noise")
    for path in (tmp_path / "noise.onnx", tmp_path / "absent", tmp_path):
        with pytest.raises(InputError):
            inspect(path)
