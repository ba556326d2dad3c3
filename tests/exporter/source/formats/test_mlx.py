"""MLX's affine quantization: what its files hold is what their description says, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import Affine, int32, rounded, save_packed, words
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import mlx
from edgepress.exporter.source.packed import Grid, PackedTensor
from edgepress.exporter.source.stored import read_header

Tensors = dict[str, torch.Tensor]


def pack(found: Affine, bits: int, dtype: torch.dtype) -> tuple[Tensors, np.ndarray]:
    """As MLX does it: the bias is a whole number of scales, then both are rounded; and what that stands for."""
    scales = torch.from_numpy(found.scales)
    biases = -scales * torch.from_numpy(found.zeros).float()
    scales, biases = scales.to(dtype), biases.to(dtype)
    stored = {"weight": int32([words(row, bits) for row in found.codes]).view(torch.uint32)}
    each, bias = (value.double().numpy()[:, found.groups] for value in (scales, biases))
    return stored | {"scales": scales, "biases": biases}, (found.codes * each + bias).astype(np.float32)


@settings(max_examples=30)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    rows: int,
    groups: int,
    dtype: torch.dtype,
    seed: int,
    data: st.DataObject,
) -> None:
    found = rounded(np.ones((rows, 32 * groups)), bits, 32, symmetric=False, seed=seed)
    stored, expected = pack(found, bits, dtype)
    file = tmp_path_factory.mktemp("mlx") / "model.safetensors"
    save_file({f"x.{key}": value for key, value in stored.items()}, file)
    tensors = read_header(file)
    mlx.read(Config({"bits": bits, "group_size": 32}), tensors)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    weight = tensors["x.weight"]
    assert isinstance(weight, PackedTensor)
    np.testing.assert_array_equal(weight.rows(start, stop), expected[start:stop])
    grid = weight.grid()
    if bits <= 4 or dtype != torch.bfloat16:  # which holds a bias of so many steps less than within an eighth of one
        assert isinstance(grid, Grid)
        assert (grid.bits, grid.group) == (bits, 32)
        np.testing.assert_array_equal(weight.codes(start, stop).values, found.codes[start:stop])
        np.testing.assert_array_equal(weight.codes(start, stop).zero_points, found.zeros[start:stop])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    def packed(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        bits = 8 if "down_proj" in name else 4
        return pack(rounded(weight, bits, 32, symmetric=False, seed=len(name)), bits, torch.float16)

    settings = {"group_size": 32, "bits": 4, "mode": "affine"}
    settings |= {f"model.layers.{index}.mlp.down_proj": {"group_size": 32, "bits": 8} for index in range(2)}
    config = {"quantization": settings, "quantization_config": settings}
    return save_packed(tmp_path_factory.mktemp("mlx") / "model", packed, config)


def test_every_weight_of_a_checkpoint_is_read(model: tuple[Path, dict[str, torch.Tensor]]) -> None:
    directory, plain = model
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy())


def test_codes_are_kept_and_what_that_loses_is_said(
    tmp_path: Path, model: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    prepared = decide(model[0], target="arm64-cpu", recipe="keep")
    up = next(tensor for tensor in prepared.plan.tensors if tensor.weight.name == "layers.0.mlp.up")
    assert str(up.scheme) == "keep 4 bits, asymmetric, block 32"
    assert "its biases, which are whole steps but for their rounding, become whole steps (MLX 4 bits" in up.reason
    manifest = export(model[0], out=tmp_path / "bundle", recipe="keep")
    lost = next(entry["sqnr_db"] for entry in manifest.tensors if entry["name"] == "layers.0.mlp.up")
    assert float(str(lost)) > 55


@pytest.mark.parametrize(
    ("settings", "stored", "says"),
    [
        ({"mode": "mxfp4"}, {}, "mode = 'mxfp4': not implemented; known: affine"),
        ({"bits": 7}, {}, "bits = 7: MLX has 2, 3, 4, 5, 6, 8"),
        ({}, {"weight": None}, r"x\.weight is not"),
        ({}, {"biases": None}, r"x\.biases is not"),
        ({}, {"weight": torch.zeros(4, 8)}, "MLX's codes are a matrix of U32"),
        ({}, {"scales": torch.zeros(3, 2)}, "scales and biases of 4 rows"),
        ({"group_size": 48}, {}, "2 groups of 48 columns in 4 bits are 12 words"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, settings: dict[str, object], stored: dict[str, torch.Tensor | None], says: str
) -> None:
    whole: dict[str, torch.Tensor | None] = {
        "weight": torch.zeros(4, 8, dtype=torch.int32).view(torch.uint32),
        "scales": torch.zeros(4, 2),
        "biases": torch.zeros(4, 2),
    }
    kept = {f"x.{key}": value for key, value in (whole | stored).items() if value is not None}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=says):
        mlx.read(Config({"bits": 4, "group_size": 32} | settings), read_header(tmp_path / "model.safetensors"))
