"""Instructions on ARM: the gate that a missed kernel turns red, the tables, and what their samples prove."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from bundles import sign
from onnx import TensorProto, helper
from two_graphs import FLOAT16_FILE, FLOAT32_FILE

from edgepress.targets.emulator import Installation, System

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "benchmarks/results/arm_instructions.jsonl"


@pytest.fixture(name="script")
def _script(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("arm_instructions")


@pytest.fixture(name="tables")
def _tables(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("arm_instructions_tables")


def samples() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[1:]]


# ---- the gate --------------------------------------------------------------------------------------------------------


def test_bundles_take_the_committed_instructions_and_with_a_worse_kernel_or_casts_they_do_not(
    script: ModuleType, emulator: Installation, system: System, tmp_path: Path
) -> None:
    committed = json.loads(script.GATE.read_text(encoding="utf-8"))
    versions = emulator.versions | system.versions
    others = {name: versions[name] for name, value in committed["versions"].items() if versions[name] != value}
    if others:
        pytest.skip(
            f"counted with {committed['versions']}, here are {others}: run benchmarks/arm_instructions.py --gate"
        )
    single, half = script.gate_bundles(tmp_path).values()
    bundles = [*(single, half), changed(single, "level", to_float32), changed(half, "casts", add_casts, FLOAT16_FILE)]
    counted = script.count_gate((emulator, system), bundles)
    assert [found["graph"] for found in counted] == [FLOAT32_FILE, FLOAT16_FILE, FLOAT32_FILE, FLOAT16_FILE]
    good, good_half, level, casts = (found["instructions"] for found in counted)
    print(good, good_half, level, casts)
    assert not script.differing(good, committed["float32"])
    assert not script.differing(good_half, committed["float16"])
    assert len(script.differing(level, committed["float32"])) == len(good)
    assert script.differing(casts, committed["float16"])
    # attention in float32 in the place of float16's: what a missed kernel, or the wrong graph, would take
    assert len(script.differing(good, committed["float16"])) == len(good)


def changed(bundle: Path, name: str, change: Callable[[onnx.GraphProto], None], file: str = FLOAT32_FILE) -> Path:
    out = bundle.parent / name
    shutil.copytree(bundle, out)
    model = onnx.load(out / file, load_external_data=False)
    change(model.graph)
    onnx.save(model, out / file)
    return sign(out)


def to_float32(graph: onnx.GraphProto) -> None:
    """Products that multiply in float32: what a lost accuracy level does."""
    levels = [one for node in graph.node for one in node.attribute if one.name == "accuracy_level"]
    assert len(levels) > 4
    for level in levels:
        level.i = 0


def add_casts(graph: onnx.GraphProto) -> None:
    """One result goes through float16 and back: not the first product's, which attention in float16 reads anyway."""
    index, node = next((i, node) for i, node in enumerate(graph.node) if node.name == "layers.0.mlp.up.y")
    name = node.output[0]
    node.output[0] = "uncast"
    casts = [("uncast", "half", TensorProto.FLOAT16), ("half", name, TensorProto.FLOAT)]
    for offset, (read, given_name, kind) in enumerate(casts, 1):
        graph.node.insert(index + offset, helper.make_node("Cast", [read], [given_name], to=kind))


@pytest.mark.parametrize("committed", [100_000, 4_321_987])
def test_the_gate_is_a_tenth_of_a_per_cent(script: ModuleType, committed: int) -> None:
    for share, differs in ((0.9989, True), (0.9991, False), (1.0009, False), (1.0011, True)):
        assert bool(script.differing({"a": round(committed * share)}, {"a": committed})) == differs


# ---- the tables, and what their samples prove -----------------------------------------------------------------------


def made_up(layers: int, instructions: int, *, of_layers: int = 10, tokens: int = 1) -> dict[str, Any]:
    return {
        **{"tool": "edgepress", "model": "qwen2.5-0.5b", "form": "int4-128", "cpu": "a", "context": 64},
        **{"layers": layers, "of_layers": of_layers, "tokens": tokens, "instructions": instructions},
        **{"weight_bytes_loaded": 1, "state_bytes_loaded": 1, "operators": {"MatMulNBits": instructions}},
    }


def test_a_model_of_fewer_layers_is_scaled_and_says_so(tables: ModuleType) -> None:
    few = [made_up(1, 1_500_000), made_up(2, 2_000_000), made_up(4, 3_030_000)]
    row = tables.per_token(few).splitlines()[2]
    assert "| 6.12 |" in row  # 2 M, and 0.515 M for each of 8 layers more
    assert "scaled from 2 and 4 of 10 layers" in row
    assert "+1.00%" in tables.linearity(few).splitlines()[2]
    assert "6.120 (100.0%)" in tables.by_operator(few)
    whole = tables.per_token([*few, made_up(10, 7_000_000)]).splitlines()[2]
    assert "| 7.00 |" in whole
    assert "| counted |" in whole
    with pytest.raises(ValueError, match=r"10 layers was counted with \[1\] layers only"):
        tables.per_token(few[:1])


def ours() -> list[dict[str, Any]]:
    return [sample for sample in samples() if sample["tool"] == "edgepress"]


def test_operators_of_committed_samples_are_all_of_a_call(tables: ModuleType) -> None:
    """Of whole models of real sizes; what a session does once a run is more of the demo's decoded token."""
    for sample in ours():
        operators = sample["operators"]
        assert sum(operators.values()) == sample["instructions"]
        assert sample["instructions"] - sample["in_engine"] == operators["Python"]
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for sample in ours():
        key = tuple(sample[name] for name in ("model", "form", "cpu", "tokens", "context"))
        cases.setdefault(key, []).append(sample)
    for key, of_case in cases.items():
        rest = tables.scaled(of_case, lambda one: one["operators"]["between operators"])
        share = rest / tables.scaled(of_case, lambda one: one["instructions"])
        # A prompt has the kernel's timer in it, and memory that it is given again, more in one session than in another.
        most = 0.1 if key[0] == "demo" else 0.01 if key[3] == 1 else 0.025
        assert abs(share) < most, (key, share)


def test_committed_counts_are_linear_in_layers(tables: ModuleType) -> None:
    """Within half a per cent of a decoded token. One layer has no prompt's worth of MLP, whose memory two have."""
    rows = [line.split("|") for line in tables.linearity(ours()).splitlines()[2:]]
    assert rows
    for row in rows:
        assert abs(float(row[-2].strip(" %+"))) < (0.5 if "decode" in row[5] else 1.5), row
