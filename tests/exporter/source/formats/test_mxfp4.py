"""MXFP4, against transformers' own conversion of gpt-oss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from edgepress.errors import InputError
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import mxfp4
from edgepress.exporter.source.stored import StoredTensor, read_header


def read(folder: Path, stored: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    save_file(stored, folder / "model.safetensors")
    tensors = read_header(folder / "model.safetensors")
    mxfp4.read(Config({"quant_method": "mxfp4"}), tensors)
    return tensors


def test_experts_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blocks = torch.from_numpy(rng.integers(0, 256, (3, 10, 2, 16), np.uint8))
    scales = torch.from_numpy(rng.integers(110, 140, (3, 10, 2), np.uint8))
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = read(tmp_path, {f"{name}_blocks": blocks, f"{name}_scales": scales})
    assert [*tensors] == [name]
    assert tensors[name].shape == expected.shape == (3, 64, 10)
    np.testing.assert_array_equal(tensors[name].rows(0, 3), expected)
    np.testing.assert_array_equal(tensors[name].rows(1, 2), expected[1:2])
    stacked = replace(tensors[name], shape=(3 * 64, 10))  # as parts of a stack are read
    for start, stop in ((0, 192), (5, 40), (60, 130), (191, 192)):
        np.testing.assert_array_equal(stacked.rows(start, stop), expected.reshape(-1, 10)[start:stop])


@pytest.mark.parametrize(
    ("blocks", "scales", "says"),
    [
        (torch.zeros(3, 10, 2, 8).byte(), torch.zeros(3, 10, 2).byte(), r"U8 \(experts, rows, groups, 16\)"),
        (torch.zeros(3, 10, 2, 16).byte(), torch.zeros(3, 10, 3).byte(), r"are U8 \[3, 10, 2\]"),
        (torch.zeros(3, 10, 2, 16).byte(), None, "x_scales is not"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, blocks: torch.Tensor, scales: torch.Tensor | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, {"x_blocks": blocks} | ({} if scales is None else {"x_scales": scales}))
