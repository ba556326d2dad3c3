"""Nodes that stay in float between integers: what is rounded then, and which of them a budget chooses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import learned_graphs
import numpy as np
import onnx
import pytest
import torch
from learned_graphs import encoder, images, texts
from onnx import helper, numpy_helper

from edgepress.bundle.manifest import Manifest, find_problems
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.graph.qdq import WIDTHS, calibrate, quantize
from edgepress.exporter.graph.qdq.floats import close_floats, name_of
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.interpreter.network import Hooks, Network, Step
from edgepress.exporter.learn.graphs.exclusions import Rounded, find_rounded, node_work, order, shortest
from edgepress.exporter.recipe.recipe import Activations
from edgepress.sessions import open_on_cpu

Feeds = Sequence[dict[str, np.ndarray]]
MINMAX = Activations("uint8", "minmax")
STATIC = '[weights]\nbits = 8\nblock_size = "channel"\n[activations]\ntype = "uint8"\nranges = "minmax"\n'


def convolutions(path: Path) -> Path:
    """The network of tests of methods, each node called as what it makes."""
    model = onnx.load(learned_graphs.convolutions(path))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, path)
    return path


def run(model: Path | onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    session = open_on_cpu(model if isinstance(model, Path) else model.SerializeToString())
    return [session.run(None, dict(feed))[0] for feed in feeds]


def error(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, truth, strict=True))
    return noise / sum(float(np.square(b.astype(np.float64)).sum()) for b in truth)


def rounded_in_torch(file: Path, rounded: Sequence[Rounded], floats: frozenset[str], feed: Any) -> np.ndarray:
    """The float graph, with everything rounded but what nodes in float alone touch; each reader sees its own."""
    network, left = Network.read(file), [one for one in rounded if not one.nodes <= floats]
    weights = {one.name: one.apply(torch.zeros(())) for one in left if not one.values}
    by_value = {name: one for one in left for name in one.values}

    def read(step: Step, _: int, value: torch.Tensor) -> torch.Tensor:
        return value if step.name in floats else seen.get(id(value), value)

    seen: dict[int, torch.Tensor] = {}
    kept: list[torch.Tensor] = []

    def made(name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in by_value:
            return value
        whole = by_value[name].apply(value)
        makers = [step.name for step in network.steps if name in step.outputs]
        if not makers or makers[0] in floats:  # raw for readers in float, rounded for the others
            seen[id(value)] = whole
            kept.append(value)
            return value
        return whole

    found = network.run(network.tensors(feed), constants=weights, hooks=Hooks(made=made, read=read))
    (output,) = found.values()
    return output.detach().numpy()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_is_not_rounded_and_all_else_is(seed: int, tmp_path: Path) -> None:
    """Any set of nodes: onnxruntime's result of what is written is that of the float graph with the rest rounded."""
    file = encoder(tmp_path / "m.onnx") if seed % 2 else convolutions(tmp_path / "m.onnx")
    feeds = texts(4) if seed % 2 else images(4)
    model = FloatModel(file)
    names = [name_of(node) for node in model.nodes]
    random = np.random.default_rng(seed)
    floats = close_floats(model, {name for name in names if random.random() < 0.4})
    ranges = calibrate(file, feeds, MINMAX)
    rounded = find_rounded(model, quantize(file, ranges, WIDTHS["a8w8"]))
    found = run(quantize(file, ranges, WIDTHS["a8w8"], floats=floats), feeds[:1])[0]
    expected = rounded_in_torch(file, rounded, floats, feeds[0])
    step = max(float(np.ptp(expected)), 1e-6) / 255
    assert np.abs(found - expected).max() <= 2.1 * step  # ties, and biases in int32
    assert np.abs(found - expected).mean() <= 0.2 * step


def test_all_nodes_in_float_are_the_float_graph(tmp_path: Path) -> None:
    file, feeds = convolutions(tmp_path / "m.onnx"), images(2)
    names = [name_of(node) for node in FloatModel(file).nodes]
    made = quantize(file, calibrate(file, feeds, MINMAX), WIDTHS["a8w8"], floats=names)
    assert not [node for node in made.graph.node if "QuantizeLinear" in node.op_type]
    np.testing.assert_array_equal(run(made, feeds), run(file, feeds))


def test_a_bound_goes_with_what_it_bounds(tmp_path: Path) -> None:
    model = FloatModel(convolutions(tmp_path / "m.onnx"))
    assert close_floats(model, {"stem"}) == close_floats(model, {"stem.6"}) == {"stem", "stem.6"}
    assert close_floats(model, {"pool"}) == {"pool", "flat"}  # what moves values that are float
    assert close_floats(model, (), {"project.w"}) == {"project"}


def test_the_order_counts_what_is_in_float_already() -> None:
    """a and b are dear together: once the node between them is in float, the other one costs little."""
    parts = {"a": {"n1", "big"}, "b": {"big", "n2"}, "c": {"n3"}, "d": {"n4"}}
    rounded = [Rounded(name, frozenset(nodes)) for name, nodes in parts.items()]
    work = {"n1": 1, "n2": 1, "big": 100, "n3": 10, "n4": 10}
    loss = {"a": 1.0, "b": 0.5, "c": 0.3, "d": 0.001}
    assert [one.name for one in order(rounded, loss, work)] == ["c", "a", "b", "d"]
    assert [shortest(9, lambda n, most=most: n >= most) for most in range(10)] == list(range(10))


def test_work_of_nodes(tmp_path: Path) -> None:
    file = convolutions(tmp_path / "m.onnx")
    work = node_work(FloatModel(file), Network.read(file), images(1)[0])
    places = 4 * 8 * 8
    assert work["stem"] == places * 8 * 27
    assert work["deep"] == places * 8 * 9
    assert work["stem.6"] == places * 8  # as many as it makes
    assert work["logits"] == 4 * 6 * 5


# ---- bundles --------------------------------------------------------------------------------------------------------


def exported(model: Path, recipe: str, folder: Path, feeds: Feeds) -> tuple[Path, Manifest]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(recipe)
    np.savez(folder / "x.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    manifest = export(
        model, recipe=folder / "recipe.toml", out=folder / "out", calibration=[folder / "x.npz"], check=True
    )
    assert not find_problems(folder / "out")
    return folder / "out", manifest


def test_nodes_that_a_recipe_names_stay_in_float(tmp_path: Path) -> None:
    model, feeds = convolutions(tmp_path / "m.onnx"), images(6)
    kept = STATIC + 'kept = ["p*", "logits"]\n'
    out, manifest = exported(model, kept, tmp_path / "kept", feeds)
    in_float: Any = manifest.decisions["kept_layers"]
    assert set(in_float) == {"project", "pool", "flat", "logits"}
    assert in_float["pool"] == "[activations] kept = 'p*'"
    forms = {str(tensor["name"]): tensor["form"] for tensor in manifest.tensors}
    assert {name for name, form in forms.items() if form == "signed"} == {"stem.w", "deep.w"}
    assert (forms["project.w"], forms["head.w"]) == ("float", "float")
    reasons = {str(tensor["name"]): str(tensor["reason"]) for tensor in manifest.tensors}
    assert "the node project computes in float32" in reasons["project.w"]
    plain, _ = exported(model, STATIC, tmp_path / "plain", feeds)
    truth = run(model, feeds)
    assert error(run(out / "model.onnx", feeds), truth) < 0.7 * error(run(plain / "model.onnx", feeds), truth)
    with pytest.raises(InputError, match="kept has 'nothing', which names no node; the first ones are: stem"):
        exported(model, STATIC + 'kept = ["nothing"]\n', tmp_path / "none", feeds)


@pytest.mark.parametrize(
    ("more", "floats"),
    [
        ('kept = ["*"]\n', {"wide", "narrow"}),
        ('[[override]]\nmatch = "wide"\nbits = 32\n', {"wide"}),
        ("[budget]\nerror = 1e-12\n", {"wide", "narrow"}),
    ],
    ids=["nodes", "weight", "budget"],
)
def test_products_that_stay_in_float_read_their_weights_as_they_lie(
    more: str, floats: set[str], tmp_path: Path
) -> None:
    """Matrices of (columns, rows), whose codes have a scale for each column of the file."""
    generator, names = np.random.default_rng(0), ("wide", "narrow")
    weights = [generator.normal(size=size).astype(np.float32) for size in ((6, 10), (10, 3))]
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["first"], name="a"),
        helper.make_node("Relu", ["first"], ["positive"], name="b"),
        helper.make_node("MatMul", ["positive", "narrow"], ["y"], name="c"),
    ]
    edges = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in zip("xy", (6, 3), strict=True)
    ]
    constants = [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)]
    graph = helper.make_graph(nodes, "products", edges[:1], edges[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    feeds = [{"x": generator.normal(size=(2, 6)).astype(np.float32)} for _ in range(12)]
    out, manifest = exported(tmp_path / "m.onnx", STATIC + more, tmp_path / "made", feeds)
    assert {str(tensor["name"]) for tensor in manifest.tensors if tensor["form"] == "float"} == floats
    found, truth = run(out / "model.onnx", feeds), run(tmp_path / "m.onnx", feeds)
    if len(floats) == len(names):
        np.testing.assert_array_equal(found, truth)
    else:
        assert 0 < error(found, truth) < 1e-3


def test_methods_learn_around_nodes_in_float(tmp_path: Path) -> None:
    feeds = images(4)
    recipe = 'after = ["bias_correction"]\n' + STATIC.replace("bits", 'method = "adaround"\nbits') + 'kept = ["deep"]\n'
    _, manifest = exported(
        convolutions(tmp_path / "m.onnx"), recipe + "[options.adaround]\nsteps = 3\n", tmp_path / "b", feeds
    )
    assert any("bias_correction: of 3 layers" in note for note in manifest.notes)


def test_a_budget_keeps_in_float_what_loses_most(tmp_path: Path) -> None:
    model, feeds = convolutions(tmp_path / "m.onnx"), images(12)
    scored, truth = feeds[2::3], run(model, feeds[2::3])
    plain, _ = exported(model, STATIC, tmp_path / "plain", feeds)
    before = error(run(plain / "model.onnx", scored), truth)
    limit = f"[budget]\nerror = {before / 4:.3g}\n"
    out, manifest = exported(model, STATIC + limit, tmp_path / "b", feeds)
    budget: Any = manifest.budget
    measured = error(run(out / "model.onnx", scored), truth)
    assert budget["measured"] == pytest.approx(measured, rel=0.01)
    assert measured <= before / 4
    kept: Any = manifest.decisions["kept_layers"]
    assert 0 < len(kept) < len(FloatModel(model).nodes)
    assert set(budget["in_float"]["nodes"]) <= set(kept)
    assert 0 < budget["in_float"]["multiply_adds"] < 1
    assert any(reason.startswith("chosen by budget error = ") and "by itself" in reason for reason in kept.values())
    assert budget["tried"][0][0] == 0
    assert "of the outputs' squares" in format_inspection(inspect(out))


def test_budgets_of_integers_take_a_loss_alone(tmp_path: Path) -> None:
    model, feeds = convolutions(tmp_path / "m.onnx"), images(6)
    for limit in ("size_mb = 1.0", "error = 0.1\ncandidates = ['8:32']"):
        with pytest.raises(InputError, match=r"a \[budget\] chooses the nodes that stay in float: take kl, error,"):
            exported(model, f"{STATIC}[budget]\n{limit}\n", tmp_path / "b", feeds)
    (tmp_path / "r.toml").write_text(STATIC + 'kept = ["x"]\n')
    with pytest.raises(InputError, match="kept names nodes of a graph, and this is a language model"):
        decide("demo", target="x86-cpu", recipe=tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text('[weights]\nbits = 8\n[activations]\nkept = ["x"]\n')
    with pytest.raises(InputError, match="kept names nodes that stay in float between integers whose ranges are fixed"):
        export(model, recipe=tmp_path / "r.toml", out=tmp_path / "o")
