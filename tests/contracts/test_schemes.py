"""Every way of storing a tensor, from a checkpoint to a bundle that runs, on tiny models with random weights."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tiny_models import VOCABULARY

from edgepress.bundle.manifest import find_problems
from edgepress.exporter import decide, export
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.plan.plan import Plan
from edgepress.runtime import load
from edgepress.runtime.config import read_config
from edgepress.runtime.prepared import prepare

STEPS = 24
BLOCKS = ("16", "64", '"channel"')


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tied model whose projections have biases, and an untied one."""
    home = tmp_path_factory.mktemp("schemes")
    return {name: tiny_models.save(name, home / name) for name in ("qwen2", "llama")}


def write_recipe(path: Path, bits: int, block: str, symmetric: bool, level: int = 4) -> Path:
    lines = [
        f"accuracy_level = {level}",
        "[weights]",
        'method = "rtn"',
        f"bits = {bits}",
        f"block_size = {block}",
    ]
    path.write_text("\n".join([*lines, f"symmetric = {str(symmetric).lower()}"]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("bits", "block", "symmetric"), list(itertools.product((2, 4, 8), BLOCKS, (True, False))), ids=str
)
def test_a_bundle_computes_what_its_bytes_mean(
    checkpoints: dict[str, Path], tmp_path: Path, bits: int, block: str, symmetric: bool
) -> None:
    """``check`` compares the graph with transformers holding the dequantized weights."""
    name = "qwen2" if symmetric else "llama"
    recipe = write_recipe(tmp_path / "recipe.toml", bits, block, symmetric)
    manifest = export(checkpoints[name], out=tmp_path / "out", recipe=recipe, check=True, threads=1)
    assert manifest.parity is not None
    assert float(str(manifest.parity["graph_difference"])) < 1e-5
    assert find_problems(tmp_path / "out") == []
    schemes = [tensor["scheme"] for tensor in manifest.tensors if tensor["scheme"] is not None]
    assert {scheme["symmetric"] for scheme in schemes} == {symmetric}
    assert {scheme["per_channel"] for scheme in schemes} == {block == BLOCKS[-1]}
    least = {2: 4.0, 4: 14.0, 8: 38.0}[bits]
    assert all(tensor["sqnr_db"] > least for tensor in manifest.tensors if tensor["scheme"] is not None)


def test_fewer_bits_and_fewer_scales_take_fewer_bytes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def plan(bits: int, block: str, symmetric: bool) -> Plan:
        recipe = write_recipe(tmp_path / "recipe.toml", bits, block, symmetric)
        return decide(checkpoints["llama"], target="arm64-cpu", recipe=recipe).plan

    sizes = [plan(bits, "64", True).data_bytes for bits in (2, 4, 8)]
    assert sizes == sorted(sizes)
    name = "layers.0.mlp.up"  # 96 rows of 64 columns
    regions = {
        symmetric: next(t for t in plan(2, "32", symmetric).tensors if t.weight.name == name).regions
        for symmetric in (True, False)
    }
    assert {part: region.nbytes for part, region in regions[True].items()} == {"values": 96 * 16, "scales": 96 * 4}
    assert {part: region.nbytes for part, region in regions[False].items()} == {
        "values": 96 * 16,
        "scales": 96 * 4,  # float16, two a row
        "zero_points": 96,  # two zero points of 2 bits a row
    }


@pytest.mark.parametrize(
    ("bits", "block", "symmetric", "level", "text"),
    [
        (4, "32", False, 4, "rtn 4 bits, asymmetric, block 32"),
        (4, '"channel"', True, 4, "rtn 4 bits, per channel, stored in blocks of 64"),
        (2, "16", True, 4, "block 16 → 32, as onnxruntime has no fast 2-bit kernel for that"),
        (2, "128", True, 4, "block 128 → 64, as a row has 64 columns"),
        (2, "32", True, 1, "slow: accuracy_level 1 unpacks 2 bits at each call"),
    ],
)
def test_the_plan_says_the_scheme_and_why(
    checkpoints: dict[str, Path], tmp_path: Path, bits: int, block: str, symmetric: bool, level: int, text: str
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", bits, block, symmetric, level=level)
    assert text in format_plan(decide(checkpoints["llama"], target="arm64-cpu", recipe=recipe))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_runtime_prepares_and_runs_it_as_onnxruntime_genai(
    checkpoints: dict[str, Path], tmp_path: Path, bits: int
) -> None:
    """Asymmetric in blocks of 32: greedy tokens, from the bundle, its prepared form and onnxruntime-genai."""
    genai = pytest.importorskip("onnxruntime_genai")
    bundle = tmp_path / "out"
    recipe = write_recipe(tmp_path / "recipe.toml", bits, "32", symmetric=False)
    export(checkpoints["qwen2"], out=bundle, target="x86-cpu", recipe=recipe, threads=1)  # one graph for both
    note = json.loads((prepare(bundle) / "prepared.json").read_text())
    assert "not packed" not in note["forms"]
    prompt = [int(token) for token in np.random.default_rng(0).integers(3, VOCABULARY, 12)]
    ours = []
    for prepared in (False, True):
        generation = load(bundle, threads=1, prepared=prepared).generate(prompt, max_tokens=STEPS)
        generation.text()
        ours.append([token for token in generation.tokens if token not in read_config(bundle).eos])
    parameters = genai.GeneratorParams(genai.Model(str(bundle)))
    parameters.set_search_options(max_length=len(prompt) + STEPS, do_sample=False)
    generator = genai.Generator(genai.Model(str(bundle)), parameters)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    expected = generator.get_sequence(0).tolist()[len(prompt) :]  # it leaves the end token out
    assert expected
    assert ours == [expected, expected]
