"""AWQ against brute force: its error is the output's, its choice the grid's best, and the function stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from layer_tasks import TinyModel, layer_task, logits, tiny_model

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.folding import foldable_groups
from edgepress.exporter.methods.kinds import load_method
from edgepress.exporter.methods.options import read_options
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.methods.transform import awq
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.network import layer_forward
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.recipe.recipe import Storage

INT4 = Storage("rtn", 4, 32)
OPTIONS = {"grid": 5, "rows": 512}
ALL = 10**6  # rows


def with_outliers() -> TinyModel:
    """Some channels of each norm's gain, of v and of up are far larger than the others, as in trained models."""
    model = tiny_model("llama")
    random = np.random.default_rng(0)
    weights = dict(model.weights)
    for layer in model.decoder.layers:
        for group in foldable_groups(layer):
            factors = np.where(random.random(group.count) < 0.1, 10, 1).astype(np.float32)
            for source in group.sources:
                whole = weights[source.name].clone()
                rows = whole[group.rows]
                whole[group.rows] = rows * torch.from_numpy(factors).reshape(-1, *([1] * (rows.ndim - 1)))
                weights[source.name] = whole
    return TinyModel(model.decoder, weights)


def inputs_of(task: LayerTask) -> dict[str, np.ndarray]:
    """What goes into each projection, float64 (tokens, columns)."""
    seen: dict[str, np.ndarray] = {}

    def tap(linears: tuple[Linear, ...], x: torch.Tensor) -> torch.Tensor:
        seen.update((linear.weight.name, x.reshape(-1, x.shape[-1]).double().numpy()) for linear in linears)
        return x

    (x,) = task.inputs
    layer_forward(task.layer, task.full, x, task.rotaries, tap)
    return seen


def test_the_error_from_moments_is_that_of_the_outputs(tmp_path: Path) -> None:
    task = layer_task(with_outliers(), tmp_path, INT4)
    moments, inputs = task.observe(task.full), inputs_of(task)
    for group in foldable_groups(task.layer):
        scales = torch.exp(torch.randn(group.count, generator=torch.Generator().manual_seed(1)))
        columns = group.by_column(scales).double().numpy()
        expected = 0.0
        for linear in group.linears:
            x, w = inputs[linear.weight.name], task.full(linear.weight).double().numpy()
            stored = load_method("rtn").quantize((w * columns).astype(np.float32), Scheme("rtn", 4, 32), None)
            restored = dequantize(stored.values, stored.scales, Scheme("rtn", 4, 32), w.shape[1])
            y = x @ w.T - (x / columns) @ restored.astype(np.float64).T
            expected += float((y**2).sum(axis=1).mean())
        found = awq.output_error(task, group, moments[group.linears[0].weight.name], scales, ALL)
        assert found == pytest.approx(expected, rel=1e-3)


def test_outliers_are_scaled_and_the_error_falls(tmp_path: Path) -> None:
    task = layer_task(with_outliers(), tmp_path, INT4)
    moments = task.observe(task.full)
    gains = []
    for group in foldable_groups(task.layer):
        found = moments[group.linears[0].weight.name]
        scales = awq.best_scales(task, group, found, 10, ALL)
        plain = awq.output_error(task, group, found, torch.ones(group.count), ALL)
        least = awq.output_error(task, group, found, scales, ALL)
        size = group.by_channel(found.mean_square, "mean").sqrt()
        for alpha in np.linspace(0, 1, 11):
            raised = size ** float(alpha)
            raised = raised / (raised.max() * raised.min()).sqrt()
            assert least <= 1.0001 * awq.output_error(task, group, found, raised, ALL)
        gains.append(least / plain)
    assert max(gains) <= 1
    assert min(gains) < 0.8


def test_some_rows_tell_about_all(tmp_path: Path) -> None:
    task = layer_task(with_outliers(), tmp_path, INT4)
    moments = task.observe(task.full)
    for group in foldable_groups(task.layer):
        found, scales = moments[group.linears[0].weight.name], torch.ones(group.count)
        some, whole = (awq.output_error(task, group, found, scales, rows) for rows in (30, ALL))
        assert some == pytest.approx(whole, rel=0.35)
        assert some != whole


@pytest.mark.parametrize("key", ["grid", "rows"])
def test_a_search_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=rf"\[options.awq\] {key} must be at least 1 .*, not 0"):
        read_options("awq", awq.METHOD.declared, {key: 0})


@pytest.mark.parametrize("name", ["olmo2", "gemma3_text"])
def test_awq_changes_no_logit(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    task = layer_task(model, tmp_path, INT4)
    load_method("awq").fold(task, OPTIONS)
    assert any(not torch.equal(task.weights[key], model.weights[key]) for key in task.weights)
    before, after = logits(model.decoder, model.weights), logits(model.decoder, model.weights | task.weights)
    assert float((after - before).abs().max()) <= 1e-5 * float(before.abs().max())


def test_what_is_kept_in_float32_is_left_alone(tmp_path: Path) -> None:
    model = tiny_model("llama")
    task = layer_task(model, tmp_path, Storage())
    load_method("awq").fold(task, OPTIONS)
    assert all(torch.equal(task.weights[key], model.weights[key]) for key in task.weights)


def test_an_input_that_is_always_zero_gives_finite_scales(tmp_path: Path) -> None:
    model = tiny_model("llama")
    norm = model.decoder.layers[0].block(Attention).norm
    assert norm is not None
    gain = model.weights[norm.weight.name].clone()
    gain[::2] = 0
    task = layer_task(TinyModel(model.decoder, model.weights | {norm.weight.name: gain}), tmp_path, INT4)
    load_method("awq").fold(task, OPTIONS)
    assert all(bool(torch.isfinite(weight).all()) for weight in task.weights.values())
    task.weights[norm.weight.name] = torch.zeros_like(gain)
    load_method("awq").fold(task, OPTIONS)
    assert all(bool(torch.isfinite(weight).all()) for weight in task.weights.values())
