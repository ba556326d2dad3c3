"""Removed heads are masked heads; groups stay whole, and what stays is what matters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prune_tasks import TOKENS, asked, described_logits, prune_task, tiny
from tiny_models import METHOD_VARIANTS, REFUSED, VARIANTS, save_variant

from edgepress.errors import InputError
from edgepress.exporter.methods.shrink.heads import METHOD, Kept, choose, heads_left, keep_heads, size_ratios
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


def some(task: PruneTask, seed: int) -> list[Kept]:
    """Other heads in each layer: one group where there are several, and all but one query head of each group."""
    generator = np.random.default_rng(seed)
    found = []
    for layer in task.decoder.layers:
        attention = layer.mixer(Attention)
        count, groups = attention.heads, attention.kv_heads
        kept = np.sort(generator.permutation(groups)[: max(1, groups // 2)])
        size = max(1, count // groups - 1)
        heads = [np.sort(g * (count // groups) + generator.permutation(count // groups)[:size]) for g in kept]
        found.append(Kept(np.concatenate(heads), kept))
    return found


def masked(task: PruneTask, kept: list[Kept]) -> np.ndarray:
    """Logits of the original with what the other heads give the output projection set to zero."""
    tables = network.rotaries(task.decoder, len(TOKENS))
    with torch.no_grad():
        x = network.embed(task.decoder, task.read, torch.from_numpy(TOKENS)[None])
        for layer, one in zip(task.decoder.layers, kept, strict=True):
            attention = layer.mixer(Attention)
            width = attention.head_dim
            mask = torch.zeros(attention.heads * width)
            for head in one.heads:
                mask[head * width : (head + 1) * width] = 1

            def tap(
                linears: tuple[Linear, ...],
                y: torch.Tensor,
                a: Attention = attention,
                m: torch.Tensor = mask,
            ) -> torch.Tensor:
                return y * m if linears[0] is a.output else y

            x = network.layer_forward(layer, task.read, x, tables, tap)
        return network.head_forward(task.decoder, task.read, x)[0].numpy()


TAKEN = sorted(name for name, variant in METHOD_VARIANTS.items() if ("heads", variant.model_type) not in REFUSED)


@pytest.mark.parametrize("name", [name for name in TAKEN if METHOD_VARIANTS[name].model_type != "olmo2"])
def test_removal_is_masking(name: str, home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny(name, home), tmp_path / "task")
    kept = some(task, 3)
    keep_heads(task, kept, 64)
    assert task.written is not None
    expected = masked(task, kept)
    for found in (Reference(task.out).logits(TOKENS), described_logits(*task.written, TOKENS)):
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["olmo2", "olmo2-biases"])
def test_a_norm_over_all_heads_keeps_the_size_of_those_that_stay(name: str, home: Path, tmp_path: Path) -> None:
    """transformers computes the description in which gains are cut and scaled; on the text their size is as before."""
    task = prune_task(tiny(name, home), tmp_path / "task")
    kept = some(task, 4)
    ratios = size_ratios(task, kept, 256)
    keep_heads(task, kept, 256)
    assert task.written is not None
    checkpoint, decoder = task.written
    expected = Reference(task.out).logits(TOKENS)
    assert np.abs(described_logits(checkpoint, decoder, TOKENS) - expected).max() <= 2e-5 * np.abs(expected).max()
    tokens = task.tokens(256)
    tables = network.rotaries(task.decoder, tokens.shape[1])
    layer = task.decoder.layers[0]
    attention = layer.mixer(Attention)
    heads, width = attention.heads, attention.head_dim
    qkvs: list[np.ndarray] = []

    def tap(linears: tuple[Linear, ...], y: torch.Tensor) -> torch.Tensor:
        if linears[0] is attention.qkv:
            qkvs.append(operations.linear_forward(linears[0], task.read, y)[0].numpy().astype(np.float64))
        return y

    for row in tokens:
        x = network.embed(task.decoder, task.read, torch.from_numpy(row)[None])
        network.layer_forward(layer, task.read, x, tables, tap)
    q = np.concatenate(qkvs)[:, : heads * width].reshape(-1, heads, width)
    assert ratios[0][0] == pytest.approx(np.sqrt((q[:, kept[0].heads] ** 2).mean() / (q**2).mean()), rel=1e-5)
    norm, old = decoder.layers[0].mixer(Attention).query_norm, attention.query_norm
    assert norm is not None
    assert old is not None
    gains = task.read(old.weight).numpy().reshape(-1, width)[kept[0].heads].ravel()
    np.testing.assert_allclose(checkpoint.rows(norm.weight.parts[0].tensor, 0, len(gains)), gains * ratios[0][0], 1e-6)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_groups_stay_whole_and_the_best_of_them_stay(groups: int, size: int, width: int, data: st.DataObject) -> None:
    kv_heads = data.draw(st.integers(1, groups))
    left = data.draw(st.integers(1, size))
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).random(groups * size * width)
    weight = Weight("w", "linear", (1, 1), ())
    attention = Attention(
        heads=groups * size,
        kv_heads=groups,
        head_dim=width,
        scale=1.0,
        qkv=Linear(weight),
        output=Linear(weight),
        rope=None,
    )
    kept = choose(scores, attention, kv_heads * left, kv_heads)
    assert len(kept.heads) == kv_heads * left
    assert sorted(set((kept.heads // size).tolist())) == kept.kv_heads.tolist()
    by_head = scores.reshape(groups, size, width).sum(2)
    value = sum(by_head[head // size, head % size] for head in kept.heads)
    best = sorted((np.sort(row)[::-1][:left].sum() for row in by_head), reverse=True)[:kv_heads]
    assert value == pytest.approx(sum(best))


def test_heads_that_give_nothing_go_first(home: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for by in ("activations", "loss"):
        model = tmp_path / by
        model.mkdir()
        for path in tiny("qwen3", home).iterdir():
            (model / path.name).write_bytes(path.read_bytes())
        tensors = load_file(model / "model.safetensors")
        for index, dead in enumerate((1, 0, 1)):  # of two groups of two heads, each 32 wide
            tensors[f"model.layers.{index}.self_attn.o_proj.weight"][:, 64 * dead : 64 * dead + 64] = 0
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        task = prune_task(model, tmp_path / f"task-{by}")
        METHOD.run(task, {**METHOD.options, "by": by})
        assert task.report["kept_heads"] == [[0, 1], [2, 3], [0, 1]]
        expected = Reference(model).logits(TOKENS)
        assert np.abs(Reference(task.out).logits(TOKENS) - expected).max() <= 1e-5 * np.abs(expected).max()
        assert Checkpoint.open(task.out).config["num_key_value_heads"] == 1


@pytest.mark.parametrize(
    ("heads", "kv_heads", "options", "left"),
    [
        (8, 4, {}, (4, 2)),
        (8, 4, {"share": 0.25}, (2, 1)),
        (8, 4, {"heads": 4}, (4, 4)),
        (8, 4, {"kv_heads": 3}, (6, 3)),
        (8, 4, {"kv_heads": 2, "heads": 2}, (2, 2)),
    ],
)
def test_options_say_what_stays(heads: int, kv_heads: int, options: dict[str, float], left: tuple[int, int]) -> None:
    assert heads_left(heads, kv_heads, {**METHOD.options, **options}) == left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.5, "heads": 2}, "keep one of them"),
        ({"share": -0.1}, "share must be at least 0"),
        ({"share": 1.0}, "share must be at least 0 and less than 1"),
        ({"heads": -1}, "heads must be at least 0"),
        ({"share": 0.1}, "leaves none"),
        ({"share": 0.9}, "leaves all"),
        ({"heads": 6}, "equally many query heads, 1 to 2"),
        ({"heads": 9}, "equally many"),
        ({"kv_heads": 5}, "equally many"),
        ({"kv_heads": 2, "heads": 6}, "equally many"),
        ({"heads": 8}, "keeps all 8 heads"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        heads_left(8, 4, asked(METHOD, options))


def test_too_few_tokens_are_refused(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("llama", home), tmp_path / "task")
    with pytest.raises(InputError, match="1 tokens of the text; give at least 2"):
        METHOD.run(replace(task), {**METHOD.options, "tokens": 1})


def test_a_gate_goes_with_its_heads(tmp_path: Path) -> None:
    """Qwen3.5's attention, where the rows of a head's gate lie behind those of its q; no layer is of another kind."""
    variant = VARIANTS["qwen3_5_text"]
    save_variant(replace(variant, config={**variant.config, "layer_types": ["full_attention"] * 4}), tmp_path, seed=1)
    task = prune_task(tmp_path, tmp_path / "task")
    kept = some(task, 0)
    keep_heads(task, kept, 64)
    expected = masked(task, kept)
    found = Reference(task.out).logits(TOKENS)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
