"""Methods on the float graph of any model: each against what it promises, and what ships against onnxruntime."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from learned_graphs import convolutions, encoder, images, linear, rows, texts
from numpy.typing import NDArray
from onnx import numpy_helper
from residual_network import residual_network

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.graph.qdq import WIDTHS, calibrate, quantize, write_models
from edgepress.exporter.interpreter.network import arrays
from edgepress.exporter.learn.graphs.asked import check_graph_methods
from edgepress.exporter.learn.graphs.channels import open_channels
from edgepress.exporter.learn.graphs.run import LearnedGraph, learn_graph
from edgepress.exporter.recipe.recipe import Activations, OptionValue, Override, Recipe, Storage
from edgepress.exporter.streams.shipping_task import Coded
from edgepress.sessions import open_on_cpu

Floats = NDArray[np.float32]
A8, A16 = WIDTHS["a8w8"], WIDTHS["a16w4"]
RANDOM = np.random.default_rng(0)


def recipe(
    method: str = "rtn",
    bits: int = 8,
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    activations: str = "uint8",
    block_size: int = 0,
    **options: dict[str, OptionValue],
) -> Recipe:
    one = Storage(method, bits, block_size)
    how = Activations(activations, "minmax") if activations != "float32" else Activations()
    return Recipe("test", one, one, one, before=before, after=after, options=options, activations=how)


FEEDS = images(8)


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutions(tmp_path_factory.mktemp("float") / "model.onnx")


def learned(file: Path, asked: Recipe, folder: Path, widths: Any = A8, feeds: Any = FEEDS, **more: Any) -> LearnedGraph:
    return learn_graph(file, feeds, asked, folder=folder, widths=widths, **more)


def written(found: LearnedGraph, folder: Path, widths: Any = A8) -> Path:
    path = folder / "shipped.onnx"
    write_models({path: quantize(found.file, found.ranges, widths, found.rounded)}, folder / "shipped.bin")
    return path


def outputs(path: Path, feeds: Any) -> Floats:
    session = open_on_cpu(path)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def noise(path: Path, float_file: Path, feeds: Any = FEEDS) -> float:
    """Squared error of the outputs, of their power."""
    truth = outputs(float_file, feeds).astype(np.float64)
    return float(np.square(outputs(path, feeds) - truth).sum() / np.square(truth).sum())


def test_what_is_open_is_what_ships(network_file: Path, tmp_path: Path) -> None:
    """Codes that are made of weights and scales are those of the writer; and torch computes what onnxruntime does."""
    ranges = calibrate(network_file, FEEDS, Activations("uint8", "minmax"))
    integers = quantize(network_file, ranges, A8)
    shipped = open_channels(network_file, integers, A8)
    assert set(shipped.weights) == {"stem.w", "deep.w", "project.w", "head.w"}
    assert set(shipped.biases) == {"stem.b", "deep.b", "project.b", "head.b"}
    assert not any("image" in one.names for one in shipped.ranges)  # what comes in is a contract
    for name, value in shipped.items():
        assert torch.equal(value.float(), shipped.network.constants[name].float()), name
    path = tmp_path / "shipped.onnx"
    write_models({path: integers}, tmp_path / "shipped.bin")
    found = arrays(next(shipped.network.batches(FEEDS[:1])))["logits"]
    step = float(shipped.network.constants["logits.scale"])
    assert np.abs(found - outputs(path, FEEDS[:1])).max() <= 1.01 * step


def test_nothing_learned_is_nothing_changed(network_file: Path, tmp_path: Path) -> None:
    plain = quantize(network_file, calibrate(network_file, FEEDS, Activations("uint8", "minmax")), A8)
    found = learned(network_file, recipe(), tmp_path)
    again = quantize(found.file, found.ranges, A8, found.rounded)
    first, second = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (plain, again))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name].astype(np.float64), value.astype(np.float64), rtol=1e-6, atol=0)


# ---- equalization ---------------------------------------------------------------------------------------------------


def channel_sizes(path: Path) -> dict[str, Floats]:
    """The largest magnitude of each output and input channel of the weights."""
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return {
        "stem.out": np.abs(values["stem.w"]).max((1, 2, 3)),
        "deep.in": np.abs(values["deep.w"]).max((1, 2, 3)),  # a depthwise channel is its own input
        "deep.out": np.abs(values["deep.w"]).max((1, 2, 3)),
        "project.in": np.abs(values["project.w"]).max((0, 2, 3)),
    }


def test_equalization_makes_channels_alike_and_computes_the_same(network_file: Path, tmp_path: Path) -> None:
    """Nagel et al. 2019, equation 9: both layers' ranges are the same, channel by channel, where there is no cap."""
    no_caps = onnx.load(network_file)
    for node in no_caps.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]
    onnx.save(no_caps, tmp_path / "relu.onnx")
    asked = recipe(before=("equalize",), equalize={"rounds": 500})
    found = learned(tmp_path / "relu.onnx", asked, tmp_path / "learn", A16)
    sizes = channel_sizes(found.file)
    for first, second in (("stem.out", "deep.in"), ("deep.out", "project.in")):
        np.testing.assert_allclose(sizes[first], sizes[second], rtol=0.15)  # rounded to 4 bits
    assert found.notes[0].startswith("equalize: 3 pairs of layers")


@pytest.mark.parametrize("how", ["within", "keep"])
def test_equalization_leaves_what_caps_do(network_file: Path, tmp_path: Path, how: str) -> None:
    asked = recipe(before=("equalize",), equalize={"relu6": how})
    found = learned(network_file, asked, tmp_path, WIDTHS["a16w8"])
    assert noise(found.file, network_file) < 1e-3  # weights are rounded to 8 bits, nothing else is changed
    assert any(node.op_type == "Clip" for node in onnx.load(found.file).graph.node)


def test_equalization_without_caps_says_what_that_changes(network_file: Path, tmp_path: Path) -> None:
    found = learned(network_file, recipe(before=("equalize",), equalize={"relu6": "replace"}), tmp_path)
    assert not any(node.op_type == "Clip" for node in onnx.load(found.file).graph.node)
    assert "2 caps became Relu, which changes the float outputs by" in found.notes[0]


def test_equalization_repairs_one_scale_a_tensor(network_file: Path, tmp_path: Path) -> None:
    """Its purpose: with one scale for all channels the error of the depthwise weight is far smaller after it."""

    def error(path: Path) -> float:
        value = next(numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name == "stem.w")
        channels = np.abs(value).max((1, 2, 3))
        return float(
            np.square(np.abs(value).max() / channels).mean()
        )  # squared steps of a tensor's scale a channel has

    found = learned(network_file, recipe(before=("equalize",)), tmp_path, WIDTHS["a16w8"])
    assert error(found.file) < 0.5 * error(network_file)


# ---- bias correction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["outputs", "inputs"])
def test_bias_correction_takes_the_mean_error_off(tmp_path: Path, by: str) -> None:
    file, feeds = linear(tmp_path / "linear.onnx"), rows(6)

    def mean_error(asked: Recipe, folder: Path) -> float:
        path = written(learned(file, asked, folder, A16, feeds), folder, A16)
        return float(np.abs((outputs(path, feeds) - outputs(file, feeds)).mean(0)).max())

    plain = mean_error(recipe(bits=4, activations="uint16"), tmp_path / "plain")
    asked = recipe(bits=4, activations="uint16", after=("bias_correction",), bias_correction={"by": by})
    assert mean_error(asked, tmp_path / by) < 0.02 * plain


# ---- rounding -------------------------------------------------------------------------------------------------------


def test_adaround_is_between_nearest_and_the_best_of_all_roundings(tmp_path: Path) -> None:
    """Brute force: 2⁶ roundings of each of 4 rows, by the exact squared error of the outputs."""
    file, feeds = linear(tmp_path / "linear.onnx"), rows(6)
    asked = recipe("adaround", 4, activations="uint16", adaround={"steps": 100, "rate": 0.05, "regularization": 2.0})
    found = learned(file, asked, tmp_path / "learn", A16, feeds)
    w = next(numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer if t.name == "w")
    chosen = next(numpy_helper.to_array(t) for t in onnx.load(found.file).graph.initializer if t.name == "w")
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    scale, errors = found.rounded["w"].scale, []
    for row, codes, step in zip(w, chosen / found.rounded["w"].scale[:, None], scale, strict=True):
        low = np.floor(row / step)
        assert np.isin(np.rint(codes) - low, (0, 1)).all()

        def error(code: Any, row: Floats = row, step: np.float32 = step) -> float:
            return float(np.square(x @ (code * float(step) - row)).sum())

        best = min(error(np.clip(low + np.array(up), -8, 7)) for up in itertools.product((0, 1), repeat=6))
        errors.append((best, error(np.rint(codes)), error(np.clip(np.rint(row / step), -8, 7))))
    least, learnt, nearest = np.array(errors).sum(0)
    assert least <= learnt < 0.85 * nearest


def test_learned_ranges_are_near_the_best(tmp_path: Path) -> None:
    """Of a normal output, whose extremes are rare, against every shrinking of its range by QDQ's definition."""
    random = np.random.default_rng(8)
    file = linear(tmp_path / "linear.onnx")
    feeds = [{"x": random.standard_normal((16, 6)).astype(np.float32)} for _ in range(60)]
    plain = learned(file, recipe(), tmp_path / "plain", A8, feeds)
    options: dict[str, OptionValue] = {"steps": 100, "rate": 0.01, "weight_rate": 1e-5}
    found = learned(file, recipe(after=("learned_ranges",), learned_ranges=options), tmp_path / "learn", A8, feeds)
    truth = outputs(file, feeds).astype(np.float64)

    def error(share: float) -> float:
        """Of the output's own rounding, which is most of what there is."""
        low, high = (share * end for end in plain.ranges["y"])
        scale = (high - low) / 255
        zero = round(-low / scale)
        return float(np.square((np.clip(np.rint(truth / scale) + zero, 0, 255) - zero) * scale - truth).sum())

    share = found.ranges["y"][1] / plain.ranges["y"][1]
    assert found.ranges["y"][0] / plain.ranges["y"][0] == pytest.approx(share)
    assert found.ranges["x"] == plain.ranges["x"]
    assert share < 1
    assert error(share) < 1.02 * min(map(error, np.linspace(0.2, 1, 81))) < error(1)


def test_training_through_the_rounding_that_ships(network_file: Path, tmp_path: Path) -> None:
    feeds = images(12, seed=9)
    plain = written(
        learned(network_file, recipe(bits=4, activations="uint16"), tmp_path / "plain", A16, feeds),
        tmp_path / "plain",
        A16,
    )
    options: dict[str, OptionValue] = {"steps": 40, "rate": 0.1, "scale_rate": 0.005}
    asked = recipe(bits=4, activations="uint16", after=("qat",), qat=options)
    found = learned(network_file, asked, tmp_path / "learn", A16, feeds)
    assert not (tmp_path / "learn/qat.safetensors").exists()
    others = images(6, seed=10)
    trained = written(found, tmp_path / "learn", A16)
    assert noise(trained, network_file, others) < 0.6 * noise(plain, network_file, others)
    assert found.notes[-1].startswith("qat: the loss on held-out samples went from")


def test_training_by_sums_inside_follows_those_that_ship(tmp_path: Path) -> None:
    """A Relu behind a sum is part of how it is rounded: what is compared is what both graphs have."""
    file = tmp_path / "float.onnx"
    onnx.save(residual_network(integer=False), file)
    model = onnx.load(file)
    for node in model.graph.node:  # sum → Relu → pooling
        for index, name in enumerate(node.input):
            node.input[index] = "sum_relu" if name == "sum" else name
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "sum")
    model.graph.node.insert(place + 1, onnx.helper.make_node("Relu", ["sum"], ["sum_relu"]))
    onnx.save(model, file)
    name = model.graph.input[0].name
    shape = [dim.dim_value or 4 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = [{name: np.random.default_rng(seed).normal(size=shape).astype(np.float32)} for seed in range(12)]
    options: dict[str, OptionValue] = {"steps": 2, "features": 1.0, "batch": 4}
    asked = recipe(bits=4, activations="uint16", after=("qat",), qat=options)
    found = learned(file, asked, tmp_path / "learn", A16, feeds)
    assert found.notes[-1].startswith("qat: the loss on held-out samples went from")


def coded(method: str) -> dict[str, Coded]:
    scheme = Scheme(method, 4, 16)
    return {"up": Coded(scheme, transposed=True), "down": Coded(scheme)}


def test_blocks_are_rounded_by_what_goes_in(tmp_path: Path) -> None:
    """gptq is nearer than rtn, and autoround than where it starts, in sweeps or steps; the file has what codes mean."""
    file, feeds, errors = encoder(tmp_path / "encoder.onnx"), texts(10), {}
    learners: dict[str, dict[str, OptionValue]] = {
        "rtn": {},
        "gptq": {},
        "from rtn": {"start": "rtn"},
        "from gptq": {"start": "gptq"},
        "in steps": {"start": "rtn", "steps": 40, "rounding_rate": 0.02, "sweeps": 0},
    }
    for name, options in learners.items():
        method = "autoround" if options else name
        asked = recipe(method, 4, activations="float32", block_size=16, autoround=options)
        found = learned(file, asked, tmp_path / name, None, feeds[:6], coded=coded(method))
        values = {t.name: numpy_helper.to_array(t) for t in onnx.load(found.file).graph.initializer}
        np.testing.assert_allclose(values["up"], found.codes["up"].dequantize().numpy().T, rtol=0, atol=1e-6)
        np.testing.assert_allclose(values["down"], found.codes["down"].dequantize().numpy(), rtol=0, atol=1e-6)
        errors[name] = noise(found.file, file, feeds[6:])
    assert errors["gptq"] < 0.9 * errors["rtn"]
    assert errors["from rtn"] < 0.8 * errors["rtn"]
    assert errors["in steps"] < 0.8 * errors["rtn"]
    assert errors["from gptq"] < 0.95 * errors["gptq"]


def test_codes_of_convolutions_are_found_by_what_their_patches_lack(tmp_path: Path) -> None:
    """Beside a convolution in groups, which learns in steps; measured: 0.15 of the noise of rounding to nearest."""
    file, feeds, errors = convolutions(tmp_path / "model.onnx"), images(10), []
    model = onnx.load(file)
    weights = {t.name for t in model.graph.initializer if len(t.dims) == 4}
    for method, options in (("rtn", {}), ("autoround", {"start": "rtn", "steps": 20})):
        asked = recipe(method, 4, activations="float32", block_size=16, **({method: options} if options else {}))
        known = {name: Coded(Scheme(method, 4, 16)) for name in weights}
        found = learned(file, asked, tmp_path / method, None, feeds[:6], coded=known)
        errors.append(noise(found.file, file, feeds[6:]))
    assert any(
        node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)
        for node in model.graph.node
    )
    assert found.notes[-1].startswith(f"autoround: {len(weights)} layers")
    assert errors[1] < 0.5 * errors[0]


def loud(count: int) -> list[dict[str, NDArray[np.float32]]]:
    """Inputs of which some channels are much larger, as a layer norm without a gain of its own leaves them."""
    sizes = np.where(np.arange(32) % 11 == 3, 12.0, 1.0).astype(np.float32)
    return [{"x": feed["x"] * sizes} for feed in texts(count)]


def test_awq_folds_scales_and_adds_a_product_where_it_cannot(tmp_path: Path) -> None:
    """Into the norm before the first product; behind the GELU, before the second, by a Mul. The float graph stays."""
    file, feeds, errors = encoder(tmp_path / "encoder.onnx"), loud(10), {}
    for before in ((), ("awq",)):
        asked = recipe("rtn", 4, before=before, activations="float32", block_size=16, awq={"most": 1.0})
        found = learned(file, asked, tmp_path / str(len(before)), None, feeds[:6], coded=coded("rtn"))
        errors[before] = noise(found.file, file, feeds[6:])
        assert noise(found.prepared, file, feeds[6:]) < 1e-9
    assert errors["awq",] < 0.8 * errors[()]
    assert found.notes[0].startswith("awq: inputs of products scaled: 1 folded, 1 by a Mul, 0 left")
    before, after = (onnx.load(path) for path in (file, found.prepared))
    assert [node.op_type for node in after.graph.node] == ["LayerNormalization", "MatMul", "Gelu", "Mul", "Gemm"]
    gains = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (before, after)]
    assert not np.allclose(gains[0]["gain"], gains[1]["gain"])
    np.testing.assert_allclose(
        gains[0]["up"] * (gains[0]["gain"] / gains[1]["gain"])[:, None], gains[1]["up"], rtol=1e-5
    )


def test_awq_adds_no_product_that_hardly_helps(tmp_path: Path) -> None:
    asked = recipe("rtn", 8, before=("awq",), activations="float32", block_size=16, awq={"most": 0.0})
    schemes = {name: Coded(Scheme("rtn", 8, 16), transposed=name == "up") for name in ("up", "down")}
    found = learned(encoder(tmp_path / "e.onnx"), asked, tmp_path / "l", None, loud(6), coded=schemes)
    assert "0 by a Mul" in found.notes[0]
    assert "Mul" not in [node.op_type for node in onnx.load(found.prepared).graph.node]


def test_blocks_are_trained(tmp_path: Path) -> None:
    file, feeds = encoder(tmp_path / "encoder.onnx"), texts(18)
    errors = []
    for after in ((), ("qat",)):
        asked = recipe(
            "rtn", 4, activations="float32", block_size=16, after=after, qat={"steps": 50, "scale_rate": 0.01}
        )
        found = learned(file, asked, tmp_path / f"{len(after)}", None, feeds[:12], coded=coded("rtn"))
        errors.append(noise(found.file, file, feeds[12:]))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize(
    ("asked", "form", "words"),
    [
        (recipe(after=("distill",)), "channels", "distill in `after` is for language models; what works on the graph"),
        (recipe(before=("qat",)), "channels", "`before` names qat, which belongs into `after`"),
        (recipe("gptq"), "channels", "gptq rounds blocks of codes, and this recipe computes in integers"),
        (recipe("adaround", activations="float32"), "blocks", "adaround does nothing to blocks of codes"),
        (recipe("autoround"), "channels", "autoround does nothing to integers everywhere"),
        (recipe("adaround", adaround={"start": "qat"}), "channels", "qat, which belongs into `after`"),
        (recipe(after=("qat",), qat={"step": 3}), "channels", "has no option 'step'; did you mean"),
        (recipe(after=("nothing",)), "channels", "unknown compression method 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_refused(asked: Recipe, form: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_graph_methods(asked, form)


def test_without_samples_nothing_is_learned(network_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was given to calibrate on"):
        learned(network_file, recipe(after=("bias_correction",)), tmp_path, feeds=[])
    assert not list(tmp_path.iterdir())


def test_an_override_may_name_another_method() -> None:
    one = Storage("rtn", 8, 0)
    asked = Recipe("test", one, one, one, overrides=(Override("stem*", Storage("hadamard", 8, 0)),))
    with pytest.raises(InputError, match=r"hadamard in \[weights\] is for language models"):
        check_graph_methods(asked, "channels")
