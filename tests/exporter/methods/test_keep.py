"""What a checkpoint stores as integers goes into the bundle as it is, which computes what the checkpoint says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import Affine, int32, rounded, save_packed, words

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.methods.round.keep import as_stored, storage_of
from edgepress.exporter.plan.schemes import fit_scheme
from edgepress.exporter.recipe.recipe import Storage
from edgepress.exporter.source.packed import Codes, Grid
from edgepress.runtime import load


@settings(max_examples=100)
@given(
    bits=st.integers(2, 8),
    group=st.sampled_from([0, 8, 16, 32, 48, 96, 128, 512]),
    groups=st.integers(1, 4),
    rows=st.integers(1, 5),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_what_can_be_held_is_the_same_numbers(
    bits: int, group: int, groups: int, rows: int, symmetric: bool, seed: int
) -> None:
    found = rounded(np.ones((rows, (group or 40) * groups)), bits, group, symmetric=symmetric, seed=seed, half=False)
    grid, zeros = Grid(bits, group, symmetric), None if symmetric else found.zeros.astype(np.int16)
    storage = storage_of(grid)
    if group == 8:
        assert storage == "groups of 8 columns are no whole blocks of 16 or more"
        return
    assert isinstance(storage, Storage)
    scheme = fit_scheme(storage, found.codes.shape[1])
    assert scheme is not None
    assert scheme.bits == next(size for size in (2, 4, 8) if size >= bits) or (bits == 2 and group in (16, 48))
    kept = as_stored(Codes(found.codes.astype(np.uint8), found.scales, zeros), grid, scheme)
    shown = dequantize(kept.values, kept.scales, scheme, found.codes.shape[1], kept.zero_points)
    np.testing.assert_array_equal(shown, found.weight)


def by_input(module: str) -> int:
    """As GPTQ's act-order has it: projections of one input have one order of columns."""
    return sum(module.replace("k_proj", "q_proj").replace("v_proj", "q_proj").replace("up_", "gate_").encode())


def gptq(
    directory: Path, bits: int, group: int, *, symmetric: bool, order: Callable[[str], int | None] = lambda _: None
) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny Llama as GPTQModel stores it; ``order(module)`` is the seed of the order in which columns have groups."""

    def packed(name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        found = rounded(weight, bits, group, symmetric=symmetric, seed=len(name))
        seed = order(name)
        if seed is not None:
            columns = np.random.default_rng(seed).permutation(len(found.groups))
            found = Affine(found.codes, found.scales, found.zeros, found.groups[columns])
        tensors = {
            "qweight": int32([words(row, bits) for row in found.codes]).T.contiguous(),
            "qzeros": int32([words(column, bits) for column in found.zeros.T]),
            "scales": torch.from_numpy(found.scales.T.astype(np.float16).copy()),
            "g_idx": torch.from_numpy(found.groups.astype(np.int32)),
        }
        return tensors, found.weight

    settings = {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "checkpoint_format": "gptq_v2"}
    return save_packed(directory, packed, {"quantization_config": settings})


EXACT = """accuracy_level = 0
[weights]
method = "keep"
bits = 8
[embedding]
bits = 32
"""


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "act_order"),
    [(4, 32, True, False), (4, 16, False, False), (8, 0, True, False), (3, 32, False, False), (4, 32, False, True)],
)
def test_a_bundle_holds_the_checkpoint_s_own_numbers(
    tmp_path: Path, bits: int, group: int, symmetric: bool, act_order: bool
) -> None:
    order = by_input if act_order else lambda _: None
    model, plain = gptq(tmp_path / "model", bits, group, symmetric=symmetric, order=order)
    (tmp_path / "exact.toml").write_text(EXACT)
    settings = {"target": "arm64-cpu", "recipe": tmp_path / "exact.toml"}
    prepared = decide(model, **settings)
    manifest = export(model, out=tmp_path / "bundle", **settings)
    stored = StoredWeights(tmp_path / "bundle" / DATA_FILE, prepared.plan)
    for tensor in prepared.plan.tensors:
        for part in tensor.weight.parts:
            np.testing.assert_array_equal(stored(part.tensor), plain[part.tensor].numpy(), err_msg=part.tensor)
    kept = [entry for entry in manifest.tensors if entry["kind"] == "linear"]
    assert len(kept) == 2 * 5
    for entry in kept:
        assert entry["sqnr_db"] is None, "not one bit differs"
        assert entry["form"] == "half blocks", "scales are float16 in the checkpoint"
        assert f"unchanged{', columns by their groups' if act_order else ''} (GPTQ" in str(entry["reason"])
    tokens = np.arange(3, 23)
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    reference.load_state_dict(plain, strict=False)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(tokens)[None]).logits[0, -1].numpy()
    found = load(tmp_path / "bundle").prefill(tokens.tolist())
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_cannot_be_kept_is_rounded_and_said(tmp_path: Path) -> None:
    model, _ = gptq(tmp_path / "model", 4, 32, symmetric=True, order=lambda name: 3 if "k_proj" in name else None)
    prepared = decide(model, target="arm64-cpu", recipe="keep")
    said = {tensor.weight.name: (str(tensor.scheme), tensor.reason) for tensor in prepared.plan.tensors}
    assert said["layers.0.mlp.down"] == (
        "keep 4 bits, block 32",
        "[weights]: codes and scales unchanged (GPTQ 4 bits, groups of 32)",
    )
    scheme, reason = said["layers.1.attention.qkv"]
    assert scheme == "rtn 8 bits, block 32"
    says = "its parts have their columns in different orders"
    assert reason == f"[weights]: rounded to nearest, as GPTQ 4 bits, groups of 32: {says}"
    assert said["embedding"] == ("rtn 8 bits, block 32", "[embedding]: rounded to nearest, as it is stored as F32")
    assert any("quantized already (GPTQ, 4 bits, groups of 32)" in note for note in prepared.notes)
    manifest = export(model, out=tmp_path / "bundle", recipe="keep")
    lost = {entry["name"]: entry["sqnr_db"] for entry in manifest.tensors}
    assert lost["layers.0.mlp.down"] is None
    assert float(str(lost["layers.1.attention.qkv"])) > 40


def test_rows_of_8_bits_are_kept_for_integer_products(tmp_path: Path) -> None:
    model, plain = gptq(tmp_path / "model", 8, 0, symmetric=True)
    rows = '[weights]\nmethod = "keep"\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\n'
    (tmp_path / "rows.toml").write_text(rows)
    prepared = decide(model, target="arm64-cpu", recipe=tmp_path / "rows.toml")
    assert {tensor.form for tensor in prepared.plan.tensors if tensor.weight.kind == "linear"} == {"dynamic"}
    export(model, out=tmp_path / "bundle", recipe=tmp_path / "rows.toml", target="arm64-cpu")
    stored = StoredWeights(tmp_path / "bundle" / DATA_FILE, prepared.plan)
    reasons = {tensor.weight.name: tensor.reason for tensor in prepared.plan.tensors}
    assert "unchanged (GPTQ 8 bits, one scale a row), but for codes of −128" in reasons["layers.1.mlp.down"]
    for name in ("model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        expected = plain[name].numpy()
        lowest = expected == expected.min(axis=1, keepdims=True)  # the code −128, which rows of random codes have
        found = stored(name)
        np.testing.assert_array_equal(found[~lowest], expected[~lowest])
        assert np.abs(found - expected).max() <= np.abs(expected).max() / 127


def test_any_other_recipe_rounds_what_the_codes_stand_for(tmp_path: Path) -> None:
    model, plain = gptq(tmp_path / "model", 4, 32, symmetric=True, order=by_input)
    export(model, out=tmp_path / "bundle", recipe="int8")
    plan = decide(model, target="arm64-cpu", recipe="int8").plan
    found = StoredWeights(tmp_path / "bundle" / DATA_FILE, plan)("model.layers.1.mlp.up_proj.weight")
    expected = plain["model.layers.1.mlp.up_proj.weight"].numpy()
    assert np.square(found - expected).sum() < 1e-4 * np.square(expected).sum()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('after = ["distill"]\n', "distill and the method keep"),
        ('before = ["hadamard"]\n', "hadamard and the method keep"),
        ('prune = ["depth"]\n', "depth and the method keep"),
        ("[budget]\nsize_mb = 5\n", "budget. and the method keep"),
        ('[activations]\ntype = "uint8"\nranges = "minmax"\n', "minmax ranges and the method keep"),
    ],
)
def test_what_changes_weights_leaves_nothing_to_keep(tmp_path: Path, more: str, says: str) -> None:
    top, table = ("", more) if more.startswith("[") else (more, "")
    (tmp_path / "mine.toml").write_text(f'{top}[weights]\nmethod = "keep"\nbits = 8\nblock_size = "channel"\n{table}')
    with pytest.raises(InputError, match=says):
        decide("demo", target="arm64-cpu", recipe=tmp_path / "mine.toml")
