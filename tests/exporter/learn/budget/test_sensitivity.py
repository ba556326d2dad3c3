"""Prices against whole-model runs in transformers with the quantized weights put into the checkpoint."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import KilledError
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, save
from whole_models import load, log_probabilities, mean_kl

from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.learn.budget.rounder import Rounder
from edgepress.exporter.learn.budget.sensitivity import (
    TensorGroup,
    measure_prices,
    overrides,
    tensor_groups,
    total_passes,
)
from edgepress.exporter.learn.budget.shipped import measure_shipped
from edgepress.exporter.methods.round import gptq, rtn
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.recipe.recipe import Budget, Override, Recipe, Storage
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.store import Store
from edgepress.exporter.streams.variants import BaseRun, kl_sum

TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (3, 24)).astype(np.int64)
BUDGET = Budget(kl=1.0, candidates=("2:64", "4:16", "32"))
RECIPE = Recipe("mine", Storage(), Storage(), Storage(), budget=BUDGET)


pytestmark = pytest.mark.usefixtures("one_thread")


class Tiny:
    """A tiny checkpoint, its decoder, and its reference in float64."""

    def __init__(self, name: str, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(save(name, folder))
        self.decoder: Decoder = read_decoder(self.checkpoint)
        self.model = load(folder)
        self.expected = log_probabilities(self.model, torch.from_numpy(TOKENS))
        self.reads = 0

    def read(self, weight: Weight) -> torch.Tensor:
        self.reads += 1
        rows = [self.checkpoint.part_rows(part, 0, part.stop - part.start) for part in weight.parts]
        return torch.from_numpy(np.concatenate(rows) + np.float32(weight.plus))

    def brute_force(self, groups: list[TensorGroup], chosen: list[int]) -> float:
        """KL with the chosen candidates, by changing the parameters of a whole transformers model."""
        model = copy.deepcopy(self.model)
        parameters = dict(model.named_parameters())
        for group, option in zip(groups, chosen, strict=True):
            for weight, scheme in zip(group.weights, group.candidates[option].schemes, strict=True):
                if scheme is None:
                    continue
                row = 0
                for part in weight.parts:
                    full = self.checkpoint.part_rows(part, 0, part.stop - part.start)
                    stored = rtn.quantize(full, scheme, None)
                    rows = torch.from_numpy(dequantize(stored.values, stored.scales, scheme, full.shape[1])).double()
                    parameter = parameters[part.tensor].data
                    (parameter.T if part.transposed else parameter)[part.start : part.stop] = rows
                    row += len(full)
        return mean_kl(self.expected, log_probabilities(model, torch.from_numpy(TOKENS)))


@pytest.fixture(scope="module", params=["llama-tied-llama3", "gemma3_text", "gpt2-untied-scales", "phi3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(request.param, tmp_path_factory.mktemp("tiny"))


def started(tiny: Tiny, folder: Path) -> BaseRun:
    base = BaseRun(tiny.decoder, tiny.read, TOKENS, folder)
    base.run()
    return base


def shipped(tiny: Tiny, base: BaseRun, recipe: Recipe) -> float:
    return measure_shipped(
        base,
        tiny.checkpoint,
        tiny.decoder,
        recipe,
        seen=TOKENS,
        itemsize=lambda name: tiny.checkpoint.tensors[name].itemsize,
    )


@pytest.mark.parametrize("group", ["tensor", "layer"])
def test_a_price_is_what_a_whole_model_run_finds(tiny: Tiny, group: str, tmp_path: Path) -> None:
    budget = Budget(kl=1.0, candidates=BUDGET.candidates, group=group)
    groups = tensor_groups(tiny.decoder, RECIPE, budget)
    with Store.open(tmp_path / "store", {}) as store:
        base = started(tiny, tmp_path)
        prices = measure_prices(base, groups, store, Rounder(base, RECIPE))
    linears = 5 if tiny.decoder.layers[0].mixer(MLP).gate is not None else 4
    per_layer = linears if group == "tensor" else 1
    assert len(groups) == per_layer * len(tiny.decoder.layers) + (1 if tiny.decoder.tied else 2)
    names = [entry.name for entry in groups]
    # the embedding, something in the middle, and the last group, which is the head where there is one
    for number in (0, names.index(next(name for name in names if name.startswith("layers.1"))), len(groups) - 1):
        labels = [candidate.label for candidate in groups[number].candidates]
        assert labels == ["2:64", "4:16", "32"]
        for option in (0, 1):
            expected = tiny.brute_force([groups[number]], [option])
            assert prices[number][option] == pytest.approx(expected, rel=1e-3, abs=1e-8)
        assert prices[number][2] == pytest.approx(0, abs=1e-9)


def test_a_choice_is_what_a_whole_model_run_finds(tiny: Tiny, tmp_path: Path) -> None:
    groups = tensor_groups(tiny.decoder, RECIPE, BUDGET)
    chosen = [number % 3 for number in range(len(groups))]
    found = shipped(tiny, started(tiny, tmp_path), replace(RECIPE, overrides=overrides(groups, chosen, RECIPE)))
    assert found == pytest.approx(tiny.brute_force(groups, chosen), rel=1e-3)


GPTQ = Recipe("mine", Storage("gptq"), Storage(), Storage("gptq"), budget=BUDGET)


def test_prices_are_those_of_the_method_that_ships(tmp_path: Path) -> None:
    """GPTQ's codes from inputs that transformers' hooks saw, put into transformers' own model."""
    tiny = Tiny("llama", tmp_path / "model")
    groups = tensor_groups(tiny.decoder, GPTQ, BUDGET)
    base = started(tiny, tmp_path)
    with Store.open(tmp_path / "store", {}) as store:
        prices = measure_prices(base, groups, store, Rounder(base, GPTQ))
    for name, module in (("layers.1.mlp.down", "model.layers.1.mlp.down_proj"), ("head", "lm_head")):
        number = next(number for number, group in enumerate(groups) if group.name == name)
        (weight,), scheme = groups[number].weights, groups[number].candidates[0].schemes[0]
        assert scheme is not None
        model = copy.deepcopy(tiny.model)
        layer, moments = model.get_submodule(module), Moments(weight.shape[1])
        assert isinstance(layer, torch.nn.Linear)
        handle = layer.register_forward_pre_hook(lambda _, x, moments=moments: moments.add(x[0].float()))
        log_probabilities(model, torch.from_numpy(TOKENS))
        handle.remove()
        assert moments.count == TOKENS.size
        codes = gptq.METHOD.quantize(tiny.read(weight), scheme, moments, gptq.METHOD.options)
        layer.weight.data = codes.dequantize().double()
        expected = mean_kl(tiny.expected, log_probabilities(model, torch.from_numpy(TOKENS)))
        assert prices[number][0] == pytest.approx(expected, rel=0.02)
        assert prices[number][0] != pytest.approx(tiny.brute_force([groups[number]], [0]), rel=0.02)  # rtn's


def test_a_killed_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    tiny = Tiny("llama", tmp_path / "model")
    groups = tensor_groups(tiny.decoder, RECIPE, BUDGET)
    base = started(tiny, tmp_path)
    with Store.open(tmp_path / "whole", {}) as store:
        before = tiny.reads
        whole = measure_prices(base, groups, store, Rounder(base, RECIPE))
        all_reads = tiny.reads - before

    def kill(_: int) -> None:
        if store.has("prices-0001"):
            raise KilledError

    with Store.open(tmp_path / "store", {"a": 1}) as store, pytest.raises(KilledError):
        measure_prices(base, groups, store, Rounder(base, RECIPE), advance=kill)
    with Store.open(tmp_path / "store", {"a": 1}) as store:
        assert store.stages() == ["prices-0000", "prices-0001"]
        before = tiny.reads
        again = measure_prices(base, groups, store, Rounder(base, RECIPE))
    assert again == whole
    assert tiny.reads - before < all_reads


@pytest.mark.parametrize("group", ["tensor", "layer"])
def test_prices_that_follow_from_one_are_near_those_measured(tiny: Tiny, group: str, tmp_path: Path) -> None:
    budget = Budget(kl=1.0, candidates=("4:64", "4:32", "8:32", "32"), group=group)
    groups = tensor_groups(tiny.decoder, RECIPE, budget)
    base = started(tiny, tmp_path)
    with Store.open(tmp_path / "every", {}) as store:
        measured = measure_prices(base, groups, store, Rounder(base, RECIPE))
    steps: list[int] = []
    with Store.open(tmp_path / "one", {}) as store:
        followed = measure_prices(base, groups, store, Rounder(base, RECIPE), every=False, advance=steps.append)
    assert sum(steps) == total_passes(tiny.decoder, groups, every=False)
    for entry, row, found in zip(groups, measured, followed, strict=True):
        at = [candidate.label for candidate in entry.candidates].index("4:32")
        assert found[at] == pytest.approx(row[at], rel=1e-9)
        assert found[-1] == 0  # float32
    # 72 tokens and random weights: single prices are far off, all together are not
    ratios = np.array([f[:-1] for f in followed]) / np.array([m[:-1] for m in measured])
    assert 0.75 < float(np.exp(np.log(ratios).mean())) < 1.33
    assert 0.2 < ratios.min() <= 1 <= ratios.max() < 5


def test_rows_shorter_than_the_block_make_two_candidates_one(tmp_path: Path) -> None:
    tiny = Tiny("llama", tmp_path)
    budget = Budget(kl=1.0, candidates=("4:64", "4:128", "4:256", "8:16"))  # hidden is 64, the MLP's width 96
    groups = {group.name: group for group in tensor_groups(tiny.decoder, RECIPE, budget)}
    assert [entry.label for entry in groups["layers.0.mlp.up"].candidates] == ["4:64", "8:16"]
    assert [entry.label for entry in groups["layers.0.mlp.down"].candidates] == ["4:64", "4:128", "8:16"]


def test_what_an_override_names_is_not_the_budgets_to_decide(tmp_path: Path) -> None:
    tiny = Tiny("llama", tmp_path)
    pinned = Recipe("mine", Storage(), Storage(), Storage(), (Override("layers.0.*", Storage("rtn", 8)),))
    names = [group.name for group in tensor_groups(tiny.decoder, pinned, BUDGET)]
    assert not any(name.startswith("layers.0.") for name in names)
    assert "layers.1.mlp.up" in names


@settings(deadline=None, max_examples=60)
@given(scale=st.sampled_from([1e-4, 1e-2, 1.0, 30.0]), seed=st.integers(0, 100))
def test_kl_of_float32_logits_is_that_of_float64(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = 3 * torch.randn(5, 200, generator=generator)
    other = reference + scale * torch.randn(5, 200, generator=generator) + 2
    p, q = (x.double().log_softmax(-1) for x in (reference, other))
    expected = float((p.exp() * (p - q)).sum())
    assert kl_sum(reference, other) == pytest.approx(expected, rel=2e-3, abs=1e-11)
