"""Integer products: layout, arithmetic, and that a graph of them computes what an oracle in float64 does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from oracles_decoder import forward
from sessions import genai_tokens, graph_logits, greedy_tokens

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.arrays import integer
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.bundle import stream
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.recipe.reading import PRESETS, read_recipe
from edgepress.runtime import evaluate
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file

# The head in float32, so that everything that is rounded is rounded as the recipe's activations say.
TABLES = '[weights]\nbits = 8\nblock_size = "channel"\n[embedding]\nbits = 32\n'
CALIBRATION = "[calibration]\nlength = 64\ntokens = 1024\n"
DYNAMIC = f'{TABLES}[activations]\ntype = "uint8"\nranges = "dynamic"\n'
TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 40)
FAMILIES = ["llama", "llama-biases-head_dim", "gpt2"]
PARALLEL = ["gpt_neox", "falcon-new", "cohere-norms", "phi"]  # attention and MLP read one norm, or one stream


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("integer")
    for name in (*FAMILIES, *PARALLEL, "mpt"):
        tiny_models.save(name, home / name)
    return home


@pytest.fixture(scope="module")
def text(home: Path) -> Path:
    path = home / "text.txt"
    path.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    return path


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def preset_for(tmp_path: Path, name: str) -> Path:
    """A preset with calibration sequences that fit the tiny models' context."""
    return recipe(tmp_path, (PRESETS / f"{name}.toml").read_text(encoding="utf-8") + CALIBRATION)


def rms(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(np.square(expected))))


def to_uint8(x: np.ndarray) -> np.ndarray:
    """ONNX's DynamicQuantizeLinear and back: one range for the whole tensor, 0 among its values."""
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = (high - low) / np.float32(255)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x.astype(np.float32) / scale) + zero_point, 0, 255) - zero_point) * np.float64(scale)


def round_dynamically(linear: Linear, x: np.ndarray) -> np.ndarray:
    if linear.weight.kind != "linear":
        return x
    if not linear.weight.name.endswith("mlp.down"):
        return to_uint8(x)
    size = np.abs(x).max(-1, keepdims=True)
    return to_uint8(x / size) * size


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_codes_are_the_stored_rows_within_a_step_and_scales_are_positive(rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    blocks = -(-columns // 16)
    values = random.integers(0, 256, (rows, blocks, 16)).astype(np.uint8)
    scales = random.choice(np.array([-2.0, -0.5, 0.0, 0.25, 3.0], np.float32), (rows, 1)).repeat(blocks, 1)
    codes, found = integer.to_integer(Quantized(values, scales), columns)
    stored = (values.reshape(rows, -1)[:, :columns].astype(np.float64) - 128) * scales[:, :1]
    assert codes.shape == (rows, columns)
    assert (found > 0).all()
    assert codes.min() >= 1  # −127 and not −128: what symmetric int8 allows
    difference = np.abs(integer.dequantize(codes, found) - stored)
    extreme = values.reshape(rows, -1)[:, :columns] == 0
    assert (difference[~extreme] == 0).all()
    assert (difference <= np.abs(scales[:, :1])).all()


@given(st.integers(1, 4), st.integers(1, 41), st.booleans(), st.integers(0, 2**32 - 1))
def test_pairs_fit_into_16_bits_and_lose_at_most_a_bit(rows: int, columns: int, learned: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal((rows, columns)) * random.choice([1e-3, 1.0, 50.0], (rows, 1))).astype(np.float32)
    scales = np.maximum(np.abs(x).max(1), 1e-6) / np.float32(127)
    codes = (np.clip(np.rint(x / scales[:, None]), -127, 127) + 128).astype(np.uint8)
    found, widened = integer.to_pairs(codes, scales, None if learned else x)
    assert found.dtype == np.int8
    assert found.min() >= -127
    assert integer.fits(found)
    whole = found.astype(np.int64)
    sums = [np.abs(whole[:, j : j + 2].sum(1)).max() for j in range(0, columns, 2)]
    assert 255 * max(sums) <= np.iinfo(np.int16).max
    assert (widened >= scales).all()
    step = 127 / 64 * scales[:, None]  # of seven bits, which fit whatever they are
    noise = np.square(integer.dequantize(found, widened) - x.astype(np.float64)).sum(1)
    seven = np.square(np.clip(np.rint(x / step), -64, 64) * step - x).sum(1)
    if not learned:
        assert (noise <= np.maximum(seven, columns * scales**2 / 4) * 1.001).all()
    kept = [bool(np.all(np.abs(np.add.reduceat(row, range(0, columns, 2))) <= 128)) for row in codes.astype(int) - 128]
    assert (found[kept] == (codes[kept].astype(np.int16) - 128)).all()  # a row whose pairs fit stays as it is


def test_wide_rows_lose_less_than_half_a_bit_for_their_pairs() -> None:
    x = np.random.default_rng(7).standard_normal((16, 1536)).astype(np.float32)
    scales = np.abs(x).max(1) / np.float32(127)
    codes = (np.clip(np.rint(x / scales[:, None]), -127, 127) + 128).astype(np.uint8)
    assert not integer.fits((codes.astype(np.int16) - 128).astype(np.int8))
    noise = [
        float(np.square(integer.dequantize(*found) - x).sum())
        for found in ((codes, scales), integer.to_pairs(codes, scales, x))
    ]
    assert noise[0] < noise[1] < 4**0.5 * noise[0]


@pytest.mark.parametrize(
    ("name", "target"), [*((name, "arm64-cpu") for name in (*FAMILIES, *PARALLEL)), ("llama", "wasm"), ("phi", "wasm")]
)
def test_dynamic_products_are_those_of_the_oracle(home: Path, tmp_path: Path, name: str, target: str) -> None:
    """On ARM and x86-64 of int8 weights whose pairs fit into 16 bits, so that no session saturates; else of uint8."""
    asked = recipe(tmp_path, DYNAMIC)
    manifest = export(home / name, out=tmp_path / "out", recipe=asked, target=target, check=True)
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 1e-5
    forms = {str(tensor["name"]): tensor["form"] for tensor in manifest.tensors}
    assert {form for tensor, form in forms.items() if ".mlp.up" in tensor or ".qkv" in tensor} - {"float"} == {
        "dynamic" if target == "wasm" else "dynamic pairs"
    }
    assert check_file(tmp_path / "out" / "model.onnx", find_target("x86-cpu")).products == ()
    plan = decide(home / name, target=target, recipe=asked)
    weights = StoredWeights(tmp_path / "out" / DATA_FILE, plan.plan)
    # In a longer text some value is so near the middle of two codes that the two take different sides.
    for length, tolerance in ((5, 1e-5), (len(TOKENS), 0.02)):
        tokens = TOKENS[:length]
        found = graph_logits(tmp_path / "out", [tokens])
        rounded = forward(plan.decoder, weights, tokens, rounding=round_dynamically)
        assert rms(found, rounded) < tolerance
        assert rms(found, rounded) < 0.5 * rms(found, forward(plan.decoder, weights, tokens)) < 0.05


def round_statically(scales: dict[str, tuple[float, int, int]]) -> Callable[[Linear, np.ndarray], np.ndarray]:
    """QuantizeLinear and back with the scale, zero point and largest code of each projection."""

    def rounding(linear: Linear, x: np.ndarray) -> np.ndarray:
        if linear.weight.name not in scales:
            return x
        scale, zero_point, top = scales[linear.weight.name]
        size = np.abs(x).max(-1, keepdims=True) if linear.weight.name.endswith("mlp.down") else np.float64(1)
        codes = np.clip(np.rint((x / size).astype(np.float32) / np.float32(scale)) + zero_point, 0, top)
        return (codes - zero_point) * np.float64(scale) * size

    return rounding


@pytest.mark.parametrize(
    ("name", "kind", "ranges"),
    [
        *((name, *how) for name in FAMILIES for how in (("uint8", "mse"), ("uint8", "minmax"), ("uint16", "minmax"))),
        *((name, "uint8", "mse") for name in (*PARALLEL, "mpt")),  # whose scores have ALiBi
    ],
)
def test_static_products_are_those_of_the_oracle(
    home: Path, tmp_path: Path, text: Path, name: str, kind: str, ranges: str
) -> None:
    asked = recipe(tmp_path, f'{TABLES}[activations]\ntype = "{kind}"\nranges = "{ranges}"\n{CALIBRATION}')
    out = tmp_path / "out"
    manifest = export(home / name, out=out, recipe=asked, calibration=[text], check=True)
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 1e-5
    prepared = decide(home / name, target="arm64-cpu", recipe=asked)
    data = (out / DATA_FILE).read_bytes()
    top = {"uint8": 255, "uint16": 65535}[kind]
    scales: dict[str, tuple[float, int, int]] = {}
    for tensor in prepared.plan.tensors:
        if tensor.weight.kind == "linear":
            scale, zero = (tensor.regions[part] for part in ("input_scale", "input_zero_point"))
            zero_point = int.from_bytes(data[zero.offset : zero.offset + zero.nbytes], "little")
            scales[tensor.weight.name] = (float(np.frombuffer(data, "<f4", 1, scale.offset)[0]), zero_point, top)
    weights = StoredWeights(out / DATA_FILE, prepared.plan)
    found = graph_logits(out, [TOKENS])
    rounded = forward(prepared.decoder, weights, TOKENS, rounding=round_statically(scales))
    exact = forward(prepared.decoder, weights, TOKENS)
    assert rms(found, rounded) < (0.02 if kind == "uint8" else 1e-3)
    assert rms(found, rounded) < 0.5 * rms(found, exact)
    assert rms(found, exact) < 0.15


def test_onnxruntime_makes_integer_kernels_of_static_products(home: Path, tmp_path: Path, text: Path) -> None:
    export(home / "llama", out=tmp_path / "out", recipe=preset_for(tmp_path, "int8-static"), calibration=[text])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options, providers=["CPUExecutionProvider"])
    operators = [
        node.op_type for node in onnx.load_model(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    ]
    assert operators.count("MatMulIntegerToFloat") == 15  # five projections in each of three layers
    assert "DequantizeLinear" not in operators


def test_products_do_not_overflow() -> None:
    """uint8 by int8 in sums of 16 bits would: the largest activations times the largest weights, all of one sign."""
    (weight_rows, columns), rng = (64, 96), np.random.default_rng(0)
    codes = rng.choice(np.array([1, 255], np.uint8), (columns, weight_rows))
    x = rng.uniform(0.9, 1.0, (1, 2, columns)).astype(np.float32)
    scales = np.full(weight_rows, 0.01, np.float32)
    inputs = ["x", "w", "s", "z"]
    node = onnx.helper.make_node("DynamicQuantizeMatMul", inputs, ["y"], domain="com.microsoft")
    constants = {"w": codes, "s": scales, "z": np.full(weight_rows, 128, np.uint8)}
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2, columns])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    expected = to_uint8(x) @ integer.dequantize(codes.T, scales).astype(np.float64).T
    assert rms(found, expected) < 1e-5


def test_columns_are_written_alike_whole_and_in_pieces(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(tmp_path, DYNAMIC)
    export(home / "llama", out=tmp_path / "whole", recipe=asked, threads=1)
    monkeypatch.setattr(stream, "_COLUMNS_CHUNK", 640)  # ten rows at a time
    export(home / "llama", out=tmp_path / "pieces", recipe=asked, threads=3)
    assert (tmp_path / "whole" / DATA_FILE).read_bytes() == (tmp_path / "pieces" / DATA_FILE).read_bytes()


def test_pieces_of_a_text_are_ranged_apart_and_a_token_of_its_own_best(home: Path, tmp_path: Path) -> None:
    export(home / "llama", out=tmp_path / "out", recipe=recipe(tmp_path, DYNAMIC))
    reference = Reference(home / "llama").logits(TOKENS)
    whole, single = (graph_logits(tmp_path / "out", pieces) for pieces in ([TOKENS], list(TOKENS[:, None])))
    assert not np.array_equal(whole, single)
    assert rms(single, reference) < 0.06


@pytest.mark.parametrize("preset", ["int8-dynamic", "int8-static", "int8-static-a16"])
def test_the_runtime_scores_every_position_from_bundle_and_prepared_form(
    home: Path, tmp_path: Path, text: Path, preset: str
) -> None:
    """onnxruntime merges equal constants: one that is −1 would be overridden together with logits_start."""
    export(home / "llama", out=tmp_path / "out", recipe=preset_for(tmp_path, preset), calibration=[text])
    reference = Reference(home / "llama")
    found = [
        evaluate(tmp_path / "out", [tiny_models.TEXT], context=64, stride=32, reference=reference, prepared=prepared)
        for prepared in (False, True)
    ]
    assert found[0].kl == pytest.approx(found[1].kl, rel=1e-3)
    assert found[0].kl is not None
    assert found[0].kl < 0.05


@pytest.mark.parametrize("preset", ["int8-dynamic", "int8-static", "int8-static-a16"])
def test_genai_gives_the_same_greedy_tokens(home: Path, tmp_path: Path, text: Path, preset: str) -> None:
    pytest.importorskip("onnxruntime_genai")
    prompt, steps = TOKENS[:12], 16
    export(home / "llama", out=tmp_path / "out", recipe=preset_for(tmp_path, preset), calibration=[text])
    found = genai_tokens(tmp_path / "out", prompt, steps)
    assert len(found) > len(prompt)
    assert found == greedy_tokens(tmp_path / "out", prompt, steps)[: len(found)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[weights]\nbits = 4\n[activations]\ntype = "uint8"\n', r"layers\.0.*4 bits, block 32 by \[weights\]"),
        (f'{DYNAMIC}[[override]]\nmatch = "layers.1.mlp.up"\nsymmetric = false\n', r"layers\.1\.mlp\.up.*zero points"),
        (f'{TABLES}[activations]\ntype = "int9"\n', r"type must be one of .*'int9'"),
        (f'{TABLES}[activations]\ntype = "uint8"\nranges = "loud"\n', r"ranges must be one of .*'loud'"),
        (f'{TABLES}[activations]\ntype = "uint16"\n', 'ranges = "dynamic" needs type = "uint8"'),
        (f'{TABLES}[activations]\ntype = "uint16"\nranges = "entropy"\n', "minmax, percentile or mse"),
        (f'{TABLES}[activations]\nranges = "mse"\n', "ranges is for integers"),
        (f'{TABLES}[activations]\ntype = "uint8"\nranges = "percentile"\npercentile = 20\n', "above 50.* not 20"),
        (f"{TABLES}[activations]\nbits = 8\n", r"\[activations\] unknown key 'bits'"),
        (f"activations = 8\n{TABLES}", r"\[activations\] must be a table"),
    ],
)
def test_what_cannot_be_is_one_clear_error(home: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decide(home / "llama", target="arm64-cpu", recipe=recipe(tmp_path, text))


def test_a_projection_may_stay_float_and_a_head_in_blocks(home: Path, tmp_path: Path) -> None:
    text = DYNAMIC.replace("bits = 32", "bits = 8\nblock_size = 32") + '[[override]]\nmatch = "*.down"\nbits = 32\n'
    plan = decide(home / "llama", target="arm64-cpu", recipe=recipe(tmp_path, text)).plan
    forms = {tensor.weight.name: (tensor.form, tensor.reason) for tensor in plan.tensors}
    assert forms["layers.0.mlp.up"] == (
        "dynamic pairs",
        "[weights]; uint8 activations, dynamic ranges by [activations]; int8 whose pairs fit into 16 bits",
    )
    assert forms["layers.0.mlp.down"][0] == "float"
    assert forms["head"][0] == "blocks"
    assert "float32 activations" in forms["head"][1]
    assert read_recipe("int8-dynamic").activations.is_integer
