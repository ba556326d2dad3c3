"""Bias correction: the mean output error is zero, on what the rounded layer computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from layer_tasks import TinyModel, layer_task, plan, tiny_model

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.methods.repair.bias_correction import METHOD
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.network import layer_forward
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.recipe.recipe import Recipe, Storage

INT4 = Storage("rtn", 4, 32)
FLOAT = Storage()


def described(name: str, **options: bool) -> TinyModel:
    model = tiny_model(name)
    recipe = Recipe("test", INT4, INT4, INT4, options={"bias_correction": options})
    return TinyModel(METHOD.describe(model.decoder, recipe), model.weights)


def rounded_task(model: TinyModel, directory: Path) -> LayerTask:
    task = layer_task(model, directory, INT4)
    rtn = load_method("rtn")
    assert isinstance(rtn, Method)
    for linear in task.linears():
        scheme, full = task.scheme(linear.weight), task.full(linear.weight)
        if scheme is None:
            assert linear.weight.kind == "router"
            continue
        task.codes[linear.weight.name] = Codes.unpack(rtn.quantize(full.numpy(), scheme, None), scheme, full.shape[1])
    return task


def mean_output_errors(task: LayerTask) -> dict[str, np.ndarray]:
    """E[Ŵ x + b̂ − W x − b] of each projection with x from the rounded layer, float64 (rows,)."""
    errors: dict[str, np.ndarray] = {}

    def tap(linears: tuple[Linear, ...], x: torch.Tensor) -> torch.Tensor:
        mean = x.reshape(-1, x.shape[-1]).double().numpy().mean(0)
        for linear in linears:
            moved = (task.values(linear.weight) - task.full(linear.weight)).double().numpy() @ mean
            if linear.bias is not None:
                moved += (task.values(linear.bias) - task.full(linear.bias)).double().numpy()
            errors[linear.weight.name] = moved
        return x

    (x,) = task.inputs
    layer_forward(task.layer, task.values, x, task.rotaries, tap)
    return errors


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "olmo2-biases", "olmoe", "qwen2_moe"])
def test_the_mean_output_error_is_zero(name: str, tmp_path: Path) -> None:
    task = rounded_task(described(name), tmp_path)
    full = {key: weight.clone() for key, weight in task.weights.items()}
    before = mean_output_errors(task)
    assert METHOD.layer is not None
    METHOD.layer(task, {"only_existing": False})
    after = mean_output_errors(task)
    assert len(after) == len(task.linears())
    for key in after:
        assert np.abs(before[key]).max() > (1e-3 if key in task.codes else -1)
        assert np.abs(after[key]).max() <= 1e-5
    assert all(torch.equal(task.weights[key], full[key]) for key in full)  # the reference stays


def test_every_rounded_projection_gets_a_bias_and_the_plan_holds_it() -> None:
    decoder = described("llama").decoder
    biases = [
        linear.bias
        for layer in decoder.layers
        for linear in (layer.mixer(Attention).output, layer.mixer(MLP).gate)
        if linear
    ]
    assert [bias.name for bias in biases if bias] == [
        f"layers.{index}.{part}.bias" for index in range(3) for part in ("attention.output", "mlp.gate")
    ]
    for bias in biases:
        assert bias is not None
        planned = plan(decoder, INT4).of(bias)
        assert (planned.scheme, planned.bytes_before, planned.bytes_after) == (None, 0, 4 * bias.shape[0])


def test_only_existing_biases_are_corrected_when_asked(tmp_path: Path) -> None:
    model = described("qwen2", only_existing=True)  # only qkv has a bias
    assert model.decoder == tiny_model("qwen2").decoder
    task = rounded_task(model, tmp_path)
    assert METHOD.layer is not None
    METHOD.layer(task, {"only_existing": True})
    errors = mean_output_errors(task)
    assert {key for key, error in errors.items() if np.abs(error).max() <= 1e-5} == {"layers.0.attention.qkv"}


def test_a_projection_kept_in_float32_gets_none() -> None:
    decoder = tiny_model("llama").decoder
    assert METHOD.describe(decoder, Recipe("test", FLOAT, INT4, INT4)) == decoder
