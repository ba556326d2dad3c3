"""What a structured step removes is what transformers computes without it: every variant of every architecture.

The oracle is the original in transformers with the parts switched off by hooks (masked_models.py). Against it stand the
smaller checkpoint, loaded by transformers as any other is, and the smaller float32 bundle in onnxruntime.
"""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import masked_models
import numpy as np
import pytest
import torch
import transformers
from masked_models import Masked
from prune_tasks import prune_task, tiny
from tiny_models import LONG_FROM, METHOD_VARIANTS, REFUSED

from edgepress.exporter import export
from edgepress.exporter.methods.shrink import depth, heads, hidden, mlp_width
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.reference import Reference
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

TOLERANCE = 1e-5  # of the largest logit
LENGTHS = (24, LONG_FROM + 12)  # both are longer than the windows of 16, and one than longrope's limit
STRUCTURED = ("depth", "mlp_width", "heads", "hidden")
# What transformers cannot load, though its models compute it: a hidden size that the heads do not divide, longrope's
# factors held against hidden size / heads, and GPT-2's head_dim, which its config does not have.
NOT_LOADED = {
    ("llama-biases-head_dim", "heads"),
    *(("phi3-longrope-version4", kind) for kind in ("heads", "hidden")),
    *((name, "heads") for name, variant in METHOD_VARIANTS.items() if variant.model_type == "gpt2"),
}
pytestmark = pytest.mark.usefixtures("one_thread")


class Workshop:
    """Makes each tiny checkpoint, and transformers' model of it, once."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def checkpoint(self, name: str) -> Path:
        return tiny(name, self.home)

    @cache  # noqa: B019 - lives as long as the module
    def masked(self, name: str) -> Masked:
        return Masked(self.checkpoint(name))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return Workshop(tmp_path_factory.mktemp("removal"))


def kinds(name: str) -> list[str]:
    """The structured steps that take this family."""
    return [kind for kind in STRUCTURED if (kind, METHOD_VARIANTS[name].model_type) not in REFUSED]


def tokens(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(3, 300, length)


class Removal:
    """Steps on one checkpoint, and what is left of the original after them, by its own layers and channels."""

    def __init__(self, model: Path, folder: Path, seed: str) -> None:
        self.model, self.folder, self.kept = model, folder, masked_models.Kept()
        self.draw = np.random.default_rng(sum(seed.encode()))
        self.original = prune_task(model, folder / "original").decoder
        self.layers = list(range(len(self.original.layers)))

    def run(self, kind: str) -> None:
        task = prune_task(self.model, self.folder / kind)
        getattr(self, f"_{kind}")(task)
        self.model = task.out

    def _some(self, size: int, left: int) -> np.ndarray:
        return np.sort(self.draw.permutation(size)[:left])

    def _by_layer(self, found: list, rest: object) -> list:  # type: ignore[type-arg]
        """``found`` is of the layers that are left; layers that are gone have any value."""
        return [found[self.layers.index(i)] if i in self.layers else rest for i in range(len(self.original.layers))]

    def _depth(self, task: PruneTask) -> None:
        left = self._some(len(self.layers), len(self.layers) - 1).tolist()
        depth.keep_layers(task, left)
        self.layers = [self.layers[index] for index in left]
        self.kept = replace(self.kept, layers=self.layers)

    def _mlp_width(self, task: PruneTask) -> None:
        widths = [layer.mixer(MLP).up.weight.shape[0] for layer in task.decoder.layers]
        found = [self._some(width, width // 2 + 8) for width in widths]
        mlp_width.keep_channels(task, found)
        self.kept = replace(self.kept, channels=self._by_layer(found, np.arange(4)))

    def _heads(self, task: PruneTask) -> None:
        found, groups = [], []
        for layer in task.decoder.layers:
            attention = layer.mixer(Attention)
            size = attention.heads // attention.kv_heads
            group = self._some(attention.kv_heads, max(1, attention.kv_heads // 2))
            inner = [self._some(size, max(1, size - 1)) + size * number for number in group]
            found.append(heads.Kept(np.concatenate(inner), group))
            groups.append((found[-1].heads, found[-1].kv_heads))
        sizes, attention = None, task.decoder.layers[0].mixer(Attention)
        if attention.query_norm is not None and not attention.norm_per_head:
            sizes = self._by_layer(heads.size_ratios(task, found, 64), (1.0, 1.0))
        heads.keep_heads(task, found, 64)
        self.kept = replace(self.kept, heads=self._by_layer(groups, groups[0]), sizes=sizes)

    def _hidden(self, task: PruneTask) -> None:
        left = self._some(task.decoder.hidden_size, 40)
        hidden.keep_channels(task, left)
        self.kept = replace(self.kept, hidden=left)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def transformers_logits(loaded: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return loaded(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in METHOD_VARIANTS for kind in kinds(name)])
def test_removing_is_masking(workshop: Workshop, name: str, kind: str, tmp_path: Path) -> None:
    removal = Removal(workshop.checkpoint(name), tmp_path, f"{name}-{kind}")
    removal.run(kind)
    whole = workshop.masked(name).logits(tokens(LENGTHS[-1]), masked_models.Kept())
    reference, loaded = Reference(removal.model), None
    if (name, kind) not in NOT_LOADED:  # as anyone loads a checkpoint
        loaded = transformers.AutoModelForCausalLM.from_pretrained(removal.model, dtype=torch.float32).eval()
    for length in LENGTHS:
        expected = workshop.masked(name).logits(tokens(length), removal.kept)
        close(reference.logits(tokens(length)), expected)
        if loaded is not None:
            close(transformers_logits(loaded, tokens(length)), expected)
    assert np.abs(whole - expected).max() > 0.01 * np.abs(whole).max()  # what is gone mattered


def decoded_logits(bundle: Path, ids: np.ndarray) -> np.ndarray:
    """Logits of every position from onnxruntime, a few tokens at a time, so that they come by the cache."""
    session = CpuSession(read_config(bundle), threads=1, context=64, prefill_chunk=7, prepared=False)
    return session.append(ids, 0)


@pytest.mark.parametrize("name", METHOD_VARIANTS)
def test_a_bundle_of_all_removals_is_the_mask_of_all(workshop: Workshop, name: str, tmp_path: Path) -> None:
    """One step after the other, in an order of the variant's own."""
    removal = Removal(workshop.checkpoint(name), tmp_path, name)
    order = kinds(name)
    random.Random(name).shuffle(order)
    for kind in order:
        removal.run(kind)
    export(removal.model, out=tmp_path / "bundle", recipe="fp32", threads=1)
    for length in LENGTHS:
        expected = workshop.masked(name).logits(tokens(length), removal.kept)
        close(decoded_logits(tmp_path / "bundle", tokens(length)), expected)
