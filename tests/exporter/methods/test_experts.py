"""Pruning of experts: which ones stay is transformers' own count, and what is written is their weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prune_tasks import TOKENS, asked, described_logits, prune_task, tiny
from safetensors.torch import load_file, save_file
from tiny_models import TEXT, VARIANTS, save_variant
from transformers import AutoModelForCausalLM

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.methods.shrink.experts import METHOD, choose, expert_use, mixtures
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.model.reference import Reference

GROUPS = {"n_group": 2, "topk_group": 1}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, variant = tmp_path_factory.mktemp("experts"), VARIANTS["deepseek_v3"]
    save_variant(replace(variant, config={**variant.config, **GROUPS}), folder / "grouped", seed=0)
    return folder


# Matrices of their own, in two stacks, with biases, with groups and corrections, some layers dense, more key names.
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("olmoe", 3),
        ("mixtral", 2),
        ("gpt_oss", 3),
        ("granitemoe", 3),
        ("qwen3_5_moe_text", 3),
        ("grouped", 6),
        ("ernie4_5_moe", 3),
        ("hunyuan_v1_moe", 3),
        ("lfm2_moe", 3),
        ("jamba-experts", 3),
        ("nemotron_h-experts", 4),
        ("phimoe", 3),
    ],
)
def test_a_smaller_model_is_what_transformers_computes_of_it(name: str, left: int, home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny(name, home), tmp_path)
    METHOD.run(task, asked(METHOD, {"experts": left}))
    assert task.written is not None
    checkpoint, decoder = task.written
    found = mixtures(decoder)
    assert len(found) == len(mixtures(task.decoder)) > 0
    assert {len(moe.experts) for moe in found} == {left} == {moe.router.weight.shape[0] for moe in found}
    expected = Reference(task.out).logits(TOKENS)
    assert np.abs(described_logits(checkpoint, decoder, TOKENS) - expected).max() < 2e-5 * np.abs(expected).max()


def test_what_stays_is_bit_for_bit_what_it_was(home: Path, tmp_path: Path) -> None:
    model = tiny("olmoe", home)
    task = prune_task(model, tmp_path)
    METHOD.run(task, asked(METHOD, {"experts": 3}))
    before, after = load_file(model / "model.safetensors"), load_file(task.out / "model.safetensors")
    kept = task.report["kept_experts"]
    assert isinstance(kept, list)
    for layer, experts in enumerate(kept):
        place = f"model.layers.{layer}.mlp"
        assert torch.equal(after[f"{place}.gate.weight"], before[f"{place}.gate.weight"][experts])
        for new, old in enumerate(experts):
            for role in ("gate", "up", "down"):
                one, other = (f"{place}.experts.{number}.{role}_proj.weight" for number in (new, old))
                assert torch.equal(after[one], before[other])
    assert not any(".experts.3." in tensor for tensor in after)


@pytest.mark.parametrize("by_weight", [True, False])
def test_use_is_what_transformers_routers_say(by_weight: bool, home: Path, tmp_path: Path) -> None:
    model = tiny("olmoe", home)
    task = prune_task(model, tmp_path)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = task.tokens(64)
    expected = np.zeros((len(task.decoder.layers), 6))

    def count(layer: int, logits: torch.Tensor) -> None:
        weights, chosen = logits.double().softmax(-1).topk(2, dim=-1)
        for weight, expert in zip(weights.reshape(-1).tolist(), chosen.reshape(-1).tolist(), strict=True):
            expected[layer, expert] += weight if by_weight else 1

    for index, layer in enumerate(network.model.layers):
        layer.mlp.gate.register_forward_hook(
            lambda module, inputs, _, index=index: count(index, inputs[0].reshape(-1, 64) @ module.weight.T)
        )
    with torch.no_grad():
        network(torch.from_numpy(tokens))
    np.testing.assert_allclose(expert_use(task, tokens, by_weight=by_weight), expected, rtol=1e-4)


def test_experts_that_no_token_takes_go_first_and_are_not_missed(home: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny("grouped", home), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    unused = {1, 6}  # one of each group
    for name in [name for name in tensors if name.endswith("e_score_correction_bias")]:
        tensors[name] = torch.zeros_like(tensors[name])
        tensors[name][sorted(unused)] = -10.0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    task = prune_task(model, tmp_path / "task")
    (count,) = {len(moe.experts) for moe in mixtures(task.decoder)}
    METHOD.run(task, asked(METHOD, {"experts": count - 2, "by": "tokens"}))
    stay = sorted(set(range(count)) - unused)
    assert task.report["kept_experts"] == [stay] * len(mixtures(task.decoder))
    assert task.report["share_of_use"] == [1.0] * len(mixtures(task.decoder))
    assert task.written is not None
    expected = Reference(model).logits(TOKENS)
    assert np.abs(described_logits(*task.written, TOKENS) - expected).max() < 1e-5 * np.abs(expected).max()


@given(st.data())
def test_the_most_used_of_each_group_stay(data: st.DataObject) -> None:
    groups, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    each = data.draw(st.integers(1, size))
    use = np.array(data.draw(st.lists(st.integers(0, 9), min_size=groups * size, max_size=groups * size)), float)
    kept = choose(use, groups * each, groups)
    assert kept.tolist() == sorted(set(kept.tolist()))
    for group in range(groups):
        mine = range(group * size, (group + 1) * size)
        stay = [number for number in mine if number in kept]
        assert len(stay) == each
        left = sorted((use[number] for number in mine if number not in stay), reverse=True)
        assert min(use[number] for number in stay) >= max(left, default=0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("llama", {}, "experts cannot prune llama: it has no mixture of experts"),
        ("olmoe", {"experts": 1}, r"experts = 1 leaves 1 of 6 experts .* a token goes through 2; give at least 2"),
        ("olmoe", {"share": 0.1}, r"share = 0.1 leaves 0 of 6 experts .* give at least 2"),
        ("olmoe", {"experts": 6}, "keeps all 6 experts"),
        ("olmoe", {"experts": 4, "share": 0.5}, "keep one of them"),
        ("grouped", {"experts": 5}, "a multiple of 2"),
        ("grouped", {"experts": 2}, "2 in 1 of 2 groups, chosen by the best 2 of each; give at least 4"),
        ("deepseek_v3", {"experts": 6}, "of 4 groups, chosen by the best 2 of each; leave experts out of `prune`"),
    ],
)
def test_what_cannot_be_done_is_refused(
    name: str, options: dict[str, object], says: str, home: Path, tmp_path: Path
) -> None:
    task = prune_task(tiny(name, home), tmp_path)
    with pytest.raises(InputError, match=says):
        METHOD.check(task, asked(METHOD, options))


def test_an_export_plans_and_prunes_and_says_what_it_lost(home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 40)
    recipe = tmp_path / "fewer.toml"
    recipe.write_text('prune = ["experts"]\n[options.experts]\nexperts = 4\ntokens = 256\n[weights]\nbits = 8\n')
    asked_for = {"target": "x86-cpu", "recipe": recipe, "calibration": [tmp_path / "text.txt"]}
    decoder = decide(tiny("olmoe", home), **asked_for).decoder
    assert {len(moe.experts) for moe in every(MixtureOfExperts, decoder.layers)} == {4}
    export(tiny("olmoe", home), out=tmp_path / "bundle", threads=1, **asked_for)
    original, step, bundle = read_manifest(tmp_path / "bundle").steps
    assert step["name"] == "experts"
    assert step["experts"] == 4
    assert [len(experts) for experts in step["kept_experts"]] == [4] * 3
    assert step["parameters"] < original["parameters"]
    for entry in (original, step, bundle):
        assert float(entry["bits_per_byte"]) > 0
    config = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert config["recipe"]["prune"] == ["experts"]
