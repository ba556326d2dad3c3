"""Products fitted anew after channels went: as well as numpy's least squares does it, and no better by accident."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.methods.narrower.coupling import Coupling, find_coupling
from edgepress.exporter.methods.narrower.cut import cut
from edgepress.exporter.methods.narrower.refit import refit
from edgepress.sessions import open_on_cpu

Floats = NDArray[np.float32]
WIDTH, INNER, GONE = 6, 8, 3


def constants_of(model: onnx.ModelProto) -> dict[str, Floats]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def perceptron(kind: str) -> onnx.ModelProto:
    """``y = x + B · relu(A · x + a) + b`` twice, then a product; ``kind`` says how products are written."""
    random = np.random.default_rng(1)
    image = kind == "Conv"
    nodes, constants, x = [], [], "x"

    def product(x: str, name: str, inputs: int, outputs: int) -> str:
        shape = {"Conv": (outputs, inputs, 3, 3), "Gemm": (outputs, inputs), "MatMul": (inputs, outputs)}[kind]
        weight = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if kind != "MatMul" else inputs)
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        parts = [x, f"{name}.weight"]
        if kind != "MatMul":
            constants.append(numpy_helper.from_array(random.normal(size=outputs).astype(np.float32), f"{name}.bias"))
            parts.append(f"{name}.bias")
        attributes = {"Conv": {"pads": [1, 1, 1, 1]}, "Gemm": {"transB": 1}, "MatMul": {}}[kind]
        nodes.append(helper.make_node(kind, parts, [name], name=name, **attributes))
        return name

    for block in ("one", "two"):
        inner = product(x, f"{block}.in", WIDTH, INNER)
        nodes.append(helper.make_node("Relu", [inner], [f"{inner}.relu"], name=f"{inner}.relu"))
        out = product(f"{inner}.relu", f"{block}.out", INNER, WIDTH)
        nodes.append(helper.make_node("Add", [out, x], [f"{block}.sum"], name=f"{block}.sum"))
        x = f"{block}.sum"
    y = product(x, "head", WIDTH, 4)
    size: list[int | str] = ["n", WIDTH, 5, 5] if image else ["n", WIDTH]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", size), (y, None))]
    graph = helper.make_graph(nodes, "perceptron", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples(kind: str, count: int, seed: int = 0) -> list[dict[str, Floats]]:
    shape = (count, WIDTH, 5, 5) if kind == "Conv" else (count, WIDTH)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return [{"x": part} for part in np.array_split(values, 5)]


def values_of(model: onnx.ModelProto, feeds: Sequence[dict[str, Floats]], *names: str) -> list[Floats]:
    """The values of these names, computed by onnxruntime."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.output[:]
    new.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = open_on_cpu(new.SerializeToString())
    found = [session.run(list(names), feed) for feed in feeds]
    return [np.concatenate([one[place] for one in found]) for place in range(len(names))]


def pruned(whole: onnx.ModelProto) -> tuple[onnx.ModelProto, Coupling, NDArray[np.bool_]]:
    """The last channels inside both blocks are gone."""
    coupling = find_coupling(whole)
    kept = coupling.all_kept()
    for group in coupling.groups:
        if group.name.endswith(".in"):
            kept[group.channels[-GONE:]] = False
    return cut(whole, coupling, kept), coupling, kept


def columns(kind: str, values: Floats) -> Floats:
    """What a product sees at each place and a 1, (places, numbers + 1)."""
    if kind == "Conv":
        around = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), (2, 3))  # (n, c, y, x, 3, 3)
        values = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, values.shape[1] * 9)
    return np.concatenate([values, np.ones((len(values), int(kind != "MatMul")))], 1)


def places(values: Floats) -> Floats:
    return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_each_product_is_the_least_squares_of_what_it_sees(kind: str) -> None:
    """The end of the second block makes up for the first one's errors, which come past it."""
    whole = perceptron(kind)
    model, coupling, kept = pruned(whole)
    feeds = samples(kind, 400)
    assert refit(model, whole, coupling, kept, feeds) == (4, 4)
    wanted, first = values_of(whole, feeds, "two.sum", "one.sum")
    seen, before, found, first_found = values_of(model, feeds, "two.in.relu", "one.sum", "two.sum", "one.sum")
    assert np.square(first - first_found).mean() > 1e-3  # there is something to make up for
    x, missing = columns(kind, seen).astype(np.float64), places(wanted - before).astype(np.float64)
    least = np.square(missing - x @ np.linalg.lstsq(x, missing, rcond=None)[0]).sum()
    assert least <= np.square(wanted - found).sum() * (1 + 1e-6) <= 1.03 * least
    kept_rows = INNER - GONE
    (wanted_inside,) = values_of(whole, feeds, "two.in")
    seen, inside = values_of(model, feeds, "one.sum", "two.in")
    x, target = columns(kind, seen).astype(np.float64), places(wanted_inside[:, :kept_rows]).astype(np.float64)
    least = np.square(target - x @ np.linalg.lstsq(x, target, rcond=None)[0]).sum()
    assert least <= np.square(wanted_inside[:, :kept_rows] - inside).sum() * (1 + 1e-6) <= 1.03 * least


def test_few_samples_make_nothing_worse_elsewhere() -> None:
    """Fewer places than numbers are seen: the ridge, chosen by other samples, keeps weights near where they were."""
    whole = perceptron("Gemm")
    model, coupling, kept = pruned(whole)
    unseen = samples("Gemm", 500, 9)
    (wanted,) = values_of(whole, unseen, "head")
    before = np.square(values_of(model, unseen, "head")[0] - wanted).mean()
    refit(model, whole, coupling, kept, samples("Gemm", 8))
    assert np.square(values_of(model, unseen, "head")[0] - wanted).mean() < 1.05 * before


def test_three_samples_are_too_few_to_choose_by() -> None:
    whole = perceptron("Gemm")
    model, coupling, kept = pruned(whole)
    before = constants_of(model)
    assert refit(model, whole, coupling, kept, [{"x": np.ones((3, WIDTH), np.float32)}]) == (0, 4)
    assert all(np.array_equal(value, before[name]) for name, value in constants_of(model).items())


def test_what_sees_the_same_as_before_stays() -> None:
    whole = perceptron("Conv")
    model, coupling, kept = pruned(whole)
    before = constants_of(model)
    refit(model, whole, coupling, kept, samples("Conv", 40))
    after = constants_of(model)
    same = {name for name, value in after.items() if np.array_equal(value, before[name])}
    assert same == {"one.in.weight", "one.in.bias"}
