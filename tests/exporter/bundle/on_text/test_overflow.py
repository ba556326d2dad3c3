"""Layers that overflow float16: each place is seen, against magnitudes of a float64 interpreter."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from oracles_decoder import forward
from safetensors.numpy import load_file, save_file

from edgepress.exporter import decide
from edgepress.exporter.bundle.cpu_graph import graphs_to_compare
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.on_text.overflow import LARGEST, MARGIN, find_overflow
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.export import write_weights
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.terminal.progress import silent

Change = dict[str, float]  # factors by the tensor's name in the checkpoint, without .weight
TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, (3, 24))
RECIPE = '[weights]\nbits = 8\n[embedding]\nbits = 32\n[activations]\ntype = "float16"\n'
MLP = "model.layers.1.mlp"


def written(name: str, change: Change, folder: Path) -> Prepared:
    """The tiny model of that name with other weights, planned in float16, and its data file in ``folder``."""
    checkpoint = tiny_models.save(name, folder / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    for key, factor in change.items():
        tensors[f"{key}.weight"] *= np.float32(factor)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    (folder / "recipe.toml").write_text(f"accuracy_level = 1\n{RECIPE}", encoding="utf-8")
    prepared = decide(checkpoint, target="arm64-cpu", recipe=folder / "recipe.toml")
    prepared, _ = write_weights(folder, prepared, None, threads=1, progress=silent)
    return prepared


def found_in(folder: Path, prepared: Prepared) -> dict[str, str]:
    graphs = graphs_to_compare(prepared, prepared.cpu)
    return find_overflow(folder, graphs, prepared.decoder, TOKENS, "a text", threads=1)


def found(name: str, change: Change, folder: Path) -> dict[str, str]:
    return found_in(folder, written(name, change, folder))


def inputs_in_float64(folder: Path, prepared: Prepared) -> dict[str, float]:
    """The largest magnitude that goes into each projection, by its weight's name."""
    largest: dict[str, float] = {}
    stored = StoredWeights(folder / DATA_FILE, prepared.plan)

    def see(linear: Linear, x: np.ndarray) -> np.ndarray:
        largest[linear.weight.name] = max(largest.get(linear.weight.name, 0), float(np.abs(x).max()))
        return x

    for row in TOKENS:
        forward(prepared.decoder, stored, row, rounding=see)
    return largest


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2", "olmo2", "granite"])
def test_nothing_is_kept_of_a_model_of_ordinary_size(tmp_path: Path, name: str) -> None:
    assert found(name, {}, tmp_path) == {}


def test_the_magnitude_is_that_of_float64(tmp_path: Path) -> None:
    prepared = written("llama", {f"{MLP}.up_proj": 3e4, f"{MLP}.down_proj": 1 / 3e4}, tmp_path)
    expected = inputs_in_float64(tmp_path, prepared)["layers.1.mlp.down"]
    assert expected > LARGEST / MARGIN
    kept = found_in(tmp_path, prepared)
    assert kept.keys() == {"layers.1"}
    reached = re.fullmatch(
        r"layers\.1\.mlp\.mixed reaches (\S+) on 72 tokens of a text, above 16376: float16 ends at "
        r"65504, and unseen text gets a margin of 4",
        kept["layers.1"],
    )
    assert reached is not None
    assert float(reached[1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("share", "kept"), [(0.999, set()), (1.001, {"layers.1"})])
def test_the_limit_is_a_quarter_of_what_float16_holds(tmp_path: Path, share: float, kept: set[str]) -> None:
    (tmp_path / "first").mkdir()
    first = written("llama", {f"{MLP}.up_proj": 1e4, f"{MLP}.down_proj": 1e-4}, tmp_path / "first")
    reached = inputs_in_float64(tmp_path / "first", first)["layers.1.mlp.down"]
    factor = 1e4 * share * LARGEST / MARGIN / reached
    assert found("llama", {f"{MLP}.up_proj": factor, f"{MLP}.down_proj": 1 / factor}, tmp_path).keys() == kept


LAYER = "model.layers"
BOTH = {"layers.2", "layers.2.attention"}


@pytest.mark.parametrize(
    ("name", "change", "what", "kept"),
    [
        ("llama", {"model.embed_tokens": 1e6, "lm_head": 1}, "embedded", {"layers.0", "layers.1", "layers.2"}),
        ("llama", {f"{LAYER}.0.self_attn.v_proj": 5e4, f"{LAYER}.0.self_attn.o_proj": 2e-5}, "layers.0.attention.qkv.y",
         {"layers.0", "layers.0.attention"}),
        ("llama", {f"{LAYER}.0.self_attn.o_proj": 5e4}, "layers.0.attention.output.y",
         {"layers.0", "layers.1", "layers.2"}),
        ("llama", {f"{LAYER}.1.mlp.down_proj": 5e4}, "layers.1.mlp.down.y", {"layers.1", "layers.2"}),
        ("gpt2", {"transformer.h.2.mlp.c_fc": 5e4, "transformer.h.2.mlp.c_proj": 2e-5}, "layers.2.mlp.", {"layers.2"}),
        # the norm after it makes up for it, so that no other place is large
        ("gemma3_text", {f"{LAYER}.1.mlp.down_proj": 5e4}, "layers.1.mlp.down.y", {"layers.1"}),
        ("qwen3", {f"{LAYER}.2.self_attn.k_norm": 3e4}, "layers.2.attention.k_norm.y", BOTH),
        ("llama", {f"{MLP}.up_proj": 3e4, f"{MLP}.down_proj": 1e37}, "layers.1.mlp", {"layers.1", "layers.2"}),
    ],
)  # fmt: skip
def test_every_place_is_seen(tmp_path: Path, name: str, change: Change, what: str, kept: set[str]) -> None:
    overflows = found(name, change, tmp_path)
    assert kept <= set(overflows)
    assert what in overflows[min(kept)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text"])
def test_products_of_queries_and_keys_are_seen_where_nothing_else_is_large(tmp_path: Path, name: str) -> None:
    """float16 adds them up before they are scaled; what goes into them and what comes out is small."""
    parts = ("q_norm", "k_norm") if name != "llama" else ("q_proj", "k_proj")
    prepared = written(name, {f"{LAYER}.1.self_attn.{part}": 150 for part in parts}, tmp_path)
    overflows = found_in(tmp_path, prepared)
    assert overflows.keys() == {"layers.1.attention"}
    reached = re.match(r"layers\.1\.attention: the products of queries and keys, unscaled, reaches (\S+) on",
                       overflows["layers.1.attention"])  # fmt: skip
    assert reached is not None
    assert float(reached[1]) > LARGEST / MARGIN
    plan = prepared.decided(replace(prepared.decisions, kept_layers=overflows)).plan
    assert plan.half_layers == (0, 1, 2)
    assert {state.name for state in plan.states if state.type == "float32"} == {
        "layers.1.key", "layers.1.value"}  # fmt: skip


def test_a_weight_beyond_the_end_is_named(tmp_path: Path) -> None:
    change = {f"{LAYER}.1.post_attention_layernorm": 1e5, f"{MLP}.up_proj": 1e-5, f"{MLP}.gate_proj": 1e-5}
    overflows = found("llama", change, tmp_path)
    assert overflows.keys() == {"layers.1"}
    assert overflows["layers.1"].startswith("layers.1.mlp_norm holds ")
