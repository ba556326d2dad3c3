"""AWQ's files: what they hold is what their description says, bit by bit."""

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
from edgepress.exporter.source.formats import awq
from edgepress.exporter.source.packed import Grid
from edgepress.exporter.source.stored import read_header

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's order_map: which column comes at which place of a word


def config(group: int, **more: object) -> dict[str, object]:
    found = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return {"quantization_config": found | more}


def pack(found: Affine) -> dict[str, torch.Tensor]:
    return {
        "qweight": int32([words(column, 4, ORDER) for column in found.codes.T]),
        "qzeros": int32([words(column, 4, ORDER) for column in found.zeros.T]),
        "scales": torch.from_numpy(found.scales.T.astype(np.float16).copy()),
    }


@pytest.mark.parametrize("group", [32, 0])
def test_every_weight_of_a_checkpoint_is_read(tmp_path: Path, group: int) -> None:
    def packed(name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        found = rounded(weight, 4, group, symmetric=False, seed=len(name))
        return pack(found), found.weight

    directory, plain = save_packed(tmp_path / "model", packed, config(group or -1))
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy(), strict=True)
    assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].grid() == Grid(4, group, symmetric=False)


@settings(max_examples=30)
@given(rows=st.integers(1, 6), groups=st.integers(1, 3), seed=st.integers(0, 2**16), data=st.data())
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory, rows: int, groups: int, seed: int, data: st.DataObject
) -> None:
    found = rounded(np.ones((8 * rows, 16 * groups)), 4, 16, symmetric=False, seed=seed)
    file = tmp_path_factory.mktemp("awq") / "model.safetensors"
    save_file({f"x.{key}": value for key, value in pack(found).items()}, file)
    tensors = read_header(file)
    section = Config(config(16)).section("quantization_config")
    assert section is not None
    awq.read(section, tensors)
    start = data.draw(st.integers(0, 8 * rows - 1))
    stop = data.draw(st.integers(start + 1, 8 * rows))
    weight = tensors["x.weight"]
    assert isinstance(weight, awq.AWQWeight)
    np.testing.assert_array_equal(weight.rows(start, stop), found.weight[start:stop], strict=True)
    np.testing.assert_array_equal(weight.codes(start, stop).values, found.codes[start:stop])
    np.testing.assert_array_equal(weight.codes(start, stop).zero_points, found.zeros[start:stop])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def packed(_name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        found = rounded(weight, 4, 32, symmetric=False, seed=1)
        return pack(found), found.weight

    return save_packed(tmp_path_factory.mktemp("awq") / "model", packed, config(32))[0]


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("scales", None, f"{DOWN}.scales is not"),
        ("qweight", torch.zeros(16, 64), "AWQ's codes are a matrix of I32"),
        ("scales", torch.zeros(3, 64), "scales of 128 columns and 64 rows"),
        ("qzeros", torch.zeros(4, 9, dtype=torch.int32), r"zero points of 4 groups and 64 rows are I32 \[4, 8\]"),
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
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"bits": 8}, "bits = 8: AWQ's files have 4 bits"),
        ({"version": "gemv"}, "version = 'gemv': packed for another kernel"),
        ({"group_size": "32"}, "group_size = '32': must be an integer"),
    ],
)
def test_a_setting_that_is_not_read_is_named(model: Path, tmp_path: Path, more: dict[str, object], says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    values = json.loads((model / "config.json").read_text())
    values["quantization_config"] |= more
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=says):
        Checkpoint.open(tmp_path)
