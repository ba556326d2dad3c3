"""What kernels hold of a weight, by formula, against what onnxruntime writes when it packs one: here, and emulated."""

import itertools
import platform
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.runtime.profile.roofline.kernels import (
    float32_model,
    kind_of_kernels,
    packed_by_onnxruntime,
    packed_there,
    quantized_model,
)
from edgepress.targets.devices.packing import KINDS, Kind, Weight, held_bytes, packed_bytes, packed_float_bytes
from edgepress.targets.emulator import Call, Installation, run

WEIGHTS = st.builds(
    Weight, rows=st.integers(1, 70), depth=st.integers(1, 400), bits=st.sampled_from((2, 4, 8)),
    block=st.sampled_from((16, 32, 64, 128)), accuracy_level=st.sampled_from((0, 4)), zero_points=st.booleans(),
    half=st.booleans(),
)  # fmt: skip


@pytest.fixture(scope="module")
def here() -> Kind:
    kind = kind_of_kernels()
    if kind == "as stored":
        pytest.skip("how onnxruntime packs on this processor is not known: it packs nothing, or in a way of its own")
    return kind


def test_this_processor_is_of_a_kind_of_its_architecture(here: Kind) -> None:
    arm = platform.machine().lower() in ("aarch64", "arm64")
    assert here.startswith("arm64" if arm else "x86-64")


@settings(max_examples=60)
@given(WEIGHTS)
def test_onnxruntime_packs_into_as_many_bytes(here: Kind, weight: Weight) -> None:
    assert packed_bytes(weight, here) == packed_by_onnxruntime(quantized_model(weight))


@given(st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=10)
def test_a_float32_weight_is_packed_by_rows_together(depth: int, columns: int) -> None:
    assert packed_float_bytes(columns, depth) == packed_by_onnxruntime(float32_model(depth, columns))


@pytest.mark.parametrize(
    ("cpu", "kind"), [("cortex-a53", "arm64-plain"), ("cortex-a76", "arm64"), ("neoverse-n2", "arm64-i8mm")]
)
def test_emulated_processors_pack_into_as_many(emulator: Installation, cpu: str, kind: Kind) -> None:
    """Schemes in a shape that tiles do not divide, and one that blocks do not."""
    schemes = itertools.product((2, 4, 8), (16, 32, 128), (False, True))
    weights = [Weight(5, 192, bits, block, 4, zero) for bits, block, zero in schemes]
    weights += [Weight(70, 200, bits, 64, level) for bits in (2, 4, 8) for level in (0, 4)]
    weights += [Weight(5, 192, bits, 32, 4, half=True) for bits in (4, 8)]
    fields = [asdict(weight) for weight in weights]
    [(found, _)] = run(emulator, cpu, [Call(packed_there, {"weights": fields})])
    assert found["kind"] == kind
    assert found["packed"] == [packed_bytes(weight, kind) for weight in weights]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs this machine's own Python, which is not x86-64")
def test_so_does_one_of_x86_64_without_vnni(emulator: Installation) -> None:
    weights = [Weight(70, 200, bits, block, 4) for bits in (2, 4, 8) for block in (16, 64)]
    call = Call(packed_there, {"weights": [asdict(weight) for weight in weights]})
    [(found, _)] = run(emulator, "Haswell-noTSX", [call])
    assert (found["kind"], found["packed"]) == ("x86-64", [packed_bytes(weight, "x86-64") for weight in weights])


@given(WEIGHTS, st.sampled_from(KINDS))
def test_what_is_held_has_all_codes_and_scales(weight: Weight, kind: Kind) -> None:
    """A scale is in what is packed, in 2 bytes at least, or beside it."""
    held = held_bytes(weight, kind)
    assert held >= packed_bytes(weight, kind)
    assert held >= weight.rows * (-(-weight.depth * weight.bits // 8) + 2 * weight.blocks)
