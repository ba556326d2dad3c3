"""Two factors: the least error of all of that rank, and the same model to every part of an export."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_decoder import forward
from prune_tasks import TOKENS, described_logits, prune_task, pruning, tiny
from tiny_models import TEXT, VARIANTS

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.methods.prune_task import PruneTask
from edgepress.exporter.methods.shrink import low_rank
from edgepress.exporter.methods.shrink.low_rank import METHOD, choose, factors
from edgepress.exporter.model.description import Decoder, layer_linears
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint, read_weight
from edgepress.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("low-rank")


def run(task: PruneTask, **options: float | str) -> PruneTask:
    METHOD.run(task, {**METHOD.options, **options})
    return task


def shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    return {linear.weight.name: linear.weight.shape for layer in decoder.layers for linear in layer_linears(layer)}


def correlated(rows: int, columns: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight (rows, columns) and inputs (columns, samples) of very different sizes, float64."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((columns, columns)) @ np.diag(2.0 ** -np.arange(columns))
    return generator.standard_normal((rows, columns)), x @ generator.standard_normal((columns, samples))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 7), columns=st.integers(2, 7), seed=st.integers(0, 999), data=st.data())
def test_the_error_is_the_singular_values_that_are_cut_off(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    """numpy's singular values of the outputs W X themselves say what any product of that rank must lose."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    w, x = correlated(rows, columns, 64, seed)
    u, v, lost = factors(torch.from_numpy(w), torch.from_numpy(x @ x.T), rank)
    assert (u.shape, v.shape) == ((rows, rank), (rank, columns))
    total = np.square(w @ x).sum()
    found = np.square((w - (u @ v).numpy()) @ x).sum()
    least = np.square(np.linalg.svd(w @ x, compute_uv=False)[rank:]).sum()
    slack = 3e-4 * columns * total  # the ridge under C
    assert least - 1e-9 * total <= found <= least + slack
    assert lost * total == pytest.approx(least, abs=slack)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 3))
def test_no_search_finds_better_factors(seed: int, rank: int) -> None:
    """Alternating least squares from random starts: the best V for a U, the best U for that V, and so on."""
    w, x = correlated(5, 4, 64, seed)
    u, v, _ = factors(torch.from_numpy(w), torch.from_numpy(x @ x.T), rank)
    found, total = np.square((w - (u @ v).numpy()) @ x).sum(), np.square(w @ x).sum()
    y, generator = w @ x, np.random.default_rng(seed)
    for _ in range(3):
        left = generator.standard_normal((5, rank))
        for _ in range(50):
            right = np.linalg.lstsq(left, w, rcond=None)[0] @ x  # (rank, samples), what the inner factor gives
            left = np.linalg.lstsq(right.T, y.T, rcond=None)[0].T
        assert found <= np.square(y - left @ right).sum() + 1e-3 * total


def test_plain_singular_values_lose_more() -> None:
    """What goes in matters: without it the output's error is far larger."""
    w, x = correlated(16, 12, 256, 3)
    u, v, _ = factors(torch.from_numpy(w), torch.from_numpy(x @ x.T), 3)
    a, s, b = np.linalg.svd(w)
    plain = a[:, :3] * s[:3] @ b[:3]
    error, without = (np.square((w - m) @ x).sum() for m in ((u @ v).numpy(), plain))
    assert error < 0.1 * without


def test_inputs_of_zeros_are_no_error() -> None:
    u, v, lost = factors(torch.ones(3, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64), 1)
    assert torch.allclose(u @ v, torch.ones(3, 4, dtype=torch.float64))
    assert lost == pytest.approx(0)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_full_rank_is_the_same_model(name: str, home: Path, tmp_path: Path) -> None:
    """Every projection in two factors of full rank, fused and transposed ones too: the logits stay."""
    task = prune_task(tiny(name, home), tmp_path / "task")
    low_rank.factor(task, {weight: min(shape) for weight, shape in shapes(task.decoder).items()}, 256)
    assert task.written is not None
    checkpoint, decoder = task.written
    assert {weight.rsplit(".", 1)[1] for weight in shapes(decoder)} == {"u", "v"}
    expected = described_logits(task.checkpoint, task.decoder, TOKENS)
    half = VARIANTS[name].dtype == torch.bfloat16  # the factors are stored in it
    tolerance = (5e-2 if half else 1e-5) * np.abs(expected).max()
    oracle = forward(decoder, lambda tensor: checkpoint.rows(tensor, 0, checkpoint.tensors[tensor].shape[0]), TOKENS)
    for found in (Reference(task.out).logits(TOKENS), described_logits(checkpoint, decoder, TOKENS), oracle):
        assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["phi3", "gpt2", "qwen2"])
@pytest.mark.parametrize("match", ["*.gate", "*.mlp.up", "layers.1.*", "*.qkv"])
def test_what_is_not_factored_stays_bit_for_bit(name: str, match: str, home: Path, tmp_path: Path) -> None:
    """Also where it shared a tensor with what is (Phi-3 has gate and up in one); transformers computes the product."""
    if (name, match) == ("gpt2", "*.gate"):
        pytest.skip("GPT-2 has no gate")
    task = run(prune_task(tiny(name, home), tmp_path / "task"), match=match, multiple=1)
    assert task.written is not None
    checkpoint, decoder = task.written
    ranks = task.report["ranks"]
    assert isinstance(ranks, dict)
    assert ranks
    left = {weight.name: weight for weight in task.decoder.weights() if weight.name not in ranks}
    new = {weight.name: weight for weight in decoder.weights()}
    assert set(new) == set(left) | {f"{name}.{letter}" for name in ranks for letter in "uv"}
    for weight_name, weight in left.items():
        assert np.array_equal(read_weight(checkpoint, new[weight_name]), read_weight(task.checkpoint, weight))
    expected = described_logits(checkpoint, decoder, TOKENS)
    assert np.abs(Reference(task.out).logits(TOKENS) - expected).max() <= 1e-5 * np.abs(expected).max()


@given(share=st.floats(0.05, 0.99), multiple=st.integers(1, 48))
@settings(max_examples=40, deadline=None)
def test_no_more_stays_than_the_share(home_decoder: Decoder, share: float, multiple: int) -> None:
    whole = shapes(home_decoder)
    found = choose(home_decoder, {**METHOD.options, "share": share, "multiple": multiple, "match": "*"}, 32)
    for name, rank in found.items():
        rows, columns = whole[name]
        assert 0 < rank * (rows + columns) <= share * rows * columns
        most = share * rows * columns / (rows + columns)
        assert rank == int(most) if most < multiple else (rank % multiple == 0 and rank + multiple > most)


@pytest.fixture(scope="module")
def home_decoder(home: Path) -> Decoder:
    return read_decoder(Checkpoint.open(tiny("llama", home)))


def test_what_would_not_be_smaller_is_left(home_decoder: Decoder) -> None:
    """Of rank 35, 64 × 96 is smaller in two factors; 64 × 64 is not, 128 × 64 is."""
    found = choose(home_decoder, {**METHOD.options, "rank": 35, "match": "layers.0.*"}, 32)
    assert found == dict.fromkeys(
        ("layers.0.attention.qkv", *(f"layers.0.mlp.{n}" for n in ("gate", "up", "down"))), 35
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 8, "share": 0.5}, "has rank = 8 and share = 0.5; keep one of them"),
        ({"share": 1.0}, "share = 1.0, rank = 0"),
        ({"rank": -1}, "rank = -1"),
        ({"multiple": -1}, "multiple of at least 1"),
        ({"match": "*.middle"}, "match = '*.middle' is the name of no projection"),
        ({"match": "embedding"}, "no projection that is whole; there are: layers.0.attention.qkv"),
        ({"rank": 64}, "rank = 64 makes no projection smaller: layers.0.mlp.gate, 96 × 64, would have rank 64"),
        ({"share": 0.001}, "smaller: layers.0.mlp.gate, 96 × 64, would have rank 0; give more, so that"),
    ],
)
def test_bad_options_are_refused(home: Path, tmp_path: Path, options: dict[str, float | str], message: str) -> None:
    task = prune_task(tiny("llama", home), tmp_path / "task")
    with pytest.raises(InputError, match=re.escape(message)):
        run(task, **options)
    assert not task.out.exists()


@pytest.mark.parametrize("method", ["depth", "mlp_width", "heads", "hidden"])
def test_steps_that_change_projections_come_first(method: str, home: Path, tmp_path: Path) -> None:
    first = run(prune_task(tiny("llama", home), tmp_path / "one"))
    second = prune_task(first.out, tmp_path / "two")
    step = pruning(method)
    with pytest.raises(InputError, match=f"{method} cannot prune .* put {method} before low_rank"):
        step.run(second, step.options)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_other_steps_combine(name: str, home: Path, tmp_path: Path) -> None:
    """MLPs of different widths are factored, then the rest; tokens go after that."""
    task = prune_task(tiny(name, home), tmp_path / "0")
    step = pruning("mlp_width")
    step.run(task, {**step.options, "multiple": 8})
    for number, options in enumerate(({"match": "*.mlp.*"}, {"match": "*"}), 1):
        task = run(prune_task(task.out, tmp_path / str(number)), multiple=4, **options)
    step = pruning("vocabulary")
    task = prune_task(task.out, tmp_path / "3")
    step.run(task, step.options)
    assert task.written is not None
    checkpoint, decoder = task.written
    assert all(weight.endswith((".u", ".v")) for weight in shapes(decoder) if ".mlp." in weight)
    tokens = TOKENS % decoder.vocab_size
    expected = described_logits(checkpoint, decoder, tokens)
    assert np.abs(Reference(task.out).logits(tokens) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_factors_are_retrained_from_the_original(home: Path, tmp_path: Path) -> None:
    first = run(prune_task(tiny("llama", home), tmp_path / "one"), multiple=8)
    task = prune_task(first.out, tmp_path / "two")
    task.original, task.original_decoder = first.checkpoint, first.decoder
    step = pruning("retrain")
    step.run(task, {**step.options, "steps": 8, "batch": 2})
    assert task.written is not None
    checkpoint, decoder = task.written
    assert decoder == task.decoder
    expected = described_logits(first.checkpoint, first.decoder, TOKENS)
    before, after = (described_logits(c, decoder, TOKENS) for c in (task.checkpoint, checkpoint))
    assert not np.array_equal(before, after)
    assert np.abs(Reference(task.out).logits(TOKENS) - after).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"layers.9.mlp.up": 4}, "layers.9.mlp.up is no projection of a layer"),
        ({"embedding": 4}, "embedding is no projection of a layer"),
        ({"layers.0.mlp.up": 0}, "must be an integer of at least 1"),
        ({"layers.0.mlp.up": 4}, "has no tensor layers.0.mlp.up.v.weight"),
        ([1], "must be a mapping"),
    ],
)
def test_bad_configs_are_refused(home: Path, tmp_path: Path, ranks: object, message: str) -> None:
    model = shutil.copytree(tiny("llama", home), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"low_rank": ranks}))
    with pytest.raises(InputError, match=re.escape(message)):
        read_decoder(Checkpoint.open(model))


STORED = "[embedding]\nmethod = 'rtn'\nbits = 8\n[head]\nmethod = 'rtn'\nbits = 8\n"
CALIBRATION = STORED + "[calibration]\ntokens = 256\nlength = 32\n[options.low_rank]\nmultiple = 8\nmatch = '*'\n"
INT8 = "[weights]\nbits = 8\nblock_size = 'channel'\nmethod = 'gptq'\n[activations]\n"
RECIPES = {
    "gptq": "[weights]\nbits = 4\nmethod = 'gptq'\n",
    "awq-hadamard-bias": "before = ['awq', 'hadamard']\nafter = ['bias_correction']\n[weights]\nbits = 4\n",
    "autoround-distill": (
        "after = ['distill']\n[weights]\nbits = 4\nmethod = 'autoround'\n"
        "[options.distill]\nsteps = 4\n[options.autoround]\nsteps = 4\n"
    ),
    "dynamic": INT8 + "type = 'uint8'\nranges = 'dynamic'\n",
    "static": "before = ['smoothquant']\n" + INT8 + "type = 'uint16'\nranges = 'minmax'\n",
    "float16": "[weights]\nbits = 4\n[activations]\ntype = 'float16'\n",
}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_takes_factors(recipe: str, name: str, home: Path, tmp_path: Path) -> None:
    """--check holds the graph against the description with the stored weights, and that against transformers."""
    (tmp_path / "recipe.toml").write_text(f"prune = ['low_rank']\n{RECIPES[recipe]}{CALIBRATION}")
    (tmp_path / "text.txt").write_text(TEXT * 20)
    options = {"recipe": tmp_path / "recipe.toml", "calibration": [tmp_path / "text.txt"], "threads": 1}
    export(tiny(name, home), out=tmp_path / "bundle", check=True, **options)  # type: ignore[arg-type]
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.parity is not None
    assert [step["name"] for step in manifest.steps] == ["original", "low_rank", "bundle"]
    stored = {tensor["name"] for tensor in manifest.tensors}
    assert {"layers.0.attention.qkv.u", "layers.0.mlp.down.v"} <= stored


def test_a_plan_has_both_factors(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text(f"prune = ['low_rank']\n{RECIPES['gptq']}{CALIBRATION}")
    (tmp_path / "text.txt").write_text(TEXT * 20)
    model = str(tiny("llama", home))
    assert (
        main(["plan", model, "--recipe", str(tmp_path / "recipe.toml"), "--calibration", str(tmp_path / "text.txt")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "mlp.gate.u" in printed
    assert "mlp.gate.v" in printed


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layer", [1, 2])
def test_stopped_in_a_layer_it_begins_again_with_the_same_bytes(
    layer: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").write_text(f"prune = ['depth', 'low_rank']\n{RECIPES['gptq']}{CALIBRATION}")
    (tmp_path / "text.txt").write_text(TEXT * 20)
    whole = low_rank._layer

    def stopped(task: PruneTask, index: int, *arguments: object) -> object:
        if index == layer - 1:
            raise KeyboardInterrupt
        return whole(task, index, *arguments)  # type: ignore[arg-type]

    def make(name: str) -> None:
        options = {"recipe": tmp_path / "recipe.toml", "calibration": [tmp_path / "text.txt"], "threads": 1}
        export(tiny("llama", home), out=tmp_path / name, **options)  # type: ignore[arg-type]

    make("one")
    with monkeypatch.context() as context:
        context.setattr(low_rank, "_layer", stopped)
        with pytest.raises(KeyboardInterrupt):
            make("two")
    assert not (tmp_path / "two").exists()
    make("two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not list(tmp_path.glob(".*"))
