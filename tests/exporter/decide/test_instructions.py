"""What ``plan`` says of instructions: an estimate, apart from what is measured, and none of what was never counted."""

from pathlib import Path
from typing import Any, cast

import pytest
import tiny_models

from edgepress.exporter import decide
from edgepress.exporter.decide import instructions
from edgepress.exporter.decide.instructions import DECODE, PREFILL, cost_of, estimates, read_table, work_of
from edgepress.exporter.decide.report import format_plan, plan_to_json

BOTH = ["model_fp16.onnx", "model.onnx"]
CPUS = ["cortex-a76", "neoverse-n2"]


@pytest.fixture(autouse=True)
def _fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models hold 128 tokens."""
    monkeypatch.setattr(instructions, "CONTEXTS", (16, 32, 4096))
    monkeypatch.setattr(instructions, "PROMPT", 64)


def prepared(folder: Path, name: str = "llama", recipe: str = "int4", target: str = "arm64-cpu") -> Any:
    return decide(tiny_models.save(name, folder / "checkpoint"), target=target, recipe=recipe)


def test_both_graphs_on_every_processor_that_was_counted(tmp_path: Path) -> None:
    found = estimates(prepared(tmp_path))
    assert [(one.cpu, one.file) for one in found] == [(cpu, file) for cpu in CPUS for file in BOTH]
    for half, whole in zip(found[::2], found[1::2], strict=True):
        assert [*half.decode] == [*half.prefill] == [16, 32]  # what has no room is left out
        assert 0 < half.decode[32] - half.decode[16] < whole.decode[32] - whole.decode[16]
        assert whole.prefill[32] < whole.decode[32]


def test_it_is_among_the_estimates_and_printed_as_one(tmp_path: Path) -> None:
    plan = prepared(tmp_path)
    said = cast("dict[str, Any]", plan_to_json(plan))
    told = said["estimates"]["instructions"]
    assert [entry["file"] for entry in told["graphs"]] == BOTH * 2
    assert told["largest_error"] < 0.05
    assert "instructions" not in said["totals"]
    lines = format_plan(plan).splitlines()
    [first] = [
        index for index, line in enumerate(lines) if line.startswith("instructions cortex-a76, model_fp16.onnx: ")
    ]
    assert lines[first + 4].startswith(
        f"{'':<12} by one thread (estimate from models that were counted, of which it is off"
    )


@pytest.mark.parametrize(
    ("name", "recipe", "target"),
    [
        ("llama", "int4", "x86-cpu"),  # nothing of it was counted there
        ("llama", "int8-dynamic", "arm64-cpu"),  # DynamicQuantizeMatMul was counted in no model
        ("gemma3_text", "int4", "arm64-cpu"),  # nor was attention to a window
        ("gemma3n_text", "int4", "arm64-cpu"),  # nor attention with the keys of another layer
        ("gpt2", "int4", "arm64-cpu"),  # nor LayerNormalization
    ],
)
def test_there_is_none_of_what_was_not_counted(tmp_path: Path, name: str, recipe: str, target: str) -> None:
    plan = prepared(tmp_path, name, recipe, target)
    assert estimates(plan) == []
    assert cast("dict[str, Any]", plan_to_json(plan))["estimates"]["instructions"] is None
    assert "instructions" not in format_plan(plan)


def test_work_is_what_the_shapes_say(tmp_path: Path) -> None:
    """Of the tiny Llama: 3 layers of 64 wide, 4 heads, 2 of keys, 96 in the MLP, 320 tokens."""
    plan = prepared(tmp_path)
    graph = plan.make_graphs()["model.onnx"]
    decode, prefill = (work_of(graph, phase, 32) for phase in (DECODE, PREFILL))
    [product] = [name for name in decode if name.startswith("MatMulNBits")]
    layer, head = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96, 320 * 64
    assert decode[product]["weights"] == 3 * layer + head
    of_last = 64 * 64 + 3 * 64 * 96 + head  # after its attention
    assert prefill[product]["weights"] == 3 * layer + head - of_last
    assert prefill[product]["last weights"] == of_last / 64
    assert decode["GroupQueryAttention, float"] == {"heads": 12, "width": 3 * 64, "width keys": 3 * 64 * 32}


def test_what_the_last_token_does_costs_what_a_decoded_one_costs() -> None:
    costs = {DECODE: {"a": {"x": 2.0}}, PREFILL: {"a": {"x": 5.0}}}
    assert cost_of({"a": {"x": 1.0, "last x": 10.0}}, costs, PREFILL) == 25
    assert cost_of({"b": {"x": 1.0}}, costs, PREFILL) is None
    assert read_table().costs.keys() == set(CPUS)
