"""A recipe's pruning steps on an ONNX graph: budgets are met, what is left computes what it should, errors say why."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from channel_models import IMAGES, convolutions, encoder
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.learn.pruning.graphs import ShrunkGraph, shrink_graph
from edgepress.exporter.methods.narrower.blocks import find_blocks
from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.cut import plain
from edgepress.exporter.methods.narrower.importance import WAYS, scores_of
from edgepress.exporter.methods.removing import few_samples
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.sessions import open_on_cpu

Options = Mapping[str, bool | int | float | str]
Feed = Mapping[str, NDArray[np.float32]]


def recipe(options: Mapping[str, Options], *steps: str) -> Recipe:
    return replace(read_recipe("fp32"), prune=steps or tuple(options), options=options)


def images() -> Iterator[Feed]:
    """Samples without end."""
    for seed in range(12):
        yield {"image": np.random.default_rng(seed).normal(size=(2, 3, 6, 6)).astype(np.float32)}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A residual network whose weights' scales differ."""
    model = convolutions(["residual", "depthwise", "plain", "residual"], 0)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            value = onnx.numpy_helper.to_array(tensor) + random.normal(0, 0.3, tensor.dims).astype(np.float32)
            scale = random.uniform(0.1, 1, (tensor.dims[0], *[1] * (len(tensor.dims) - 1))).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value * scale, tensor.name))
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    return path


def shrunk(path: Path, asked: Recipe, samples: object = images) -> ShrunkGraph:
    return shrink_graph(path, asked, samples, folder=path.parent / "work")  # type: ignore[arg-type] # may be None


@pytest.mark.parametrize("of", ["multiply_adds", "parameters", "channels"])
@pytest.mark.parametrize("uniform", [True, False])
def test_a_share_is_reached_and_not_by_much_more(network: Path, of: str, *, uniform: bool) -> None:
    found = shrunk(network, recipe({"channels": {"share": 0.6, "of": of, "uniform": uniform}}))
    first, last = found.steps
    assert [step["name"] for step in found.steps] == ["original", "channels"]
    assert all(1 <= left <= of_all for left, of_all in last["kept"].values())
    if of != "channels":
        assert 0.4 * first[of] < last[of] <= 0.6 * first[of]
    else:
        left, of_all = np.sum(list(last["kept"].values()), 0)
        assert 0.5 * of_all < left <= 0.6 * of_all
    if uniform:
        shares = [left / of_all for left, of_all in last["kept"].values()]
        assert max(shares) - min(shares) <= 0.25
    written = plain(onnx.load(found.file))
    coupling = find_coupling(written)
    assert coupling.parameters(coupling.all_kept()) == last["parameters"]


def test_what_is_done_is_not_done_again(network: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = recipe({"channels": {"share": 0.7}})
    first = shrunk(network, asked)
    content, stamp = first.file.read_bytes(), first.file.stat().st_mtime_ns
    assert shrunk(network, asked).file.stat().st_mtime_ns == stamp
    assert "continuing after 0-channels" in caplog.text
    first.file.write_bytes(content[:-1])
    assert shrunk(network, asked).file.read_bytes() == content


@pytest.mark.parametrize("way", [way for way in WAYS if way != "norms"])
def test_a_channel_that_nothing_comes_from_is_the_least_important(network: Path, way: str) -> None:
    model = plain(onnx.load(network))
    coupling = find_coupling(model)
    group = next(group for group in coupling.groups if not any(site.tensor == "constant_0" for site in group.sites))
    dead = group.channels[2]
    for tensor in model.graph.initializer:
        for place, axis in enumerate(coupling.tensors.get(tensor.name, ())):
            if axis is not None and any(site.tensor == tensor.name and site.axis == place for site in group.sites):
                value = onnx.numpy_helper.to_array(tensor).copy()
                np.moveaxis(value, place, 0)[coupling.channel_of[axis] == dead] *= 1e-3
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    scores = scores_of(model, coupling, [group], way, images(), seed=0)[0]
    assert scores.argmin() == 2
    assert (scores > 0).sum() >= len(scores) - 1


def test_channels_that_can_be_predicted_cost_nothing(tmp_path: Path) -> None:
    """Half of the channels are others' halves: what reads them learns to read the others instead."""
    model = convolutions(["plain"], 3)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("constant_0", "constant_1"):  # the first convolution, 8 channels
        value = onnx.numpy_helper.to_array(tensors[name]).copy()
        value[4:] = value[:4] / 2  # which ReLU keeps
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "copies.onnx")
    first = model.graph.node[0].name
    losses = []
    for mend in (True, False):
        options = {"share": 0.5, "of": "channels", "only": first, "mend": mend}
        found = shrunk(tmp_path / "copies.onnx", recipe({"channels": options}))
        before, after = (
            open_on_cpu(path).run(None, {"image": IMAGES})[0] for path in (tmp_path / "copies.onnx", found.file)
        )
        losses.append(np.abs(after - before).max() / np.abs(before).max())
    assert losses[0] < 2e-3 < losses[1]


@pytest.mark.parametrize("whiten", [False, True])
def test_training_brings_outputs_back(network: Path, whiten: bool) -> None:
    options: Mapping[str, Options] = {
        "channels": {"share": 0.9, "by": "outputs", "only": "conv_1_0,conv_10_0"},
        "retrain": {"steps": 40, "batch": 4, "flip": True, "shift": 1, "mix": True, "features": 0.1, "whiten": whiten},
    }
    found = shrunk(network, recipe(options))
    curve = found.steps[-1]["curve"]
    assert curve[-1][2] < 0.7 * curve[0][2]
    losses = []
    for name in ("0-channels", "1-retrain"):
        errors = [
            open_on_cpu(network.parent / "work" / name / "model.onnx").run(None, dict(feed))[0]
            - open_on_cpu(network).run(None, dict(feed))[0]
            for feed in images()
        ]
        losses.append(float(np.square(errors).mean()))
    assert losses[1] < losses[0]
    planned = shrink_graph(network, recipe(options), images, folder=network.parent / "plan", train=False)
    assert planned.skipped == ("retrain",)
    assert len(planned.steps) == 2


def test_heads_and_widths_go_one_after_the_other(tmp_path: Path) -> None:
    onnx.save(encoder(fused=False), tmp_path / "encoder.onnx")
    options = {"heads": {"share": 0.5, "of": "channels"}, "mlp_width": {"share": 0.6, "of": "channels"}}
    found = shrunk(tmp_path / "encoder.onnx", recipe(options), None)
    kept = [next(iter(step["kept"].values())) for step in found.steps[1:]]
    assert kept == [[2, 4], [6, 10]]


def test_a_pruned_encoder_learns_from_texts_of_all_lengths(tmp_path: Path) -> None:
    """A head and a fifth of an MLP's width are gone; texts are not batched, and sums inside teach too."""
    model = encoder(fused=True)
    for tensor in model.graph.initializer:  # so small that attention looks at more than one place
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(0.4), tensor.name)
            )
    onnx.save(model, tmp_path / "encoder.onnx")

    def texts() -> Iterator[Feed]:
        for seed in range(80):
            random = np.random.default_rng(seed)
            yield {"x": random.normal(size=(1, int(random.integers(2, 9)), 6)).astype(np.float32)}

    most: Options = {"share": 0.8, "of": "channels", "by": "outputs", "samples": 64}
    trained: Options = {"steps": 80, "batch": 4, "samples": 64, "rate": 0.03, "features": 0.5, "features_at": 2}
    found = shrunk(tmp_path / "encoder.onnx", recipe({"heads": most, "mlp_width": most, "retrain": trained}), texts)
    assert [next(iter(step["kept"].values())) for step in found.steps[1:3]] == [[3, 4], [8, 10]]
    assert len(found.steps[-1]["features"]) == 1  # the last sum is the output
    unseen = list(texts())[64:]  # by none of the steps
    losses = []
    for name in ("1-mlp_width", "2-retrain"):
        pruned, whole = (
            open_on_cpu(path) for path in (tmp_path / "work" / name / "model.onnx", tmp_path / "encoder.onnx")
        )
        pairs = [[session.run(None, dict(feed))[0] for session in (pruned, whole)] for feed in unseen]
        losses.append(float(np.mean([np.square(a - b).sum() / np.square(b).sum() for a, b in pairs])))  # what it learns
    assert losses[1] < 0.9 * losses[0]


def test_the_residual_block_that_does_nothing_goes_first(network: Path) -> None:
    model = onnx.load(network)
    blocks = find_blocks(plain(model))
    assert [block.name for block in blocks] == ["add_5_0", "add_14_0"]
    branch = next(node for node in model.graph.node if node.output[0] == blocks[1].y).input[1]
    makes = next(node for node in model.graph.node if branch in node.output)
    last = next(node for node in model.graph.node if makes.input[0] in node.output)  # the convolution before ReLU
    for tensor in model.graph.initializer:
        if tensor.name in last.input:
            zeros = np.zeros(tensor.dims, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, network)
    found = shrunk(network, recipe({"depth": {"blocks": 1}}))
    assert found.steps[-1]["removed"] == {"add_14_0": 0.0}
    assert found.steps[-1]["multiply_adds"] < found.steps[0]["multiply_adds"]
    for feed in images():
        before, after = (open_on_cpu(path).run(None, dict(feed))[0] for path in (network, found.file))
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "options", "samples", "message"),
    [
        (
            "channels",
            {"share": 0.01},
            images,
            r"share = 0.01 of the [\d,]+ multiply-adds cannot be reached: .* 0\.\d+ remain",
        ),
        ("channels", {"only": "layer9*"}, images, r"only: 'layer9\*' matches none of the \d+ groups: conv_0"),
        ("channels", {"skip": "*"}, images, r"skip leaves none of \d+ groups"),
        ("channels", {"by": "outputs"}, None, r'by = "outputs" looks at what samples send through .* give some'),
        ("channels", {"mend": True}, None, "mend = true looks at what samples send through"),
        ("channels", {"by": "norms"}, images, "have no batch norm"),
        (
            "channels",
            {"share": 1.5},
            images,
            r"\[options.channels\] share must be more than 0 and less than 1, not 1.5",
        ),
        ("channels", {"shares": 0.5}, images, "no option 'shares'; did you mean 'share'"),
        ("heads", {}, images, "heads finds no heads in this graph that can go: there are channels"),
        ("experts", {}, images, "experts prunes checkpoints of language models; of an ONNX graph take channels, "),
        ("rtn", {}, images, r"rtn does not make a smaller model; rtn belongs into \[weights\]"),
        ("depth", {"blocks": 2}, images, "blocks = 2, and there are 2; leave at least one"),
        ("depth", {}, images, r"\[options.depth\] needs blocks, how many go, or share"),
        ("depth", {"share": 0.01}, images, r"with one residual block left 0\.\d+ remain; give more"),
        ("depth", {"blocks": 1}, None, "there are no samples; give some"),
        ("retrain", {}, None, "retrain learns from samples of what the model is for, and there are none"),
        ("retrain", {"features": 1.0, "batch": 4, "zoom": 1.3, "paste": True}, images, None),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(
    network: Path, steps: str, options: Options, samples: object, message: str | None
) -> None:
    if message is None:
        assert shrunk(network, recipe({steps: {**options, "steps": 1}}), samples).steps[-1]["name"] == "retrain"
        return
    with pytest.raises(InputError, match=message):
        shrunk(network, recipe({steps: options}), samples)
    assert not (network.parent / "work").exists()


@pytest.mark.parametrize(("options", "looks"), [({"by": "outputs"}, True), ({"mend": True}, True), ({}, False)])
def test_few_samples_are_told(network: Path, options: Options, *, looks: bool) -> None:
    asked = recipe({"channels": {"share": 0.6, **options}})
    _, step = shrunk(network, asked, lambda: islice(images(), 4)).steps  # of two images each
    assert step.get("samples") == (8 if looks else None)
    channels = sum(len(group) for group in find_coupling(plain(onnx.load(network))).groups)
    told = f"channels looked at 8 samples to tell which of {channels} channels go, and these are few"
    assert few_samples(step).startswith(told if looks else "")
    assert bool(few_samples(step)) == looks
    assert not few_samples(dict(step) | {"samples": 64})
