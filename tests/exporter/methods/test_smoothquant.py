"""SmoothQuant: the formula by hand, equal ranges, and the function stays."""

from pathlib import Path

import pytest
import torch
from layer_tasks import layer_task, logits, tiny_model

from edgepress.errors import InputError
from edgepress.exporter.methods.folding import foldable_groups
from edgepress.exporter.methods.kinds import load_method
from edgepress.exporter.methods.options import read_options
from edgepress.exporter.methods.transform.smoothquant import METHOD, smoothing_scales
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.recipe.recipe import Storage

INT8 = Storage("rtn", 8, 0)


@pytest.mark.parametrize("name", ["olmo2", "gemma3_text"])
def test_smoothing_changes_no_logit(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    task = layer_task(model, tmp_path, INT8)
    load_method("smoothquant").fold(task, {"alpha": 0.5})
    before, after = logits(model.decoder, model.weights), logits(model.decoder, model.weights | task.weights)
    assert float((after - before).abs().max()) <= 1e-5 * float(before.abs().max())


def test_half_gives_inputs_and_columns_the_same_range(tmp_path: Path) -> None:
    task = layer_task(tiny_model("qwen2"), tmp_path, INT8)
    load_method("smoothquant").fold(task, {"alpha": 0.5})
    moments = task.observe(task.full)
    for group in foldable_groups(task.layer):
        names = [linear.weight.name for linear in group.linears]
        x = group.by_channel(moments[names[0]].largest, "amax")
        columns = torch.stack([task.weights[name].abs().amax(0) for name in names]).amax(0)
        torch.testing.assert_close(x, group.by_channel(columns, "amax"), rtol=1e-4, atol=0)


def test_the_formula() -> None:
    layer = tiny_model("llama").decoder.layers[0]
    group = foldable_groups(layer)[0]
    weight = torch.zeros(layer.mixer(Attention).qkv.weight.shape)
    weight[3] = 2
    weight[4, 0] = -8
    largest = torch.full((64,), 16.0)
    found = smoothing_scales(group, {layer.mixer(Attention).qkv.weight.name: weight}, largest, 0.75)
    assert found[0] == pytest.approx(16**0.75 / 8**0.25)
    assert found[1] == pytest.approx(16**0.75 / 2**0.25)


def test_alpha_outside_0_to_1_is_refused() -> None:
    with pytest.raises(InputError, match=r"alpha must be at least 0 and at most 1, not 1\.5"):
        read_options("smoothquant", METHOD.declared, {"alpha": 1.5})
