"""QDQ models: what their integers are, against arithmetic by hand; what is refused; what keeps its codes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from qdq_models import block, block_feed, codes, decibels, initializers, makers, save_model

from edgepress.errors import InputError
from edgepress.exporter.graph.qdq import WIDTHS, Ranges, Rounded, calibrate, find_widths, quantize, write_models
from edgepress.exporter.recipe.recipe import Activations
from edgepress.sessions import open_on_cpu
from edgepress.targets import find_target, target_names

ALL = pytest.mark.parametrize("name", sorted(WIDTHS))


def settings(name: str) -> Activations:
    return Activations(WIDTHS[name].activations, "minmax")


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    outputs: list[np.ndarray] = open_on_cpu(model.SerializeToString()).run(None, feed)
    return outputs


def perceptron(path: Path, *, opset: int = 21) -> Path:
    random = np.random.default_rng(3)
    constants = {
        "w": random.standard_normal((6, 5)).astype(np.float32),
        "b": random.standard_normal(6).astype(np.float32),
        "head": random.standard_normal((6, 4)).astype(np.float32),
    }
    nodes = [
        ("Gemm", ["x", "w", "b"], "hidden", {"transB": 1}),
        ("Relu", ["hidden"], "relu", {}),
        ("MatMul", ["relu", "head"], "y", {}),
    ]
    return save_model(path, nodes, {"x": (3, 5)}, {"y": (3, 4)}, constants, opset=opset)


def data(count: int = 30) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(7)
    return [{"x": random.standard_normal((3, 5)).astype(np.float32)} for _ in range(count)]


@ALL
def test_a_perceptron_computes_what_its_integers_say(name: str, tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx")
    widths, ranges = WIDTHS[name], calibrate(path, data(), settings(name))
    model = quantize(path, ranges, widths)
    onnx.checker.check_model(model, full_check=True)
    parts, floats = initializers(model), initializers(onnx.load(path))
    bits, feed = widths.activation_bits, data()[0]

    def weight(key: str, axis: int) -> np.ndarray:
        scale = parts[f"{key}.weight{axis}.scale"].astype(np.float64)
        assert not parts[f"{key}.weight{axis}.zero_point"].any()
        return parts[f"{key}.weight{axis}.integers"].astype(np.float64) * (scale[:, None] if axis == 0 else scale)

    x = codes(feed["x"], *ranges["x"], bits)
    bias = parts["hidden.bias.integers"] * parts["hidden.bias.scale"].astype(np.float64)
    step = ranges["x"][1] - ranges["x"][0]
    assert np.abs(bias - floats["b"]).max() <= parts["hidden.bias.scale"].max() / 2 < step / 2**bits
    hidden = codes(np.maximum(x @ weight("w", 0).T + bias, 0), *ranges["relu"], bits)
    expected = codes(hidden @ weight("head", 1), *ranges["y"], bits)
    step = (ranges["y"][1] - ranges["y"][0]) / (2**bits - 1)
    for found in (run(model, feed)[0], ReferenceEvaluator(model).run(None, feed)[0]):
        assert np.abs(found - expected).max() <= 1.01 * step  # a value on the edge of two steps
    assert not any(node.op_type == "Relu" for node in model.graph.node)


@ALL
def test_every_value_of_a_decoder_passes_through_integers(name: str, tmp_path: Path) -> None:
    path = block(tmp_path / "m.onnx")
    model = quantize(path, calibrate(path, map(block_feed, range(30)), settings(name)), WIDTHS[name])
    onnx.checker.check_model(model, full_check=True)
    made, floats = makers(model), set(initializers(onnx.load(path)))
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for value in node.input:
            is_float = value not in ("ids", "ids.position") and "shape" not in value and value != "one"
            assert not is_float or made[value].op_type == "DequantizeLinear", (node.op_type, value)
        assert not floats & {value for value in node.input if value[:2] == "w."}
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    wide = name != "a8w8"
    assert kinds["table.integers"] == (onnx.TensorProto.UINT16 if wide else onnx.TensorProto.UINT8)
    assert kinds[f"norm.1.gain{16 if wide else 8}.integers"] == (
        onnx.TensorProto.INT16 if wide else onnx.TensorProto.UINT8
    )
    assert kinds["w.q.weight1.integers"] == (onnx.TensorProto.INT4 if name == "a16w4" else onnx.TensorProto.INT8)
    assert [value.name for value in model.graph.input] == [value.name for value in onnx.load(path).graph.input]
    assert [value.name for value in model.graph.output] == ["logits", "present.key", "present.value"]


@pytest.mark.parametrize(("name", "least"), [("a8w8", 15), ("a16w8", 35), ("a16w4", 10)])
def test_a_decoder_stays_near_its_float_model(name: str, least: float, tmp_path: Path) -> None:
    path = block(tmp_path / "m.onnx")
    model = quantize(path, calibrate(path, map(block_feed, range(60)), settings(name)), WIDTHS[name])
    for seed in (3, 41, 55):
        feed = block_feed(seed)
        expected = run(onnx.load(path), feed)
        for truth, seen in zip(expected, run(model, feed), strict=True):
            assert decibels(truth, seen) > least


@ALL
def test_the_cache_and_what_is_joined_to_it_have_one_scale(name: str, tmp_path: Path) -> None:
    path = block(tmp_path / "m.onnx")
    model = quantize(path, calibrate(path, map(block_feed, range(10)), settings(name)), WIDTHS[name])
    parts = initializers(model)
    for part in ("key", "value"):
        names = [f"past.{part}", f"present.{part}", f"all.{part}"]
        assert len({(parts[f"{n}.scale"].item(), parts[f"{n}.zero_point"].item()) for n in names}) == 1


@ALL
def test_rounded_weights_keep_their_codes_and_scales(name: str, tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx")
    random, model = np.random.default_rng(0), onnx.load(path)
    kept = {"w": (random.integers(-7, 8, (6, 5)), 0), "head": (random.integers(-8, 8, (6, 4)), 1)}
    scales = {
        key: random.uniform(0.01, 0.2, value.shape[axis]).astype(np.float32) for key, (value, axis) in kept.items()
    }
    for tensor in model.graph.initializer:
        if tensor.name in kept:
            value, axis = kept[tensor.name]
            scale = scales[tensor.name][:, None] if axis == 0 else scales[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array((value * scale).astype(np.float32), tensor.name))
    onnx.save(model, path)
    rounded = {key: Rounded(scale, 4) for key, scale in scales.items()}
    found = initializers(quantize(path, calibrate(path, data(), settings(name)), WIDTHS[name], rounded))
    for key, (value, axis) in kept.items():
        assert np.array_equal(found[f"{key}.weight{axis}.integers"].astype(int), value)
        assert np.array_equal(found[f"{key}.weight{axis}.scale"], scales[key])


def test_a_relu_stays_where_integers_do_not_clip_by_themselves(tmp_path: Path) -> None:
    nodes = [
        ("Add", ["x", "c"], "sum", {}),
        ("Relu", ["sum"], "relu", {}),
        ("Concat", ["relu", "c"], "y", {"axis": 0}),  # one scale with negative values
        ("Add", ["x", "c"], "other", {}),
        ("Clip", ["other", "low", "high"], "z", {}),  # ends at 6, calibration ends before
    ]
    constants = {"c": np.full((1, 4), -3.0, np.float32), "low": np.float32(0), "high": np.float32(6)}
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 4)}, {"y": (2, 4), "z": (1, 4)}, constants)
    feed = {"x": np.array([[0.0, 2.0, 4.0, 8.0]], np.float32)}
    model = quantize(path, calibrate(path, [feed], settings("a16w8")), WIDTHS["a16w8"])
    assert sorted(node.op_type for node in model.graph.node if node.op_type in ("Relu", "Clip")) == ["Relu"]
    y, z = run(model, feed)
    assert np.allclose(y, [[0, 0, 1, 5], [-3, -3, -3, -3]], atol=1e-3)
    assert np.allclose(z, [[0, 0, 1, 5]], atol=1e-3)


def test_convolutions_have_a_scale_for_each_channel_and_int32_biases(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    gains = np.array([0.01, 1, 5], np.float32)[:, None, None, None]
    constants = {
        "w": (random.standard_normal((3, 2, 3, 3)) * gains).astype(np.float32),
        "b": random.standard_normal(3).astype(np.float32),
        "tiny": np.full((3, 2, 1, 1), 1e-12, np.float32),
    }
    nodes = [
        ("Conv", ["x", "w", "b"], "y", {"pads": [1, 1, 1, 1]}),
        ("ConvTranspose", ["y", "turned"], "z", {}),
        ("Conv", ["x", "tiny", "b"], "t", {}),  # whose bias would not fit int32 at the weight's own scale
    ]
    constants["turned"] = random.standard_normal((3, 2, 2, 2)).astype(np.float32)
    outputs = {"y": (1, 3, 6, 6), "z": (1, 2, 7, 7), "t": (1, 3, 6, 6)}
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (1, 2, 6, 6)}, outputs, constants)
    feeds = [{"x": random.standard_normal((1, 2, 6, 6)).astype(np.float32)} for _ in range(8)]
    for name, least in (("a8w8", 25), ("a16w8", 35), ("a16w4", 12)):
        model = quantize(path, calibrate(path, feeds, settings(name)), WIDTHS[name])
        parts = initializers(model)
        assert parts["w.weight0.scale"].shape == (3,)
        assert parts["turned.weight1.scale"].shape == (2,)
        assert parts["y.bias.integers"].dtype == np.int32
        for truth, seen in zip(run(onnx.load(path), feeds[0]), run(model, feeds[0]), strict=True):
            assert decibels(truth, seen) > least


def test_layer_norms_and_what_has_no_integers_stay_near(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    constants = {
        "gain": random.uniform(0.5, 1.5, 16).astype(np.float32),
        "beta": random.standard_normal(16).astype(np.float32),
        "lstm.w": random.standard_normal((1, 32, 16)).astype(np.float32) / 4,
        "lstm.r": random.standard_normal((1, 32, 8)).astype(np.float32) / 4,
    }
    nodes = [
        ("LayerNormalization", ["x", "gain", "beta"], "n", {"axis": -1}),
        ("Gelu", ["n"], "g", {}),
        ("LSTM", ["g", "lstm.w", "lstm.r"], "y", {"hidden_size": 8}),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, {"x": (5, 1, 16)}, {"y": (5, 1, 1, 8)}, constants)
    feeds = [{"x": random.standard_normal((5, 1, 16)).astype(np.float32)} for _ in range(20)]
    model = quantize(path, calibrate(path, feeds, settings("a16w8")), WIDTHS["a16w8"])
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["lstm.w"] == onnx.TensorProto.FLOAT
    assert kinds["gain.gain16.integers"] == onnx.TensorProto.INT16
    assert kinds["beta.integers"] == onnx.TensorProto.UINT16
    assert decibels(run(onnx.load(path), feeds[0])[0], run(model, feeds[0])[0]) > 55


def test_old_opsets_take_onnxruntimes_own_operators_for_wide_types(tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx", opset=15)
    for name, domain in (("a8w8", ""), ("a16w8", "com.microsoft"), ("a16w4", "com.microsoft")):
        model = quantize(path, calibrate(path, data(), settings(name)), WIDTHS[name])
        assert {n.domain for n in model.graph.node if n.op_type == "QuantizeLinear"} == {domain}
        assert decibels(run(onnx.load(path), data()[0])[0], run(model, data()[0])[0]) > 10


def _opset_11(path: Path, ranges: Ranges) -> None:
    quantize(perceptron(path.with_name("old.onnx"), opset=11), ranges, WIDTHS["a8w8"])


def _again(path: Path, ranges: Ranges) -> None:
    onnx.save(quantize(path, ranges, WIDTHS["a8w8"]), path.with_name("q.onnx"))
    quantize(path.with_name("q.onnx"), ranges, WIDTHS["a8w8"])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (_opset_11, "has opset 11; QDQ needs 13 or later"),
        (_again, "q.onnx is quantized already"),
        (lambda path, ranges: quantize(path, ranges | {"no": (0, 1)}, WIDTHS["a8w8"], {"no": _one()}), "no weight no"),
        (
            lambda path, ranges: quantize(path, ranges, WIDTHS["a8w8"], {"b": _one()}),
            "b has a scale, but is the weight of",
        ),
        (lambda path, _: quantize(path, {}, WIDTHS["a8w8"]), "relu has no range; calibrate"),
        (
            lambda path, ranges: quantize(path.with_name("absent.onnx"), ranges, WIDTHS["a8w8"]),
            "absent.onnx cannot be read: No such file",
        ),
    ],
)
def test_what_cannot_be_quantized_is_named(act: Callable[[Path, Ranges], None], message: str, tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=message):
        act(path, calibrate(path, data(3), settings("a8w8")))


def _one() -> Rounded:
    return Rounded(np.ones(1, np.float32), 8)


def test_targets_take_known_widths_only_and_refuse_others_by_name() -> None:
    for target in map(find_target, target_names()):
        assert set(target.qdq) <= set(WIDTHS)
        assert all(find_widths(name, target).name == name for name in target.qdq)
    with pytest.raises(InputError, match="android-nnapi does not take a16w8; it takes a8w8"):
        find_widths("a16w8", find_target("android-nnapi"))
    with pytest.raises(InputError, match="ios-coreml does not take a8w8; no QDQ model is known to run there"):
        find_widths("a8w8", find_target("ios-coreml"))
    with pytest.raises(InputError, match="unknown widths 'w4a16'; known: a8w8, a16w8, a16w4"):
        find_widths("w4a16", find_target("qnn-htp"))


def test_models_share_equal_constants_in_one_file_and_its_bytes_are_the_same_again(tmp_path: Path) -> None:
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        models = {}
        for sequence in (4, 1):
            path = block(folder / f"{sequence}.float.onnx", sequence=sequence)
            feeds = (block_feed(seed, sequence=4) for seed in range(5))
            ranges = calibrate(folder / "4.float.onnx", feeds, settings("a16w8"))  # those of one serve both
            models[folder / f"{sequence}.onnx"] = quantize(path, ranges, WIDTHS["a16w8"])
        alone = {path: run(model, block_feed(3, sequence=int(path.stem))) for path, model in models.items()}
        sizes = [len(t.raw_data) for t in next(iter(models.values())).graph.initializer if len(t.raw_data) > 1024]
        write_models(models, folder / "weights.bin")
        assert len(sizes) > 4
        assert sum(sizes) <= (folder / "weights.bin").stat().st_size < sum(sizes) + 4096 * len(sizes)
        for path, expected in alone.items():
            found = open_on_cpu(path).run(None, block_feed(3, sequence=int(path.stem)))
            assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
        written.append([path.read_bytes() for path in (*models, folder / "weights.bin")])
    assert written[0] == written[1]
