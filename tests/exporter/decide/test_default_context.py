"""How long a text may be unless more is asked for: as memory suits, not as long as the model was trained for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_variant
from variants import Variant

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.cpu_graph import planned_graphs
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.plan.making import bytes_beside, make_plan
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Budget
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import load

LONG = Variant(
    "llama",
    {
        "max_position_embeddings": 131_072,
        "hidden_size": 512,
        "vocab_size": 4096,
        "head_dim": 16,
        "num_key_value_heads": 1,
    },
)


def test_texts_have_by_default_as_many_tokens_as_memory_suits(tmp_path: Path) -> None:
    checkpoint = save_variant(LONG, tmp_path / "long", seed=1)
    plan = decide(checkpoint, target="x86-cpu", recipe="fp32").plan
    assert plan.context_length == 131_072
    assert 4096 < plan.default_context < 131_072
    assert plan.cache_bytes_at(plan.default_context) <= plan.data_bytes < plan.cache_bytes_at(2 * plan.default_context)
    small = decide(checkpoint, target="x86-cpu", recipe="int4").plan
    assert 4096 <= small.default_context < plan.default_context
    asked = decide(checkpoint, target="x86-cpu", recipe="int4", context_length=100_000).plan
    assert asked.default_context == asked.context_length == 100_000


def test_a_bundle_opens_with_its_default_context_and_takes_more_when_asked(tmp_path: Path) -> None:
    checkpoint, out = save_variant(LONG, tmp_path / "long", seed=1), tmp_path / "bundle"
    export(checkpoint, target="x86-cpu", recipe="int4", out=out)
    expected = decide(checkpoint, target="x86-cpu", recipe="int4").plan.default_context
    assert load(out).context == expected
    genai = json.loads((out / "genai_config.json").read_text())
    assert (genai["search"]["max_length"], genai["model"]["context_length"]) == (expected, 131_072)
    assert load(out, context=131_072).context == 131_072
    with pytest.raises(InputError, match="allows at most 131072"):
        load(out, context=131_073)
    with pytest.raises(InputError, match=f"do not fit in the context of {expected}.*the model allows 131072"):
        load(out).prefill([1] * (expected + 1))


def test_both_graphs_have_one_default(tmp_path: Path) -> None:
    """States in float16 take half as much, and a bundle has one default all the same."""
    checkpoint = save_variant(LONG, tmp_path / "long", seed=1)
    prepared = decide(checkpoint, target="arm64-cpu", recipe="int8")
    half, single = planned_graphs(prepared)
    assert half.plan.cache_bytes < single.plan.cache_bytes
    assert half.plan.default_context == single.plan.default_context == prepared.plan.default_context > 4096


@pytest.mark.parametrize("spare", [0.0, 1.0, 3.5])
def test_a_budget_in_memory_has_texts_of_as_many_tokens_as_it_leaves_room_for(tmp_path: Path, spare: float) -> None:
    checkpoint = Checkpoint.open(save_variant(LONG, tmp_path / "long", seed=1))
    decoder, recipe = describe(checkpoint.config, checkpoint.tensors), read_recipe("int4")
    unlimited = make_plan(decoder, recipe, lambda _: 4)
    least = unlimited.cache_bytes_at(4096)
    memory = (unlimited.data_bytes + (1 + spare) * least) / 1e6
    limited = replace(recipe, budget=Budget(memory_mb=memory))
    plan = make_plan(decoder, limited, lambda _: 4)
    assert plan.default_context == {0.0: 4096, 1.0: 8192, 3.5: 16384}[spare]
    assert plan.data_bytes + plan.cache_bytes_at(plan.default_context) <= memory * 1e6
    assert bytes_beside(plan, limited) == least  # what the weights have to leave, however long a text may become
    asked = replace(limited, context_length=10_000)
    assert bytes_beside(make_plan(decoder, asked, lambda _: 4), asked) == unlimited.cache_bytes_at(10_000)
