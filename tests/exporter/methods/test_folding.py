"""Scales move between weights, and the logits stay: every tiny model, every group, in float64."""

import pytest
import torch
from layer_tasks import logits, tiny_model
from tiny_models import METHOD_VARIANTS, REPRESENTATIVES

from edgepress.exporter.methods.folding import foldable_groups
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import Recipe, Storage


def scales(count: int, seed: int) -> torch.Tensor:
    return torch.exp(torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@pytest.mark.parametrize("name", sorted({*METHOD_VARIANTS, *REPRESENTATIVES}))
def test_folding_changes_weights_and_no_logit(name: str) -> None:
    model = tiny_model(name)
    weights = {key: weight.double() for key, weight in model.weights.items()}
    for index, layer in enumerate(model.decoder.layers):
        for number, group in enumerate(foldable_groups(layer)):
            group.fold(weights, scales(group.count, 10 * index + number))
            for linear in group.linears:
                changed = weights[linear.weight.name] / model.weights[linear.weight.name]
                assert float((changed - 1).abs().max()) > 0.5
    before, after = logits(model.decoder, model.weights), logits(model.decoder, weights)
    assert float((after - before).abs().max()) <= 1e-10 * float(before.abs().max())


FOLDED = {
    "llama": ["qkv", "output", "gate", "up", "down"],
    "olmo2": ["output", "down"],  # no norm before qkv, gate and up
    "gpt2": ["qkv", "output", "up"],  # gelu(up) is no factor
    "gpt2-untied-scales": ["qkv", "output", "up", "down"],  # relu
    "phi": ["qkv", "up", "output"],  # one norm before both
    "gemma3_text": ["qkv", "output", "gate", "up", "down"],
}


@pytest.mark.parametrize("name", sorted(FOLDED))
def test_what_can_take_a_scale(name: str) -> None:
    for layer in tiny_model(name).decoder.layers:
        names = [linear.weight.name for group in foldable_groups(layer) for linear in group.linears]
        assert [key.rpartition(".")[2] for key in names] == FOLDED[name]


def test_the_plan_says_which_projections_are_left_and_why() -> None:
    storage = Storage("rtn", 4, 32)
    for name, left in (
        ("llama", {}),
        ("olmo2", dict.fromkeys(("attention.qkv", "mlp.gate", "mlp.up"), "no norm before it could take a scale")),
        ("gpt2", {"mlp.down": "gelu_tanh before it does not pass a scale on"}),
    ):
        decoder = tiny_model(name).decoder
        plan = make_plan(decoder, Recipe("test", storage, storage, storage, before=("awq",)), lambda _: 4)
        said = {t.weight.name: t.reason.partition("; awq leaves it: ")[2] for t in plan.tensors}
        found = {key.removeprefix("layers.0."): why for key, why in said.items() if why and key.startswith("layers.0.")}
        assert found == left


def test_query_heads_of_a_group_share_the_scales_of_v() -> None:
    layer = tiny_model("llama").decoder.layers[0]  # 4 heads, 2 kv heads of 16
    group = foldable_groups(layer)[1]
    by_column = torch.arange(64.0)
    assert group.by_channel(by_column, "amax").tolist() == [*range(16, 32), *range(48, 64)]
    assert group.by_channel(by_column, "mean").tolist() == [*range(8, 24), *range(40, 56)]
    spread = group.by_column(torch.arange(32.0)).tolist()
    assert spread == [*range(16), *range(16), *range(16, 32), *range(16, 32)]
