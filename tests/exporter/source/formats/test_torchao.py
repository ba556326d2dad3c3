"""torchao's integers, one in a byte: against their description, and against what the library writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import torchao
from edgepress.exporter.source.packed import Grid, PackedTensor
from edgepress.exporter.source.stored import read_header


def read(folder: Path, stored: dict[str, torch.Tensor], bits: int) -> PackedTensor:
    save_file({f"x._weight_{key}": value.contiguous() for key, value in stored.items()}, folder / "model.safetensors")
    tensors = read_header(folder / "model.safetensors")
    kind = {"_type": "IntxWeightOnlyConfig", "_data": {"weight_dtype": {"_type": "torch.dtype", "_data": f"int{bits}"}}}
    torchao.read(Config({"quant_method": "torchao", "quant_type": {"default": kind}}), tensors)
    found = tensors["x.weight"]
    assert isinstance(found, PackedTensor)
    return found


@pytest.mark.parametrize(("bits", "groups", "zeros"), [(4, 3, True), (4, 3, False), (8, 1, True), (2, 1, False)])
def test_weights_are_integers_less_zero_points_times_scales(
    tmp_path: Path, bits: int, groups: int, zeros: bool
) -> None:
    rng = np.random.default_rng(1)
    half = 1 << (bits - 1)
    codes = rng.integers(-half, half, (5, 96)).astype(np.int8)
    scales = torch.from_numpy(rng.uniform(0.1, 0.2, (5, groups))).bfloat16()
    offsets = rng.integers(-half, half, (5, groups)).astype(np.int8)
    stored = {"qdata": torch.from_numpy(codes), "scale": scales}
    weight = read(tmp_path, stored | ({"zero_point": torch.from_numpy(offsets)} if zeros else {}), bits)
    each, zero = (np.repeat(one, 96 // groups, 1) for one in (scales.double().numpy(), offsets.astype(int) * zeros))
    np.testing.assert_array_equal(weight.rows(0, 5), ((codes - zero) * each).astype(np.float32))
    np.testing.assert_array_equal(weight.rows(2, 4), ((codes - zero) * each).astype(np.float32)[2:4])
    assert weight.grid() == Grid(bits, 96 // groups if groups > 1 else 0, symmetric=not zeros)


def test_what_the_library_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("torchao.quantization")
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization.granularity import PerGroup

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(96, 8, bias=False))
    library.quantize_(model, library.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
    stored, _ = flatten_tensor_state_dict(model.state_dict())
    weight = read(tmp_path, {key.removeprefix("0._weight_"): value for key, value in stored.items()}, 4)
    np.testing.assert_array_equal(weight.rows(0, 8), model[0].weight.dequantize().numpy())
    assert isinstance(weight.grid(), Grid)


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({"qdata": torch.zeros(4, 8, 2, 4, dtype=torch.int32), "scale": torch.zeros(2, 4)}, "one in a byte; save it"),
        ({"qdata": torch.zeros(4, 64).char(), "scale": torch.zeros(2, 4)}, r"are floats \(4, groups\)"),
        ({"qdata": torch.full((4, 64), 9).char(), "scale": torch.zeros(4, 2)}, "integers beyond 4 bits"),
        ({"qdata": torch.zeros(4, 64).char()}, r"x\._weight_scale is not"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, stored: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, stored, 4).rows(0, 4)
