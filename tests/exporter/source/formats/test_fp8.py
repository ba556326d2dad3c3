"""8-bit floats in blocks, against torch's own conversion."""

from pathlib import Path

import numpy as np
import pytest
import torch
from packed_checkpoints import save_packed
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import fp8
from edgepress.exporter.source.formats._float8 import values_of
from edgepress.exporter.source.packed import PackedTensor
from edgepress.exporter.source.stored import StoredTensor, read_header


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_byte_is_what_torch_makes_of_it(dtype: str) -> None:
    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[dtype]
    expected = torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    np.testing.assert_array_equal(values_of(dtype), expected)


@pytest.mark.parametrize(
    ("block", "scales"), [((128, 128), (1, 1)), ((48, 32), (2, 3)), ((16, 16), (4, 6)), (None, (64, 1)), (None, ())]
)
def test_a_weight_is_its_bytes_times_their_scales(
    tmp_path: Path, block: tuple[int, int] | None, scales: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    codes, each = torch.randn(64, 96).mul(20).to(torch.float8_e4m3fn), torch.rand(scales) + 0.5
    end = "weight_scale" if scales == (64, 1) else "weight_scale_inv"
    tensors = read(tmp_path, {"weight": codes, end: each, "activation_scale": torch.ones(1)}, block)
    assert [*tensors] == ["x.weight"]
    whole = each.reshape(scales or (1, 1))
    for axis, size in enumerate(block or (64 if not scales else 1, 96)):
        whole = whole.repeat_interleave(size, axis)
    expected = (codes.float() * whole[:64, :96]).numpy()
    np.testing.assert_array_equal(tensors["x.weight"].rows(0, 64), expected)
    np.testing.assert_array_equal(tensors["x.weight"].rows(13, 50), expected[13:50])
    weight = tensors["x.weight"]
    assert isinstance(weight, PackedTensor)
    assert weight.grid() == "floats of 8 bits are not evenly spaced"


def read(folder: Path, stored: dict[str, torch.Tensor], block: tuple[int, int] | None) -> dict[str, StoredTensor]:
    save_file({f"x.{key}": value for key, value in stored.items()}, folder / "model.safetensors")
    tensors = read_header(folder / "model.safetensors")
    settings = {"quant_method": "fp8", "weight_block_size": None if block is None else list(block)}
    fp8.read(Config(settings), tensors)
    return tensors


def test_every_weight_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    def packed(_name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        codes = torch.from_numpy(weight).mul(32).to(torch.float8_e4m3fn)
        scales = torch.rand(-(-weight.shape[0] // 32), weight.shape[1] // 32) / 32
        each = scales.repeat_interleave(32, 0).repeat_interleave(32, 1)[: len(weight)]
        return {"weight": codes, "weight_scale_inv": scales}, (codes.float() * each).numpy()

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    directory, plain = save_packed(tmp_path / "model", packed, {"quantization_config": settings})
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy())
    assert checkpoint.itemsize("model.layers.0.mlp.up_proj.weight") < 1.01


@pytest.mark.parametrize(
    ("stored", "block", "says"),
    [
        ({}, (32, 32), r"x\.weight_scale_inv is not"),
        ({"weight_scale_inv": torch.ones(3, 3)}, (32, 32), r"blocks of \[32, 32\] has scales \[2, 3\]"),
        ({"weight_scale_inv": torch.ones(1)}, (0, 3), "weight_block_size"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, stored: dict[str, torch.Tensor], block: tuple[int, int], says: str
) -> None:
    codes = torch.zeros(64, 96).to(torch.float8_e4m3fn)
    with pytest.raises(InputError, match=says):
        read(tmp_path, {"weight": codes, **stored}, block)
