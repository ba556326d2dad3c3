"""bitsandbytes: what its files hold is what their description says, and what the library itself makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import bitsandbytes
from edgepress.exporter.source.packed import Grid, PackedTensor
from edgepress.exporter.source.stored import read_header

Tensors = dict[str, torch.Tensor]


def read(folder: Path, stored: Tensors) -> PackedTensor:
    save_file({f"x.{key}": value.contiguous() for key, value in stored.items()}, folder / "model.safetensors")
    tensors = read_header(folder / "model.safetensors")
    bitsandbytes.read(Config({"quant_method": "bitsandbytes"}), tensors)
    assert [*tensors] == ["x.weight"]
    found = tensors["x.weight"]
    assert isinstance(found, PackedTensor)
    return found


def state(shape: tuple[int, int], block: int, nested: int, offset: float) -> torch.Tensor:
    values: dict[str, object] = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    if nested:
        values |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": offset}
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    block=st.sampled_from([4, 16, 64]),
    nested=st.sampled_from([0, 4, 256]),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    block: int,
    nested: int,
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    codes = [int(code) for code in rng.integers(0, 16, rows * columns)]
    blocks = -(-len(codes) // block)
    levels, table = rng.normal(size=16).astype(np.float32), rng.normal(size=256).astype(np.float32)
    padded = [*codes, 0] if len(codes) % 2 else codes
    stored = {
        "weight": torch.tensor([[16 * a + b] for a, b in zip(padded[::2], padded[1::2], strict=True)]).byte(),
        "weight.quant_map": torch.from_numpy(levels),
        "weight.quant_state.bitsandbytes__nf4": state((rows, columns), block, nested, 0.5),
    }
    if nested:
        small = rng.integers(0, 256, blocks)
        outer = rng.normal(size=-(-blocks // nested)).astype(np.float32)
        scales = [np.float32(table[one] * outer[at // nested]) + np.float32(0.5) for at, one in enumerate(small)]
        stored |= {
            "weight.absmax": torch.from_numpy(small).byte(),
            "weight.nested_absmax": torch.from_numpy(outer),
            "weight.nested_quant_map": torch.from_numpy(table),
        }
    else:
        scales = list(rng.normal(size=blocks).astype(np.float32))
        stored["weight.absmax"] = torch.tensor(np.array(scales))
    flat = [np.float32(levels[code] * scales[at // block]) for at, code in enumerate(codes)]
    expected = np.array(flat, np.float32).reshape(rows, columns)
    weight = read(tmp_path_factory.mktemp("levels"), stored)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    np.testing.assert_array_equal(weight.rows(start, stop), expected[start:stop])
    assert weight.grid() == "its 16 levels are not evenly spaced"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_what_the_library_writes_is_read_as_it_reads_it(tmp_path: Path, kind: str, double: bool) -> None:
    library = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(1)
    codes, found = library.quantize_4bit(torch.randn(64, 96), quant_type=kind, compress_statistics=double, blocksize=64)
    stored = {"weight": codes} | {f"weight.{key}": value for key, value in found.as_dict(packed=True).items()}
    stored = {key.replace("weight.weight.", "weight."): value for key, value in stored.items()}
    found.shape = torch.Size([64 * 96])  # its kernel for matrices takes other scales where rows are no whole blocks
    expected = library.dequantize_4bit(codes, found).numpy().reshape(64, 96)
    np.testing.assert_allclose(read(tmp_path, stored).rows(0, 64), expected, rtol=1e-6)


def test_eight_bits_are_a_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    codes, scales = rng.integers(-127, 128, (6, 40)).astype(np.int8), rng.uniform(1, 2, 6).astype(np.float32)
    stored = {"weight": torch.from_numpy(codes), "SCB": torch.from_numpy(scales), "weight_format": torch.zeros(1)}
    weight = read(tmp_path, stored)
    np.testing.assert_allclose(weight.rows(0, 6), codes * (scales[:, None].astype(np.float64) / 127), rtol=1e-6)
    np.testing.assert_array_equal(weight.codes(1, 3).values, codes[1:3].astype(int) + 128)
    assert weight.grid() == Grid(8, 0, symmetric=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight.absmax": None}, r"x\.weight\.absmax is not"),
        ({"weight.absmax": torch.zeros(3)}, "in blocks of 64 it is F32 of 4"),
        ({"weight": torch.zeros(5, 1).byte()}, "it is U8 of 128"),
        ({"weight.quant_state.bitsandbytes__nf4": state((0, 4), 64, 0, 0.0)}, r"shape = \[0, 4\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, torch.Tensor | None], says: str) -> None:
    stored: dict[str, torch.Tensor | None] = {
        "weight": torch.zeros(128, 1).byte(),
        "weight.absmax": torch.zeros(4),
        "weight.quant_map": torch.zeros(16),
        "weight.quant_state.bitsandbytes__nf4": state((8, 32), 64, 0, 0.0),
    }
    with pytest.raises(InputError, match=says):
        read(tmp_path, {key: value for key, value in (stored | change).items() if value is not None})
