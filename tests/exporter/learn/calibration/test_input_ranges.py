"""Static ranges are those of the weights that are stored, also when the whole model was repaired after its layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import KilledError, calibration, content, prepare
from safetensors.numpy import load_file

from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.ranges import to_scale
from edgepress.exporter.learn.calibration import engine
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.methods.repair import distill
from edgepress.exporter.methods.tasks import ModelTask
from edgepress.exporter.model import network
from edgepress.exporter.model.description import layer_weights
from edgepress.exporter.model.parts.primitives import Linear, Weight

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = np.random.default_rng(5).integers(3, 300, (9, 16)).astype(np.int64)
RECIPE = """after = ["distill"]
[weights]
bits = 8
block_size = "channel"
[embedding]
bits = 4
block_size = 32
[activations]
type = "{kind}"
ranges = "minmax"
[options.distill]
steps = 6
batch = 4
"""


def louder(task: ModelTask, _options: object) -> None:
    """A repair that no range can sleep through: all norms and biases of the layers give a quarter more."""
    for layer in task.decoder.layers:
        for weight in layer_weights(layer):
            if weight.kind in ("norm", "bias"):
                found = task.stored(weight)
                assert isinstance(found, torch.Tensor)
                task.put(weight, 1.25 * found.numpy())


def extremes(run: Calibration) -> dict[str, tuple[float, float]]:
    """The least and largest value that goes into each projection of the model as stored, all text at once."""
    stored = run._model_task(lambda *_: None).stored  # type: ignore[arg-type, return-value] - no bars
    found: dict[str, tuple[float, float]] = {}

    def values(weight: Weight) -> torch.Tensor:
        made = stored(weight)
        return made.dequantize() if isinstance(made, Codes) else made

    def tap(linears: tuple[Linear, ...], x: torch.Tensor) -> torch.Tensor:
        for linear in linears:
            seen = x / x.abs().amax(-1, keepdim=True) if linear.weight.name.endswith("mlp.down") else x
            found[linear.weight.name] = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
        return x

    with torch.no_grad():
        x = network.embed(run.decoder, values, torch.from_numpy(TOKENS[: run.layer_sequences]))
        for layer in run.decoder.layers:
            x = network.layer_forward(layer, values, x, run.rotaries, tap)
    return found


@pytest.mark.parametrize(("name", "kind"), [("llama", "uint8"), ("gpt2", "uint16"), ("gemma3_text", "uint8")])
def test_ranges_are_taken_again_after_the_whole_model_was_repaired(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "METHOD", replace(distill.METHOD, model=louder))
    prepared = prepare(tmp_path, RECIPE.format(kind=kind), name)
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        stages = run.run()
        assert run.stages()[-1] == stages.complete[-1]
        assert not list(run.store.directory.glob("ranges.*"))
        before: dict[str, np.ndarray] = {}
        for path in (tmp_path / "store").glob("*-layer.safetensors"):
            before |= load_file(path)
        bits = {"uint8": 8, "uint16": 16}[kind]
        for projection, (low, high) in extremes(run).items():
            scale, zero_point = to_scale(low, high, bits)
            found = float(stages.array(projection, "input_scale"))
            assert found == pytest.approx(scale, rel=1e-4)
            assert abs(int(stages.array(projection, "input_zero_point")) - zero_point) <= 1
            if projection == "layers.0.attention.qkv":
                assert found == pytest.approx(1.25 * float(before[f"{projection}/input_scale"]), rel=1e-4)


def test_killed_while_it_takes_them_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(tmp_path, RECIPE.format(kind="uint8"))
    with calibration(prepared, tmp_path / "whole", TOKENS) as run:
        run.run()
    original = engine.model_ranges

    def killed(*arguments: object, **named: object) -> None:
        original(*arguments, **named)  # type: ignore[arg-type] - as called
        raise KilledError

    with monkeypatch.context() as patched, calibration(prepared, tmp_path / "killed", TOKENS) as run:
        patched.setattr(engine, "model_ranges", killed)
        with pytest.raises(KilledError):
            run.run()
    with calibration(prepared, tmp_path / "killed", TOKENS) as run:
        run.run()
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_without_a_repair_the_layers_ranges_stay(tmp_path: Path) -> None:
    recipe = RECIPE.format(kind="uint8").replace('after = ["distill"]', "").partition("[options")[0]
    with calibration(prepare(tmp_path, recipe), tmp_path / "store", TOKENS) as run:
        stages = run.run()
        assert not any("ranges" in stage for stage in stages.complete)
        for projection, (low, high) in extremes(run).items():
            assert float(stages.array(projection, "input_scale")) == pytest.approx(to_scale(low, high, 8)[0], rel=1e-4)
