"""Convolutions written as depthwise filters: the same with all of them, and without those that cost nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from channel_models import convolutions
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.learn.pruning.graphs import ShrunkGraph, shrink_graph
from edgepress.exporter.methods.narrower.filters import (
    Filters,
    find_convolutions,
    find_filters,
    keep_filters,
    written_as_filters,
)
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.sessions import open_on_cpu

Floats = NDArray[np.float32]


def images(count: int = 12, rows: int = 4, size: int = 6) -> Iterator[Mapping[str, Floats]]:
    for seed in range(count):
        yield {"image": np.random.default_rng(seed).normal(size=(rows, 3, size, size)).astype(np.float32)}


def answers(model: onnx.ModelProto, feeds: Iterable[Mapping[str, Floats]] | None = None) -> Floats:
    session = open_on_cpu(model.SerializeToString())
    return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds or images()])


def chain(weights: list[Floats], *, between: str = "Relu", **attributes: object) -> onnx.ModelProto:
    """One convolution after another, (n, 3, 6, 6) → "y"; the first has a bias, and ``attributes``."""
    nodes, constants, x = [], [numpy_helper.from_array(np.ones(len(weights[0]), np.float32), "bias")], "image"
    for index, weight in enumerate(weights):
        name = "y" if index == len(weights) - 1 else f"conv{index}"
        constants.append(numpy_helper.from_array(weight, f"weight{index}"))
        settings = {"pads": [weight.shape[2] // 2] * 4} | ({} if index else attributes)
        inputs = [x, f"weight{index}"] + ([] if index else ["bias"])
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, **settings))
        if name != "y":
            nodes.append(helper.make_node(between, [name], [f"{name}.after"], name=f"{name}.after"))
        x = f"{name}.after"
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["n", 3, 6, 6]), ("y", ["n", None, None, None]))
    ]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def drawn(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shrunk(model: onnx.ModelProto, folder: Path, options: Mapping[str, bool | float | str]) -> ShrunkGraph:
    onnx.save(model, folder / "whole.onnx")
    recipe = replace(read_recipe("fp32"), prune=("filters",), options={"filters": options})
    return shrink_graph(folder / "whole.onnx", recipe, images, folder=folder / "work")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 1], "pads": [0, 1, 2, 1]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1], "kernel_shape": [3, 3], "group": 1},
    ],
)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (5, 5)])
def test_with_all_filters_a_graph_computes_the_same(attributes: Mapping[str, object], kernel: tuple[int, int]) -> None:
    if "kernel_shape" in attributes:
        attributes = {**attributes, "kernel_shape": list(kernel)}
    model = chain([drawn(7, 3, *kernel), drawn(5, 7, 3, 3), drawn(4, 5, 1, 1)], **attributes)
    names = find_convolutions(model)
    assert names == ["conv0", "conv1"]  # the last one is 1 × 1
    found = find_filters(model, names, list(images()), seed=0)
    assert len(found["conv0"]) == 3 * min(7, kernel[0] * kernel[1])
    written = written_as_filters(model, found)
    onnx.checker.check_model(written, full_check=True)
    assert [node.op_type for node in written.graph.node].count("Gather") == 2
    wanted = answers(model)
    np.testing.assert_allclose(answers(written), wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def test_kernels_that_are_multiples_of_one_need_one_filter(tmp_path: Path) -> None:
    """Of each channel all kernels are one, times a number for each output: a ninth of the filters is enough."""
    weights = [
        np.einsum("oi,ihw->oihw", drawn(outputs, inputs, seed=outputs), drawn(inputs, 3, 3, seed=inputs))
        for outputs, inputs in ((16, 3), (8, 16))
    ]
    model = chain(weights)
    found = shrunk(model, tmp_path, {"share": 0.45, "multiple": 1})
    assert found.steps[-1]["filters"]["y"] == [16, 128]  # 16 channels by 8, as there are no more outputs
    written = onnx.load(found.file)
    assert "Gather" not in {node.op_type for node in written.graph.node}
    assert found.steps[-1]["multiply_adds"] == 36 * (3 * (9 + 16) + 16 * (9 + 8))
    wanted = answers(model)
    np.testing.assert_allclose(answers(written), wanted, atol=1e-3 * float(np.abs(wanted).max()))


def test_scores_are_what_the_outputs_change_by() -> None:
    """Without a nonlinearity the first order is all: held against graphs without the one filter, biases apart."""
    model = chain([drawn(4, 3, 3, 3), drawn(2, 4, 6, 6, seed=1) / 10], between="Identity")
    model.graph.node[-1].attribute[0].CopyFrom(helper.make_attribute("pads", [0] * 4))  # (n, 2, 1, 1)
    feeds = list(images(60, 50))
    (own,) = find_filters(model, ["conv0"], feeds, seed=0).values()
    wanted, changes = answers(model, feeds), []
    for gone in range(len(own)):
        without = written_as_filters(model, {"conv0": own.some(np.delete(np.arange(len(own)), gone))})
        changes.append(np.square(answers(without, feeds) - wanted).mean() / np.square(wanted).mean())
    np.testing.assert_allclose(own.scores, changes, rtol=0.3)
    assert np.corrcoef(own.scores, changes)[0, 1] > 0.97


def test_what_stays_loses_least_for_what_it_takes() -> None:
    """No other choice of as little work has scores whose sum is larger; all of them are tried."""
    random = np.random.default_rng(0)
    sizes = {"one": (4, 2, 10, 3), "two": (4, 3, 8, 1), "three": (3, 2, 9, 2)}  # outputs, inputs, whole, each
    found = {
        name: Filters(
            np.repeat(np.arange(inputs), 3),
            drawn(3 * inputs, 3, 1),
            drawn(outputs, 3 * inputs),
            random.random(3 * inputs),
        )
        for name, (outputs, inputs, *_) in sizes.items()
    }
    costs = {name: (whole, each) for name, (_, _, whole, each) in sizes.items()}

    def choices(name: str) -> list[tuple[int, float]]:
        whole, each = costs[name]
        order = np.sort(found[name].scores)[::-1]
        some = [(each * count, float(order[count:].sum())) for count in range(1, len(order) + 1)]
        return [(whole, 0.0), *some]

    for most in range(7, 27):
        kept = keep_filters(found, costs, most, 1)
        assert kept is not None
        cost = sum(costs[name][1] * len(kept[name]) if name in kept else costs[name][0] for name in found)
        lost = sum(found[name].scores.sum() - found[name].scores[places].sum() for name, places in kept.items())
        assert cost <= most
        least = min(
            sum(one[1] for one in some) for some in product(*map(choices, found)) if sum(o[0] for o in some) <= cost
        )
        assert lost == pytest.approx(least)
    assert keep_filters(found, costs, 5, 1) is None
    by_two = keep_filters(found, costs, 14, 2)
    assert by_two is not None
    assert all(len(places) % 2 == 0 or len(places) == len(found[name]) for name, places in by_two.items())


@pytest.mark.parametrize("of", ["multiply_adds", "parameters"])
def test_a_share_is_reached_and_what_is_cheaper_whole_stays(tmp_path: Path, of: str) -> None:
    model = convolutions(["residual", "depthwise", "grouped", "residual"], 0)
    found = shrunk(model, tmp_path, {"share": 0.85, "of": of, "multiple": 2, "skip": "conv_0*"})
    first, last = found.steps
    assert 0.7 * first[of] < last[of] <= 0.85 * first[of]
    assert last["fitted"][0] >= 1
    assert last["samples"] == 12 * 4
    assert all(kept < every and kept % 2 == 0 for kept, every in last["filters"].values())
    groups = [dict(onnx_attributes(node)).get("group", 1) for node in onnx.load(found.file).graph.node]
    assert {8, 2} < set(groups)  # those that were in groups before


def onnx_attributes(node: onnx.NodeProto) -> Iterator[tuple[str, object]]:
    return ((entry.name, helper.get_attribute_value(entry)) for entry in node.attribute)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"share": 0.01},
            r"share = 0.01 of the [\d,]+ multiply-adds cannot be reached: .* in each of \d+ convolutions 0",
        ),
        ({"only": "layer9*"}, r"only: 'layer9\*' matches none of the \d+ convolutions: conv_0_0"),
        ({"of": "channels"}, "of must be one of multiply_adds, parameters"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, options: Mapping[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shrunk(convolutions(["residual"], 0), tmp_path, options)


def test_graphs_without_convolutions_or_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"filters finds no convolution in this graph .* take channels"):
        shrunk(chain([drawn(4, 3, 1, 1)]), tmp_path, {})
    recipe = replace(read_recipe("fp32"), prune=("filters",), options={})
    onnx.save(convolutions(["plain"], 0), tmp_path / "whole.onnx")
    with pytest.raises(InputError, match="filters looks at what samples send through"):
        shrink_graph(tmp_path / "whole.onnx", recipe, None, folder=tmp_path / "work")
