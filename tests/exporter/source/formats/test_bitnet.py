"""BitNet's files: what they hold is what their description says, bit by bit, and what transformers packs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import save_packed
from safetensors.torch import save_file
from transformers.integrations.bitnet import pack_weights

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import bitnet
from edgepress.exporter.source.packed import Grid
from edgepress.exporter.source.stored import StoredTensor, read_header


def config(linear_class: str, **more: object) -> dict[str, object]:
    return {"quantization_config": {"quant_method": "bitnet", "linear_class": linear_class} | more}


def ternary(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, shape)


def read(section: dict[str, object], tensors: dict[str, StoredTensor]) -> str:
    found = Config(section).section("quantization_config")
    assert found is not None
    return bitnet.read(found, tensors)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_every_weight_of_a_checkpoint_is_read_and_kept(tmp_path: Path, linear_class: str) -> None:
    """Packed by transformers; the bundle of ``keep`` has 2 bits of each weight, and not one differs."""

    def packed(name: str, weight: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        steps = ternary(weight.shape, len(name))
        scale = torch.tensor([2.0 ** -(len(name) % 4)])  # float16 has it, and one over it
        unit = 1 / np.float32(scale[0]) if linear_class == "bitlinear" else np.float32(scale[0])
        stored = {"weight": pack_weights(torch.from_numpy(steps.copy())), "weight_scale": scale.bfloat16()}
        return stored, (steps * unit).astype(np.float32)

    directory, plain = save_packed(tmp_path / "model", packed, config(linear_class), family="bitnet")
    checkpoint = Checkpoint.open(directory)
    assert {*checkpoint.tensors} == {*plain}
    for name, expected in plain.items():
        np.testing.assert_array_equal(checkpoint.rows(name, 0, len(expected)), expected.numpy(), strict=True)
    assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].grid() == Grid(2, 0, symmetric=True)
    plan = decide(directory, target="arm64-cpu", recipe="keep").plan
    bits = {tensor.scheme.bits for tensor in plan.tensors if tensor.scheme and tensor.weight.kind == "linear"}
    assert bits == {2}
    export(directory, out=tmp_path / "bundle", target="arm64-cpu", recipe="keep", threads=1)
    stored = StoredWeights(tmp_path / "bundle" / DATA_FILE, plan)
    for name in plain:
        if name.endswith("_proj.weight"):
            np.testing.assert_array_equal(stored(name), plain[name].numpy(), strict=True)


@settings(max_examples=30)
@given(quarter=st.integers(1, 6), columns=st.integers(1, 9), seed=st.integers(0, 2**16), data=st.data())
def test_rows_are_what_the_bits_say(
    tmp_path_factory: pytest.TempPathFactory, quarter: int, columns: int, seed: int, data: st.DataObject
) -> None:
    steps = ternary((4 * quarter, columns), seed)
    stored = np.zeros((quarter, columns), np.uint8)
    for row, values in enumerate(steps):
        for column, step in enumerate(values):
            stored[row % quarter, column] |= (step + 1) << (2 * (row // quarter))
    file = tmp_path_factory.mktemp("bitnet") / "model.safetensors"
    save_file({"x.weight": torch.from_numpy(stored), "x.weight_scale": torch.tensor([0.25])}, file)
    tensors = read_header(file)
    read(config("autobitlinear"), tensors)
    start = data.draw(st.integers(0, 4 * quarter - 1))
    stop = data.draw(st.integers(start + 1, 4 * quarter))
    weight = tensors["x.weight"]
    assert isinstance(weight, bitnet.TernaryWeight)
    np.testing.assert_array_equal(weight.rows(start, stop), (steps[start:stop] * 0.25).astype(np.float32), strict=True)
    np.testing.assert_array_equal(weight.codes(start, stop).values, steps[start:stop] + 2)


def test_floats_become_ternary_by_the_mean_of_the_whole_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = {name: rng.normal(size=(24, 32)), "model.embed_tokens.weight": rng.normal(size=(8, 32))}
    file = tmp_path / "model.safetensors"
    save_file({key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.items()}, file)
    tensors = read_header(file)
    assert (
        read(config("autobitlinear", quantization_mode="online"), tensors) == "BitNet, ternary weights made of floats"
    )
    mean = np.abs(weights[name]).mean()
    expected = np.clip(np.round(weights[name] / mean), -1, 1) * mean
    np.testing.assert_allclose(tensors[name].rows(3, 20), expected[3:20], rtol=1e-6)
    assert not isinstance(tensors["model.embed_tokens.weight"], bitnet.RoundedWeight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"linear_class": "other"}}, "linear_class = 'other'"),
        ({"quantization_config": {"quantization_mode": "later"}}, "quantization_mode = 'later'"),
        ({"quantization_config": {"use_rms_norm": True}}, "use_rms_norm = True: norms inside"),
    ],
)
def test_what_is_not_read_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        read(changes, {})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.weight": torch.zeros(4, 8), "x.weight_scale": torch.ones(1)}, "codes are a matrix of U8"),
        ({"x.weight": torch.zeros(2, 8, dtype=torch.uint8), "x.weight_scale": torch.ones(2)}, "is one float"),
        ({"x.weight_scale": torch.ones(1)}, "x.weight is not"),
    ],
)
def test_tensors_that_are_not_as_described_are_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as error:
        read(config("autobitlinear"), read_header(tmp_path / "model.safetensors"))
    assert message in str(error.value)
