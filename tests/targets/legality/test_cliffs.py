"""Slow kernels: warnings follow the measured table, and say what was not measured."""

import legality_models as models
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgepress.onnx_graph.view import view
from edgepress.targets import find_target
from edgepress.targets.legality import cliffs
from edgepress.targets.legality.cliffs import STEEP, Product, counted, measured, product_warnings, slow_kernels

X86, ARM, WASM = (find_target(name) for name in ("x86-cpu", "arm64-cpu", "wasm"))


def warnings_of(model: onnx.ModelProto, target: str = "x86-cpu") -> list[str]:
    return list(slow_kernels(find_target(target), view(model)))


def test_the_measured_table_is_whole() -> None:
    table = measured()
    assert {(product.bits, product.block) for product in table.times} == {
        (bits, block) for bits in (2, 4, 8) for block in (16, 32, 64, 128, 256)
    }
    assert {product.accuracy_level for product in table.times} == {0, 1, 2, 3, 4}
    assert table.refused == {(bits, block) for bits in (2, 4, 8) for block in (8, 24, 48, 512)}
    assert all(microseconds > 0 for times in table.times.values() for microseconds in times.values())
    assert table.cpu
    assert table.onnxruntime


@pytest.mark.parametrize("phase", cliffs.PHASES)
def test_the_best_of_each_bits_is_one_times_as_long(phase: str) -> None:
    table = measured()
    for bits in (2, 4, 8):
        same = [product for product in table.times if product.bits == bits]
        assert min(table.slowdown(product, phase) for product in same) == 1.0


def test_a_warning_is_there_exactly_for_what_the_table_calls_steep() -> None:
    table = measured()
    for product in table.times:
        steep = any(table.slowdown(product, phase) >= STEEP for phase in cliffs.PHASES)
        assert bool(list(product_warnings(X86, product))) == steep


def test_the_change_that_a_warning_names_was_measured_to_be_fast() -> None:
    (warning,) = product_warnings(X86, Product(4, 32, 0, "float", False))
    assert "use accuracy level 4 (measured on" in warning
    better = Product(4, 32, 4, "float", False)
    assert all(measured().slowdown(better, phase) < STEEP for phase in cliffs.PHASES)


@pytest.mark.parametrize("block", [16, 256])
def test_two_bits_are_slow_outside_blocks_of_32_to_128(block: int) -> None:
    (warning,) = warnings_of(models.matmul_nbits(2, block))
    assert warning.startswith(f"1 × MatMulNBits of 2 bits, block {block}, accuracy level 4, float32 takes ")
    assert "use block" in warning
    assert not warnings_of(models.matmul_nbits(2, 128))


def test_a_fast_product_has_no_warning_on_x86() -> None:
    assert warnings_of(models.matmul_nbits(4, 32)) == []
    assert warnings_of(models.matmul_nbits(8, 32, kind=TensorProto.FLOAT16)) == []


def test_on_arm_a_measurement_of_another_machine_says_so() -> None:
    found = warnings_of(models.matmul_nbits(4, 32, level=0), "arm64-cpu")
    assert any("not measured on arm64-cpu" in warning for warning in found)


def test_what_is_known_of_arm_is_labelled_as_not_measured() -> None:
    found = warnings_of(models.matmul_nbits(4, 32), "android-cpu")
    assert any("need dotprod" in warning for warning in found)
    found = [warning for warning in found if "counted on" not in warning]
    assert all(warning.endswith("(from onnxruntime's sources, not measured)") for warning in found)
    assert not any("KleidiAI" in warning for warning in found)
    with_zero_points = warnings_of(models.matmul_nbits(4, 32, zero_points=True), "arm64-cpu")
    assert any("KleidiAI" in warning for warning in with_zero_points)


@pytest.mark.parametrize("block", [32, 128])
def test_eight_bits_on_arm_without_dotprod_are_known_by_their_count(block: int) -> None:
    without = next(table for table in counted() if table.cpu == "cortex-a53")
    product = Product(8, block, 4, "float", False)
    found = [warning for warning in warnings_of(models.matmul_nbits(8, block), "arm64-cpu") if "counted on" in warning]
    (warning,) = found
    assert "on CPUs without dotprod" in warning
    assert f"{without.ratio(product, 'decode'):.1f} times as many in decode" in warning
    assert f"; bits 4{', block 128' * (block != 128)}: " in warning
    assert warning.endswith("counts are no times)")
    assert not any("counted on" in warning for warning in warnings_of(models.matmul_nbits(8, block)))


def test_counts_warn_of_what_is_steep_and_of_nothing_else() -> None:
    for table in counted():
        for product in table.counts:
            steep = any(table.ratio(product, phase) >= STEEP for phase in cliffs.PHASES)
            label = f"counted on an emulated {table.cpu}, "
            assert any(label in warning for warning in product_warnings(ARM, product)) == steep


def test_float16_products_end_the_process_on_arm_cpus_without_it() -> None:
    half = models.matmul_nbits(4, 32, kind=TensorProto.FLOAT16)
    [warning] = [warning for warning in warnings_of(half, "arm64-cpu") if "ends the process" in warning]
    assert "such as Cortex-A53: run a float32 graph there" in warning
    assert not any("ends the process" in warning for warning in warnings_of(half))


@pytest.mark.parametrize("bits", [8, 4])
def test_keys_and_values_in_integers_cost_instructions_on_arm(bits: int) -> None:
    found = warnings_of(attention(bits), "arm64-cpu")
    assert len(found) == len(counted())
    for warning, table in zip(found, counted(), strict=True):
        ratio = table.cache_ratio(f"int{bits}", "prefill")
        assert ratio > STEEP
        assert warning.startswith(f"1 × GroupQueryAttention with keys and values in int{bits} takes more instructions")
        assert f"{ratio:.1f} times as many in prefill after 1,024 tokens" in warning
        assert f"counted on an emulated {table.cpu}, " in warning
    assert not warnings_of(attention(bits))
    assert not warnings_of(attention(None), "arm64-cpu")


def attention(bits: int | None) -> onnx.ModelProto:
    """GroupQueryAttention of 2 heads, keys and values stored in so many bits where that is a number."""
    stored = {None: TensorProto.FLOAT, 8: TensorProto.INT8, 4: TensorProto.UINT8}[bits]
    attributes: dict[str, object] = {"num_heads": 2, "kv_num_heads": 1}
    names, scales = ["q", "k", "k", "past", "past", "seqlens", "total"], {}
    if bits is not None:
        attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": bits}
        names += [*([""] * 5), "scale", "scale"]
        scales = {"scale": np.array([0.1], np.float32)}
    node = models.node("GroupQueryAttention", names, ["y", "key", "value"], domain="com.microsoft", **attributes)
    width = 4 if bits == 4 else 8
    inputs = [models.value("q", (1, 1, 16)), models.value("k", (1, 1, 8))]
    inputs += [models.value("past", (1, 1, 3, width), stored), models.value("seqlens", (1,), TensorProto.INT32)]
    inputs += [models.value("total", (), TensorProto.INT32)]
    outputs = [models.value(name, (1, 1, 4, width), stored) for name in ("key", "value")]
    outputs = [models.value("y", (1, 1, 16)), *outputs]
    return models.model([node], inputs, outputs, scales)


def test_float16_without_a_kernel_is_named() -> None:
    nodes = [models.node("Tanh", ["x"], ["y"])]
    values = [models.value(name, (2,), TensorProto.FLOAT16) for name in "xy"]
    (warning,) = warnings_of(models.model(nodes, values[:1], values[1:]))
    assert warning.startswith("1 × ai.onnx:Tanh in float16: there is no such kernel")


def test_float16_of_products_has_kernels_on_some_arm_cpus() -> None:
    nodes = [models.node("MatMul", ["x", "x"], ["y"])]
    values = [models.value(name, (2, 2), TensorProto.FLOAT16) for name in "xy"]
    model = models.model(nodes, values[:1], values[1:])
    (warning,) = warnings_of(model, "arm64-cpu")
    assert "no such kernel on CPUs without half-precision arithmetic" in warning
    (warning,) = warnings_of(model)
    assert "no such kernel, so" in warning


def test_accelerators_have_no_cliffs_of_the_cpus() -> None:
    assert warnings_of(models.matmul_nbits(4, 32, level=0), "android-nnapi") == []
