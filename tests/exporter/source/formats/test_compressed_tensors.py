"""compressed-tensors: what its files hold is what their description says, and what the library itself makes of them."""

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
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import compressed_tensors
from edgepress.exporter.source.packed import Codes, Grid, PackedTensor
from edgepress.exporter.source.stored import read_header

Tensors = dict[str, torch.Tensor]


def config(bits: int, form: str = "pack-quantized", **weights: object) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", **weights}}
    values = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}
    return {"quantization_config": values}


def pack(found: Affine, bits: int, *, zeros: bool) -> Tensors:
    tensors = {
        "weight_packed": int32([words(row, bits) for row in found.codes]),
        "weight_scale": torch.from_numpy(found.scales).to(torch.bfloat16),
        "weight_shape": torch.tensor(found.codes.shape),
    }
    if zeros:
        tensors["weight_zero_point"] = int32([words(column, bits) for column in found.zeros.T]).T.contiguous()
    return tensors


def in_bfloat16(found: Affine) -> Affine:
    scales = torch.from_numpy(found.scales).to(torch.bfloat16).float().numpy()
    return Affine(found.codes, scales, found.zeros, found.groups)


@pytest.mark.parametrize(
    ("bits", "group", "zeros", "act_order"),
    [(4, 32, False, False), (4, 0, True, False), (8, 32, True, True), (2, 32, False, True)],
)
def test_every_packed_weight_of_a_checkpoint_is_read(
    tmp_path: Path, bits: int, group: int, zeros: bool, act_order: bool
) -> None:
    def packed(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        found = in_bfloat16(rounded(weight, bits, group, symmetric=not zeros, seed=len(name)))
        if not act_order:
            return pack(found, bits, zeros=zeros), found.weight
        np.random.default_rng(1).shuffle(found.groups)
        index = {"weight_g_idx": torch.from_numpy(found.groups.astype(np.int32))}
        return pack(found, bits, zeros=zeros) | index, found.weight

    directory, plain = save_packed(tmp_path / "model", packed, config(bits))
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy(), strict=True)
    weight = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(weight, PackedTensor)
    assert weight.grid() == Grid(bits, group, symmetric=not zeros)
    order = weight.order()
    assert (order is None) == (not act_order)
    if order is not None:
        assert weight.codes(0, 8).values.shape == (8, len(order))
        found = weight.codes(0, 8).dequantize(Grid(bits, group, symmetric=not zeros))  # neighbours have one group
        np.testing.assert_array_equal(found, weight.rows(0, 8)[:, order])


@settings(max_examples=30)
@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 40),
    groups=st.integers(1, 3),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    zeros=st.booleans(),
    data=st.data(),
)
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    rows: int,
    groups: int,
    size: int,
    seed: int,
    zeros: bool,
    data: st.DataObject,
) -> None:
    found = in_bfloat16(rounded(np.ones((rows, groups * size)), bits, size, symmetric=not zeros, seed=seed))
    file = tmp_path_factory.mktemp("packed") / "model.safetensors"
    save_file({f"x.{key}": value for key, value in pack(found, bits, zeros=zeros).items()}, file)
    tensors = read_header(file)
    section = Config(config(bits)).section("quantization_config")
    assert section is not None
    compressed_tensors.read(section, tensors)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    weight = tensors["x.weight"]
    assert isinstance(weight, PackedTensor)
    np.testing.assert_array_equal(weight.rows(start, stop), found.weight[start:stop], strict=True)
    np.testing.assert_array_equal(weight.codes(start, stop).values, found.codes[start:stop])


INTEGERS = {
    "a row": ((64, 1), False),
    "a row with zero points": ((64, 1), True),
    "the tensor": ((1,), False),
    "groups": ((64, 4), True),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_bytes_with_a_scale_for(kind: str, tmp_path: Path) -> None:
    shape, zeros = INTEGERS[kind]
    rng = np.random.default_rng(1)
    codes = rng.integers(-128, 128, (64, 128)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, shape).astype(np.float32)
    offsets = rng.integers(-128, 128, shape).astype(np.int8)
    stored = {"x.weight": torch.from_numpy(codes), "x.weight_scale": torch.from_numpy(scales)}
    stored |= {"x.weight_zero_point": torch.from_numpy(offsets)} if zeros else {}
    save_file(stored | {"x.input_scale": torch.ones(1)}, tmp_path / "model.safetensors")
    tensors = read_header(tmp_path / "model.safetensors")
    section = Config(config(8, "int-quantized")).section("quantization_config")
    assert section is not None
    compressed_tensors.read(section, tensors)
    assert [*tensors] == ["x.weight"]
    weight = tensors["x.weight"]
    assert isinstance(weight, PackedTensor)

    def each(values: np.ndarray) -> np.ndarray:  # a value for each element
        values = values.reshape(1, 1) if values.size == 1 else values
        return np.repeat(np.repeat(values, 64 // values.shape[0], 0), 128 // values.shape[1], 1).astype(np.float64)

    expected = (codes - (each(offsets) if zeros else 0)) * each(scales)
    np.testing.assert_array_equal(weight.rows(0, 64), expected.astype(np.float32))
    np.testing.assert_array_equal(weight.rows(9, 11), expected.astype(np.float32)[9:11])
    grid = weight.grid()
    assert grid == Grid(8, 32 if kind == "groups" else 0, symmetric=not zeros)
    assert isinstance(weight.codes(0, 64), Codes)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("block", [(64, 128), (1, 128), (1, 32), (16, 48)])
def test_floats_of_8_bits_with_a_scale_a_block(tmp_path: Path, dtype: torch.dtype, block: tuple[int, int]) -> None:
    torch.manual_seed(1)
    codes = torch.randn(64, 128).mul(10).to(dtype)
    scales = torch.rand(-(-64 // block[0]), -(-128 // block[1])) + 0.5
    save_file({"x.weight": codes, "x.weight_scale": scales}, tmp_path / "model.safetensors")
    tensors = read_header(tmp_path / "model.safetensors")
    section = Config(config(8, "float-quantized", block_structure=list(block))).section("quantization_config")
    assert section is not None
    compressed_tensors.read(section, tensors)
    each = scales.repeat_interleave(block[0], 0)[:64].repeat_interleave(block[1], 1)[:, :128]
    expected = (codes.float() * each).numpy()
    np.testing.assert_array_equal(tensors["x.weight"].rows(0, 64), expected)
    np.testing.assert_array_equal(tensors["x.weight"].rows(15, 33), expected[15:33])


@pytest.mark.parametrize(
    ("bits", "strategy", "symmetric", "form"),
    [
        (4, "group", True, "pack-quantized"),
        (4, "group", False, "pack-quantized"),
        (8, "channel", False, "pack-quantized"),
        (3, "group", False, "pack-quantized"),
        (8, "channel", True, "int-quantized"),
        (8, "tensor", False, "int-quantized"),
    ],
)
def test_what_the_library_writes_is_read_as_it_reads_it(
    tmp_path: Path, bits: int, strategy: str, symmetric: bool, form: str
) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    size = 32 if strategy == "group" else None
    args = QuantizationArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, group_size=size)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    torch.manual_seed(1)
    weight = torch.randn(48, 96)
    pieces = (
        weight.reshape(48, -1, size) if size else weight[:, None] if strategy == "channel" else weight.reshape(1, 1, -1)
    )
    scale, zero = calculate_qparams(pieces.amin(-1), pieces.amax(-1), args)
    scale, zero = (scale[:, 0], zero[:, 0]) if strategy == "tensor" else (scale, zero)
    before = {"weight": weight, "weight_scale": scale} | ({} if symmetric else {"weight_zero_point": zero})
    library = BaseCompressor.get_value_from_registry(form)
    stored = library.compress(dict(before), scheme)
    expected = library.decompress(dict(stored), scheme)["weight"]
    save_file({f"x.{key}": value.contiguous() for key, value in stored.items()}, tmp_path / "model.safetensors")
    tensors = read_header(tmp_path / "model.safetensors")
    section = Config(config(bits, form)).section("quantization_config")
    assert section is not None
    compressed_tensors.read(section, tensors)
    np.testing.assert_array_equal(tensors["x.weight"].rows(0, 48), expected.numpy())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def packed(_name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        found = rounded(weight, 4, 32, symmetric=True, seed=1)
        return pack(found, 4, zeros=True), found.weight

    return save_packed(tmp_path_factory.mktemp("compressed") / "model", packed, config(4))[0]


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("weight_scale", None, f"{DOWN}.weight_scale is not"),
        ("weight_shape", None, f"{DOWN}.weight_shape is not"),
        ("weight_shape", torch.tensor([64, 120]), r"\[64, 120\] in one of \[4\] bits"),
        ("weight_packed", torch.zeros(64, 16, dtype=torch.uint8), "packed integers are a matrix of I32"),
        ("weight_scale", torch.zeros(64, 3), "columns in whole groups"),
        ("weight_zero_point", torch.zeros(9, 9, dtype=torch.int32), r"are I32 \[8, 4\]"),
        ("weight_g_idx", torch.zeros(5, dtype=torch.int32), r"groups of 128 columns are I32 \[128\]"),
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
        ({"format": "nvfp4-pack-quantized"}, "format = 'nvfp4-pack-quantized': not implemented; known: dense"),
        ({"config_groups": None}, "config_groups = None: must say how"),
        ({"transform_config": {"config_groups": {"u": {}}}}, "those of a rotated model"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "format = 'sparse-24-bitmask'"),
    ],
)
def test_a_setting_that_is_not_read_is_named(model: Path, tmp_path: Path, more: dict[str, object], says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    values = json.loads((model / "config.json").read_text())
    values["quantization_config"] |= more
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=says):
        Checkpoint.open(tmp_path)


def test_the_text_model_of_a_whole_is_read_and_its_other_tensors_stay(tmp_path: Path, model: Path) -> None:
    text = json.loads((model / "config.json").read_text())
    settings = text.pop("quantization_config")
    whole = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_config": {"a": 1}}
    (tmp_path / "config.json").write_text(
        json.dumps(whole | {"text_config": text, "quantization_config": settings, "tie_word_embeddings": False})
    )
    tensors = {f"language_model.{name}": value for name, value in load_file(model / "model.safetensors").items()}
    save_file(tensors | {"vision_tower.x.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    alone, found = Checkpoint.open(model), Checkpoint.open(tmp_path)
    assert {*found.tensors} == {*alone.tensors}
    assert [*found.left_out] == ["vision_tower.x.weight"]
    assert read_decoder(found) == read_decoder(alone)
    name = f"{DOWN}.weight"
    np.testing.assert_array_equal(found.rows(name, 0, 64), alone.rows(name, 0, 64))
