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


def test_a_bundle_takes_the_committed_instructions_and_one_with_a_worse_kernel_or_casts_does_not(
    script: ModuleType, emulator: Installation, system: System, tmp_path: Path
) -> None:
    committed = json.loads(script.GATE.read_text(encoding="utf-8"))
    versions = emulator.versions | system.versions
    others = {name: versions[name] for name, value in committed["versions"].items() if versions[name] != value}
    if others:
        pytest.skip(
            f"counted with {committed['versions']}, here are {others}: run benchmarks/arm_instructions.py --gate"
        )
    bundle = script.gate_bundle(tmp_path)
    bundles = [bundle, changed(bundle, "level", to_float32), changed(bundle, "casts", add_casts)]
    good, level, casts = (found["instructions"] for found in script.count_gate((emulator, system), bundles))
    print(good, level, casts)
    assert not script.differing(good, committed["instructions"])
    assert len(script.differing(level, committed["instructions"])) == len(good)
    assert script.differing(casts, committed["instructions"])


def changed(bundle: Path, name: str, change: Callable[[onnx.GraphProto], None]) -> Path:
    out = bundle.parent / name
    shutil.copytree(bundle, out)
    model = onnx.load(out / "model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, out / "model.onnx")
    return sign(out)


def to_float32(graph: onnx.GraphProto) -> None:
    """Products that multiply in float32: what a lost accuracy level does."""
    levels = [one for node in graph.node for one in node.attribute if one.name == "accuracy_level"]
    assert len(levels) > 4
    for level in levels:
        level.i = 0


def add_casts(graph: onnx.GraphProto) -> None:
    """One result goes through float16 and back."""
    index, node = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "MatMulNBits")
    name = node.output[0]
    node.output[0] = "uncast"
    casts = [("uncast", "half", TensorProto.FLOAT16), ("half", name, TensorProto.FLOAT)]
    for offset, (read, given_name, kind) in enumerate(casts, 1):
        graph.node.insert(index + offset, helper.make_node("Cast", [read], [given_name], to=kind))


@pytest.mark.parametrize("committed", [100_000, 4_321_987])
def test_the_gate_is_a_tenth_of_a_per_cent(script: ModuleType, committed: int) -> None:
    for share, differs in ((0.9989, True), (0.9991, False), (1.0009, False), (1.0011, True)):
        assert bool(script.differing({"a": round(committed * share)}, {"a": committed})) == differs
