"""GPTQ's files: what they hold is what their description says, bit by bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import Affine, int32, rounded, save_packed, words
from safetensors.torch import load_file, save_file

from edgepress.errors import InputError
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import gptq
from edgepress.exporter.source.packed import Grid
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.stored import StoredTensor, read_header


def config(bits: int, group: int, version: str = "gptq", **more: object) -> dict[str, object]:
    found = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": version, "desc_act": False}
    return {"quantization_config": found | more}


def pack(found: Affine, bits: int, *, version: str = "gptq", index: bool = True) -> dict[str, torch.Tensor]:
    """The four tensors, a word at a time."""
    stored = found.zeros - (1 if version == "gptq" else 0)
    tensors = {
        "qweight": int32([words(row, bits) for row in found.codes]).T.contiguous(),
        "qzeros": int32([words(column, bits) for column in stored.T]),
        "scales": torch.from_numpy(found.scales.T.astype(np.float16).copy()),
    }
    return tensors | ({"g_idx": torch.from_numpy(found.groups.astype(np.int32))} if index else {})


def scattered(found: Affine, seed: int) -> Affine:
    order = np.random.default_rng(seed).permutation(len(found.groups))
    return Affine(found.codes, found.scales, found.zeros, found.groups[order])


@pytest.mark.parametrize(
    ("bits", "group", "version", "symmetric", "act_order"),
    [
        (4, 32, "gptq", True, False),
        (4, 16, "gptq_v2", False, False),
        (8, 0, "gptq", True, False),
        (8, 32, "gptq_v2", False, True),
        (2, 32, "gptq", False, False),
        (3, 32, "gptq_v2", True, True),
    ],
)
def test_every_weight_of_a_checkpoint_is_read(
    tmp_path: Path, bits: int, group: int, version: str, symmetric: bool, act_order: bool
) -> None:
    def packed(name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        found = rounded(weight, bits, group, symmetric=symmetric, seed=len(name))
        found = scattered(found, 3) if act_order else found
        return pack(found, bits, version=version, index=act_order or symmetric), found.weight

    directory, plain = save_packed(tmp_path / "model", packed, config(bits, group or -1, version))
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    assert "quantization_config" not in checkpoint.config
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy(), strict=True)
        np.testing.assert_array_equal(checkpoint.rows(name, 3, 29), expected.numpy()[3:29])
    weight = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
    assert weight.stored_itemsize < 2
    grid = weight.grid()
    assert grid == Grid(bits, group, symmetric)
    assert (checkpoint.part_order(Part(weight.name, 0, 1)) is None) == (not act_order)


@settings(max_examples=30)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.integers(1, 2),
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    version=st.sampled_from(["gptq", "gptq_v2"]),
    data=st.data(),
)
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    rows: int,
    groups: int,
    seed: int,
    version: str,
    data: st.DataObject,
) -> None:
    rows, columns = 32 * rows, 32 * groups
    found = rounded(np.ones((rows, columns)), bits, 32, symmetric=False, seed=seed)
    found = scattered(found, seed) if data.draw(st.booleans()) else found
    file = tmp_path_factory.mktemp("gptq") / "model.safetensors"
    save_file({f"x.{key}": value for key, value in pack(found, bits, version=version).items()}, file)
    tensors: dict[str, StoredTensor] = read_header(file)
    gptq.read(section(config(bits, 32, version)), tensors)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    np.testing.assert_array_equal(tensors["x.weight"].rows(start, stop), found.weight[start:stop], strict=True)
    assert isinstance(tensors["x.weight"], gptq.GPTQWeight)
    codes = tensors["x.weight"].codes(start, stop)
    by_group = np.argsort(found.groups, kind="stable")
    np.testing.assert_array_equal(codes.values, found.codes[start:stop, by_group])
    np.testing.assert_array_equal(codes.zero_points, found.zeros[start:stop])
    order = tensors["x.weight"].order()
    np.testing.assert_array_equal(np.arange(columns) if order is None else order, by_group)


def test_groups_that_are_not_of_one_size_are_no_blocks(tmp_path: Path) -> None:
    found = rounded(np.ones((32, 64)), 4, 32, symmetric=True, seed=1)
    found.groups[0] = 1
    save_file({f"x.{key}": value for key, value in pack(found, 4).items()}, tmp_path / "model.safetensors")
    tensors: dict[str, StoredTensor] = read_header(tmp_path / "model.safetensors")
    gptq.read(section(config(4, 32)), tensors)
    assert isinstance(tensors["x.weight"], gptq.GPTQWeight)
    assert tensors["x.weight"].grid() == "its groups are not of one size, and blocks are"
    np.testing.assert_array_equal(tensors["x.weight"].rows(0, 32), found.weight, strict=True)


def section(values: dict[str, object]) -> Config:
    found = Config(values).section("quantization_config")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def packed(_name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        found = rounded(weight, 4, 32, symmetric=True, seed=1)
        return pack(found, 4), found.weight

    return save_packed(tmp_path_factory.mktemp("gptq") / "model", packed, config(4, 32))[0]


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("scales", None, f"{DOWN}.scales is not"),
        ("qzeros", None, f"{DOWN}.qzeros is not"),
        ("qweight", torch.zeros(16, 64), r"F32 \[16, 64\]: GPTQ's codes are a matrix of I32"),
        ("scales", torch.zeros(4, 48), "scales of 64 rows"),
        ("qzeros", torch.zeros(4, 9, dtype=torch.int32), "zero points of 4 groups and 64 rows"),
        ("g_idx", torch.full((128,), 4, dtype=torch.int32), "names groups from 4 to 4, and 4 have scales"),
        ("g_idx", torch.zeros(5, dtype=torch.int32), r"groups of 128 columns are I32 \[128\]"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(
    model: Path, tmp_path: Path, key: str, value: torch.Tensor | None, says: str
) -> None:
    tensors = load_file(model / "model.safetensors")
    if value is None:
        del tensors[f"{DOWN}.{key}"]
    else:
        tensors[f"{DOWN}.{key}"] = value
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(InputError, match=says):
        Checkpoint.open(tmp_path).rows(f"{DOWN}.weight", 0, 1)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"bits": 5}, "bits = 5: GPTQ's files have 2, 3, 4, 8"),
        ({"bits": None}, "bits is missing"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin': not implemented; known: gptq, gptq_v2"),
        ({"is_marlin_format": True}, "packed for a GPU kernel"),
        ({"quant_method": "hqq"}, "quantized by 'hqq'; known: .*gptq"),
        ({"quant_method": 7}, "quantized by 7"),
    ],
)
def test_a_setting_that_is_not_read_is_named(model: Path, tmp_path: Path, more: dict[str, object], says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    values = json.loads((model / "config.json").read_text())
    values["quantization_config"] |= more
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=says):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_what_gptqmodel_packs_is_read_as_it_dequantizes(tmp_path: Path, bits: int, act_order: bool) -> None:
    """The format's own library (7.7.0 with torch 2.13.0); it is not in the test extra, whose torch it would replace."""
    linears = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch")
    found = rounded(np.ones((64, 96)), bits, 32, symmetric=False, seed=bits)
    found = scattered(found, 5) if act_order else found
    module = torch.nn.Linear(96, 64, bias=False)
    module.weight.data = torch.from_numpy(found.weight.astype(np.float32))
    layer = linears.TorchLinear(
        bits=bits, group_size=32, sym=False, desc_act=act_order, in_features=96, out_features=64, register_buffers=True
    )  # fmt: skip
    scales, zeros = (torch.from_numpy(values.astype(np.float32)) for values in (found.scales, found.zeros))
    layer.pack(module, scales, zeros, g_idx=torch.from_numpy(found.groups.astype(np.int32)))
    names = ("qweight", "qzeros", "scales", "g_idx")
    save_file({f"x.{name}": getattr(layer, name).contiguous() for name in names}, tmp_path / "model.safetensors")
    layer.post_init()
    tensors: dict[str, StoredTensor] = read_header(tmp_path / "model.safetensors")
    gptq.read(section(config(bits, 32, "gptq_v2", desc_act=act_order)), tensors)
    theirs = layer.dequantize_weight().T.numpy()  # in float16, of which ours are the numbers before they are rounded
    np.testing.assert_array_equal(tensors["x.weight"].rows(0, 64).astype(np.float16), theirs.astype(np.float16))
