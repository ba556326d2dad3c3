"""What `plan` says an export will take is made of speeds measured here, and is called an estimate."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VARIANTS, save_variant

from edgepress.cli import main
from edgepress.exporter import decide
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.bundle.stream import write_weights
from edgepress.exporter.decide import estimate
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.methods.round import rtn


def prepared(recipe: str) -> Prepared:
    return decide("demo", target="arm64-cpu", recipe=recipe)


@pytest.mark.parametrize("recipe", ["int4", "int4-fast"])
def test_an_estimate_is_made_of_measured_speeds(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow a machine: twice as long. Twice the cores: no longer than before."""
    plan = prepared(recipe)
    taken = 0.01
    monkeypatch.setattr(estimate, "_seconds", lambda _work: taken)
    before, cores = estimate.estimate(plan, 2), estimate.estimate(plan, 4)
    taken = 0.02
    slower = estimate.estimate(plan, 2)
    assert before.seconds > 0
    assert slower.seconds == pytest.approx(2 * before.seconds)
    assert before.seconds / 2 <= cores.seconds < before.seconds
    assert all(part.speed for part in before.parts)


def test_layers_take_the_time_of_the_experts_that_a_token_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = VARIANTS["olmoe"]
    monkeypatch.setattr(estimate, "_seconds", lambda _work: 1.0)
    monkeypatch.setattr(estimate, "_layer_speeds", lambda _prepared: (1e-6, 3e-6))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[weights]\nmethod = "gptq"\nbits = 4\n[embedding]\nmethod = "rtn"\n[calibration]\ntokens = 512\n'
    )
    found = []
    for chosen in (2, 4):  # of 6, each of three matrices of 64 × 96
        model = tmp_path / str(chosen)
        save_variant(replace(variant, config={**variant.config, "num_experts_per_tok": chosen}), model, seed=0)
        plan = decide(model, target="arm64-cpu", recipe=recipe)
        found.append(next(part.seconds for part in estimate.estimate(plan, 1).parts if part.name == "layers"))
    assert found[1] - found[0] == pytest.approx(3 * 2 * 3 * 64 * 96 * 512 * 1e-6)


def test_training_is_the_most_of_a_recipe_that_trains() -> None:
    found = estimate.estimate(prepared("int4-fast"), 2)
    seconds = {part.name: part.seconds for part in found.parts}
    assert {"rounding", "hashing", "layers", "gptq", "distill"} == set(seconds)
    assert max(seconds, key=lambda name: seconds[name]) == "distill"
    assert "text" in found.left_out[0]  # the model's own, as none is given


def test_what_learns_layers_is_estimated_with_what_it_begins_with(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[weights]\nmethod = "autoround"\nbits = 4\n[embedding]\nmethod = "rtn"\n')
    found = {part.name for part in estimate.estimate(prepared(str(recipe)), 2).parts}
    assert found == {"rounding", "hashing", "layers", "gptq", "autoround"}


def test_an_estimate_of_rounding_is_of_the_weights_that_the_export_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on by a second for each weight that is rounded."""
    plan, clock = prepared("int4"), [0]
    method = rtn.METHOD

    def quantize(rows: np.ndarray, scheme: Scheme, importance: np.ndarray | None) -> Quantized:
        clock[0] += rows.size
        return method.quantize(rows, scheme, importance)

    def seconds(work: Callable[[], object]) -> float:
        begun = clock[0]
        work()
        return max(float(clock[0] - begun), 1e-9)

    monkeypatch.setattr(rtn, "METHOD", replace(method, quantize=quantize))
    monkeypatch.setattr(estimate, "_seconds", seconds)
    said = next(part.seconds for part in estimate.estimate(plan, 1).parts if part.name == "rounding")
    clock[0] = 0
    write_weights(plan.checkpoint, plan.plan, tmp_path / "data", threads=1)
    assert said == pytest.approx(clock[0])


def test_plan_says_how_long_and_how_much_memory_and_that_it_is_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--recipe", "int4"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("export "))
    assert "estimate" in line
    assert "MB of memory" in line
    assert main(["plan", "demo", "--recipe", "int4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimates"]["export"]["seconds"] > 0
    assert "seconds" not in found["totals"]
    assert found["totals"]["cache_bytes_at_default_context"] <= found["totals"]["cache_bytes_at_full_context"]
