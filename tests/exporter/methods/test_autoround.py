"""Rounding learned on what a layer gives: against all roundings there are, and never worse than where it began."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import calibration, prepare

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.methods.round import autoround
from edgepress.exporter.methods.tasks import LayerTask
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Block, Layer, layer_linears
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.streams.learned import split

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = np.random.default_rng(7).integers(3, 300, (32, 20)).astype(np.int64)
OPTIONS = dict(autoround.METHOD.options)


def prepare_autoround(
    folder: Path, *, start: str = "gptq", name: str = "llama", more: str = "", steps: int = 24
) -> Prepared:
    recipe = (
        '[weights]\nmethod = "autoround"\nbits = 2\nblock_size = 32\n[embedding]\nmethod = "rtn"\nbits = 4\n'
        f'[options.autoround]\nstart = "{start}"\nsteps = {steps}\n{more}'
    )
    return prepare(folder, recipe, name)


class Seen:
    """A layer before and after it was tuned, and its error on some sequences, computed without autoround's code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[tuple[float, float]] = []
        self.codes: list[tuple[dict[str, Codes], dict[str, Codes]]] = []
        monkeypatch.setattr(autoround, "METHOD", replace(autoround.METHOD, tune=self.tune))

    def tune(self, task: LayerTask, options: dict[str, object]) -> None:
        begun, before = dict(task.codes), self.error(task)
        autoround.tune(task, options)  # type: ignore[arg-type]
        self.errors.append((before, self.error(task)))
        self.codes.append((begun, dict(task.codes)))

    @staticmethod
    def error(task: LayerTask) -> float:
        """Mean squared error on the sequences that are held out."""
        _, held_out = split(len(TOKENS), task.index, "autoround")
        assert task.reference_inputs is not None
        total = []
        with torch.no_grad():
            for i in held_out:
                sequence = slice(int(i), int(i) + 1)
                reference = task.reference_inputs.read(sequence)
                wanted = network.layer_forward(task.layer, task.full, reference, task.rotaries)
                found = network.layer_forward(task.layer, task.values, task.inputs.read(sequence), task.rotaries)
                total.append(float((wanted - found).square().mean()))
        return float(np.mean(total))


@pytest.mark.parametrize(("start", "name"), [("rtn", "llama"), ("gptq", "gemma3_text")])
def test_each_layer_is_nearer_to_the_full_precision_one_on_text_not_trained_on(
    start: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    with calibration(prepare_autoround(tmp_path, start=start, name=name), tmp_path / "store", TOKENS) as run:
        stages = run.run()
        assert len(seen.errors) == len(run.decoder.layers)
        for before, after in seen.errors:
            assert after < before
        flipped = 0
        for (begun, ended), layer in zip(seen.codes, run.decoder.layers, strict=True):
            flipped += sum(int((begun[key].codes != codes.codes).sum()) for key, codes in ended.items())
            for linear in layer_linears(layer):
                key = linear.weight.name
                stored = stages.weight(key)
                assert isinstance(stored, Quantized)
                assert torch.equal(
                    Codes.unpack(stored, ended[key].scheme, linear.weight.shape[1]).codes, ended[key].codes
                )
        assert flipped > 0


def test_steps_that_lead_astray_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    prepared = prepare_autoround(tmp_path, start="rtn", steps=2)
    prepared.recipe.options["autoround"] |= {"rate": 30.0, "rounding_rate": 30.0}  # type: ignore[operator]
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        run.run()
    assert all(before == after for before, after in seen.errors)
    for begun, ended in seen.codes:
        assert all(torch.equal(begun[name].codes, ended[name].codes) for name in begun)


def test_only_what_the_plan_gives_to_autoround_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    more = '[[override]]\nmatch = "*down*"\nmethod = "rtn"\nbits = 4\n[[override]]\nmatch = "layers.0.*"\nbits = 32\n'
    prepared = prepare_autoround(tmp_path, start="rtn", more=more)
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        run.run()
    kinds = {"rtn": 0, "autoround": 0}
    for begun, ended in seen.codes:
        for name, codes in ended.items():
            kinds[codes.scheme.method] += int((begun[name].codes != codes.codes).sum())
    assert kinds["rtn"] == 0
    assert kinds["autoround"] > 0
    assert len(seen.codes) == len(prepared.decoder.layers) - 1  # the first layer is kept in float32


def test_an_unusable_start_or_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start = 'distill': it must be a method that rounds one weight"):
        prepare_autoround(tmp_path, start="distill")
    prepared = prepare_autoround(tmp_path)
    prepared.recipe.options["autoround"]["batch"] = 0  # type: ignore[index]
    with (
        pytest.raises(InputError, match="batch must be at least 1 and at most 1,000,000,000, not 0"),
        calibration(prepared, tmp_path / "store", TOKENS),
    ):
        pass
    with (
        calibration(prepare_autoround(tmp_path), tmp_path / "one", TOKENS[:1]) as run,
        pytest.raises(InputError, match="autoround needs two calibration sequences"),
    ):
        run.run()


def bent_layer() -> tuple[Layer, dict[str, torch.Tensor]]:
    """A layer whose attention gives 0, so that it computes x + down(relu(up(x))), x being 6 numbers."""
    random = torch.Generator().manual_seed(4)

    def linear(name: str, rows: int) -> Linear:
        return Linear(Weight(name, "linear", (rows, 6), ()))

    attention = Attention(
        heads=1, kv_heads=1, head_dim=6, scale=1.0, qkv=linear("qkv", 18), output=linear("output", 6), rope=None
    )
    mlp = MLP(up=linear("up", 6), down=linear("down", 6), activation="relu")
    layer = Layer((Block(norm=None, mixer=attention), Block(norm=None, mixer=mlp)))
    weights = {each.weight.name: torch.zeros(each.weight.shape) for each in layer_linears(layer)}
    weights["up"] = torch.randn(6, 6, generator=random)
    weights["down"] = torch.randn(6, 6, generator=random)
    return layer, weights


def test_it_comes_nearer_to_the_best_of_all_roundings(tmp_path: Path) -> None:
    """Six rows of six 2-bit codes each, that are independent of each other: all 6 · 4⁶ roundings are tried."""
    layer, weights = bent_layer()
    scheme = Scheme("autoround", 2, 16)
    schemes = {each.weight.name: scheme if each is layer.mixer(MLP).down else None for each in layer_linears(layer)}
    full = weights["down"]
    scales = full.abs().amax(1, keepdim=True) / 1.5
    codes = (full / scales + 2).round().clamp(0, 3).to(torch.uint8)
    start = Codes(codes, scales, torch.full((6, 1), 2, dtype=torch.uint8), scheme)
    shape = (256, 8, 6)
    inputs, outputs = (Activations(tmp_path / name, shape) for name in ("inputs", "outputs"))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    inputs.write(slice(0, 256), x)
    hidden = torch.relu(x.reshape(-1, 6) @ weights["up"].T)  # (tokens, 6)
    outputs.write(slice(0, 256), x + (hidden @ full.T).reshape(shape))
    task = LayerTask(
        index=0,
        layer=layer,
        schemes=schemes,
        rotaries={},
        weights=weights,
        inputs=inputs,
        reference_inputs=inputs,
        reference_outputs=outputs,
        device=torch.device("cpu"),
        codes={"down": start},
    )
    autoround.tune(task, OPTIONS | {"rate": 1e-9, "batch": 64})  # scales stay
    found = task.codes["down"]
    torch.testing.assert_close(found.scales, scales)
    second = (hidden.T @ hidden).double().numpy() / len(hidden)  # (6, 6)
    every = np.array(list(itertools.product(range(-2, 2), repeat=6)), np.float64)  # (4096, 6)

    def error(row: int, steps: np.ndarray) -> float:
        """The least mean squared error of an output, over roundings (roundings, 6)."""
        off = steps * float(scales[row]) - full[row].double().numpy()
        return float(np.einsum("ri,ij,rj->r", off, second, off).min())

    best = sum(error(row, every) for row in range(6))
    nearest = sum(error(row, codes[row : row + 1].numpy() - 2.0) for row in range(6))
    learned = sum(error(row, found.codes[row : row + 1].numpy() - 2.0) for row in range(6))
    assert nearest > 1.3 * best
    assert learned < 1.2 * best  # gradients straight through so few codes are coarse: 1.14 measured
