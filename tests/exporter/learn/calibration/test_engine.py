"""Layers pass one at a time, each on what the compressed ones before it give; a stopped run goes on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import KilledError, calibration, content, prepare
from safetensors.numpy import load_file, save_file

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.learn.calibration import rounding
from edgepress.exporter.model import network
from edgepress.exporter.model.description import layer_linears
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.terminal.progress import Advance, Progress

GPTQ = '[weights]\nmethod = "gptq"\nbits = 4\nblock_size = 32\n[embedding]\nmethod = "rtn"\n'
TOKENS = np.random.default_rng(3).integers(3, 300, (6, 24)).astype(np.int64)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_what_goes_on_is_what_the_stored_weights_give(name: str, tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GPTQ, name)
    decoder, plan = prepared.decoder, prepared.plan
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        stages = run.run()

        def stored(weight: Weight) -> torch.Tensor:
            if weight.name not in stages:  # outside the layers
                return run.read(weight)
            found, scheme = stages.weight(weight.name), plan.of(weight).scheme
            if not isinstance(found, Quantized):
                return torch.from_numpy(found)
            assert scheme is not None
            return Codes.unpack(found, scheme, weight.shape[1]).dequantize()

        def table(weight: Weight) -> torch.Tensor:
            if weight is decoder.embedding:
                return run._table_rows(weight, np.arange(weight.shape[0]), rounded=True)
            return stored(weight)

        x = network.embed(decoder, table, torch.from_numpy(TOKENS))
        rotaries = network.rotaries(decoder, TOKENS.shape[1])
        for layer in decoder.layers:
            x = network.layer_forward(layer, stored, x, rotaries)
        left = torch.cat(list(run._activations("inputs", len(decoder.layers))))
        torch.testing.assert_close(left, x, rtol=1e-4, atol=1e-4)
        for layer in decoder.layers:
            for linear in layer_linears(layer):
                assert f"{linear.weight.name}" in stages.reports
                assert stages.reports[linear.weight.name]["sqnr_db"] > 8


def test_a_layer_that_does_not_fit_into_memory_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(tmp_path, GPTQ)
    with calibration(prepared, tmp_path / "kept", TOKENS) as run:
        run.run()
    monkeypatch.setattr(rounding, "_room", lambda _: 0)
    with calibration(prepared, tmp_path / "again", TOKENS) as run:
        run.run()
    assert content(tmp_path / "kept") == content(tmp_path / "again")


def test_each_projection_sees_the_rounded_ones_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of the last projection are those of a layer whose other projections are rounded already."""
    prepared = prepare(tmp_path, GPTQ)
    layer = prepared.decoder.layers[0]
    seen: dict[str, torch.Tensor] = {}
    original = rounding._round

    def spy(task: object, weight: Weight, method: object, moments: object, recipe: object) -> None:
        seen[weight.name] = moments.second.clone()  # type: ignore[attr-defined] - Moments
        original(task, weight, method, moments, recipe)  # type: ignore[arg-type] - as called

    monkeypatch.setattr(rounding, "_round", spy)
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        inputs = run._inputs(0)[0]
        before = torch.cat(list(inputs))
        run._layer(0, layer, "0000-layer")
        stages = run.store.weights()

    def value(weight: Weight) -> torch.Tensor:
        found, scheme = stages.weight(weight.name), prepared.plan.of(weight).scheme
        if not isinstance(found, Quantized):
            return torch.from_numpy(found)
        assert scheme is not None
        return Codes.unpack(found, scheme, weight.shape[1]).dequantize()

    expected: dict[str, torch.Tensor] = {}

    def tap(linears: tuple[Linear, ...], x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).double()
        expected.update({linear.weight.name: rows.T @ rows for linear in linears})
        return x

    network.layer_forward(layer, value, before, network.rotaries(prepared.decoder, TOKENS.shape[1]), tap)
    assert seen.keys() == expected.keys()
    for name, second in expected.items():
        torch.testing.assert_close(seen[name].double(), second, rtol=1e-3, atol=1e-3 * float(second.abs().max()))


def stops_at(turn: int) -> Progress:
    """Bars that kill the run when one advances for the ``turn``-th time."""

    @contextmanager
    def bar(_total: int, _label: str, _unit: str = "") -> Iterator[Advance]:
        left = turn

        def advance(_count: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError

        yield advance

    return bar


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GPTQ)
    with calibration(prepared, tmp_path / "whole", TOKENS) as run:
        run.run()
    for stop in (1, 2, 3):
        with pytest.raises(KilledError), calibration(prepared, tmp_path / f"stopped{stop}", TOKENS) as run:
            run.run(stops_at(stop))
        done = content(tmp_path / f"stopped{stop}")
        assert len(done) == stop
        with calibration(prepared, tmp_path / f"stopped{stop}", TOKENS) as run:
            run.run()
        assert content(tmp_path / f"stopped{stop}") == content(tmp_path / "whole")


def test_activations_that_are_not_finite_are_one_clear_error_and_lose_nothing(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GPTQ)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"] * np.float32(1e38)
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"] * np.float32(1e30)
    save_file(tensors, file, {"format": "pt"})
    prepared = decide(tmp_path / "model", target="arm64-cpu", recipe=tmp_path / "recipe.toml")
    with (
        calibration(prepared, tmp_path / "store", TOKENS) as run,
        pytest.raises(InputError, match=r"NaN or infinite act.*layer"),
    ):
        run.run()
    assert list(content(tmp_path / "store")) == ["0000-layer.safetensors"]


@pytest.mark.parametrize(
    ("tensor", "place", "done"),
    [
        ("model.embed_tokens.weight", "[5, 3]", []),  # token 5 is in the text
        ("model.layers.0.self_attn.q_proj.weight", "[0, 9]", []),
        ("model.layers.2.input_layernorm.weight", "[9]", ["0000-layer.safetensors", "0001-layer.safetensors"]),
    ],
)
def test_a_checkpoint_with_nan_is_refused_by_name(tensor: str, place: str, done: list[str], tmp_path: Path) -> None:
    prepared = prepare(tmp_path, GPTQ)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[tensor][tuple(int(i) for i in place.strip("[]").split(", "))] = np.nan
    save_file(tensors, file, {"format": "pt"})
    tokens = TOKENS.copy()
    tokens[0, 0] = 5
    message = re.escape(f"{tensor} holds 1 NaN and 0 infinite values, the first at {place}")
    with pytest.raises(InputError, match=message), calibration(prepared, tmp_path / "store", tokens) as run:
        run.run()
    assert list(content(tmp_path / "store")) == done


def test_methods_in_the_wrong_place_are_refused(tmp_path: Path) -> None:
    for recipe, message in (
        (f'before = ["gptq"]\n{GPTQ}', "gptq is not a transform"),
        (f'after = ["gptq"]\n{GPTQ}', "gptq is not a repair"),
    ):
        folder = tmp_path / message.replace(" ", "-")
        folder.mkdir()
        with pytest.raises(InputError, match=message):
            prepare(folder, recipe)
    folder = tmp_path / "option"
    folder.mkdir()
    with pytest.raises(InputError, match="did you mean 'damping'"):
        prepare(folder, f"{GPTQ}[options.gptq]\ndampning = 0.1\n")


@pytest.mark.parametrize(
    ("name", "rounding", "more"),
    [
        ("llama", "sparsegpt", ""),
        ("gpt2", "wanda", ""),
        ("gemma3_text", "magnitude", '[options.magnitude]\nthen = "rtn"\n'),
        ("llama", "sparsegpt", '[options.sparsegpt]\npattern = "2:4"\n'),
        ("llama", "autoround", '[options.autoround]\nstart = "wanda"\nsteps = 4\n[options.wanda]\npattern = "2:4"\n'),
    ],
)
def test_zeros_of_a_sparse_method_go_through_the_layers(name: str, rounding: str, more: str, tmp_path: Path) -> None:
    recipe = GPTQ.replace("gptq", rounding) + more
    prepared = prepare(tmp_path, recipe, name)
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        stages = run.run()
        for layer in prepared.decoder.layers:
            for linear in layer_linears(layer):
                planned, found = prepared.plan.of(linear.weight), stages.weight(linear.weight.name)
                assert planned.scheme is not None
                assert isinstance(found, Quantized)
                assert planned.scheme.zeros == ("2:4 zeros" if more.endswith('"2:4"\n') else "50% zeros")
                assert planned.stored_as.endswith(planned.scheme.zeros)
                restored = Codes.unpack(found, planned.scheme, linear.weight.shape[1]).dequantize()
                assert 0.5 <= float((restored == 0).float().mean()) < 0.75


def test_what_a_sparse_recipe_cannot_have_is_said_when_it_is_planned(tmp_path: Path) -> None:
    sparse = GPTQ.replace("gptq", "wanda")
    for recipe, message in (
        (f"{sparse}[options.wanda]\nsparsity = 1.0\n", r"\[options.wanda\] sparsity must be .* less than 1, not 1\.0"),
        (f"{sparse}[options.wanda]\nsparsety = 0.2\n", "did you mean 'sparsity'"),
        (sparse.replace("bits = 4", "bits = 32"), r"layers.0\.\S+: wanda makes 50% zeros among codes.*bits = 32"),
        (f"{sparse}[budget]\nkl = 0.1\n", r"wanda makes 50% zeros, and \[budget\] measures what tensors lose without"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(tmp_path, recipe)
    override = '[[override]]\nmatch = "layers.0.*"\nbits = 32\n'
    prepared = prepare(tmp_path, f"{sparse}{override}")  # one tensor may stay whole
    planned = {tensor.weight.name: tensor for tensor in prepared.plan.tensors}
    assert planned["layers.0.mlp.down"].scheme is None
    assert "50% zeros" in planned["layers.1.mlp.down"].stored_as
