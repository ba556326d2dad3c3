"""The checkpoint's own model in transformers with parts of it switched off: the oracle for removing them.

Knows nothing of how parts are removed: of the description only which tensors are the projections of a layer, by which
transformers' modules are found. Everything else is hooks on those modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Norm, Weight
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.source.checkpoint import Checkpoint

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """What of a model stays: None is all of it.

    ``channels`` and ``heads`` (query heads) are by the original's layer, those that go as well; ``sizes`` are what the
    gains of a norm over all heads are multiplied by where heads go, of queries and keys.
    """

    layers: Sequence[int] | None = None
    channels: Sequence[Indices] | None = None
    heads: Sequence[tuple[Indices, Indices]] | None = None
    hidden: Indices | None = None
    sizes: Sequence[tuple[float, float]] | None = None


class Masked:
    """transformers' model of a checkpoint, loaded by transformers."""

    def __init__(self, directory: Path) -> None:
        self.decoder = read_decoder(Checkpoint.open(directory))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def logits(self, tokens: Indices, kept: Kept) -> NDArray[np.float32]:
        """Logits (length, vocabulary) of the model without what is not ``kept``."""
        hooks = _Hooks(self.model, self.decoder)
        try:
            hooks.put(kept)
            with torch.inference_mode():
                found: NDArray[np.float32] = self.model(torch.from_numpy(tokens)[None], use_cache=False).logits[0]
            return found.numpy()
        finally:
            hooks.remove()


class _Hooks:
    def __init__(self, model: torch.nn.Module, decoder: Decoder) -> None:
        self.modules, self.decoder = dict(model.named_modules()), decoder
        self.undo: list[Callable[[], None]] = []

    def module(self, weight: Weight, part: int = 0) -> torch.nn.Module:
        """The module whose own parameter a weight's part is."""
        name = weight.parts[part].tensor.rpartition(".")[0]
        return next(module for key, module in self.modules.items() if key == name or key.endswith(f".{name}"))

    def block(self, index: int) -> torch.nn.Module:
        """A whole decoder layer."""
        down = self.module(self.decoder.layers[index].mixer(MLP).down.weight)
        name = next(key for key, module in self.modules.items() if module is down)
        parts = name.split(".")
        return self.modules[".".join(parts[: parts.index(str(index)) + 1])]

    def remove(self) -> None:
        for undo in reversed(self.undo):
            undo()

    def on_input(self, module: torch.nn.Module, mask: torch.Tensor) -> None:
        self.undo.append(module.register_forward_pre_hook(lambda _, args: (args[0] * mask, *args[1:])).remove)

    def on_output(self, module: torch.nn.Module, mask: torch.Tensor) -> None:
        self.undo.append(module.register_forward_hook(lambda _module, _args, y: y * mask).remove)

    def put(self, kept: Kept) -> None:
        for index, layer in enumerate(self.decoder.layers):
            if kept.layers is not None and index not in kept.layers:
                self.undo.append(self.block(index).register_forward_hook(_as_it_came).remove)
            if kept.channels is not None:
                mask = _mask(layer.mixer(MLP).down.weight.shape[1], kept.channels[index])
                self.on_input(self.module(layer.mixer(MLP).down.weight), mask)
            if kept.heads is not None:
                self.without_heads(index, *kept.heads[index], None if kept.sizes is None else kept.sizes[index])
        if kept.hidden is not None:
            self.without_channels(kept.hidden)

    def without_heads(self, index: int, heads: Indices, kv_heads: Indices, sizes: tuple[float, float] | None) -> None:
        a = self.decoder.layers[index].mixer(Attention)
        self.on_input(self.module(a.output.weight), _heads_mask(a.heads, heads, a.head_dim))
        if sizes is None:
            return
        # Σ over the heads that stay / their number, in place of Σ / number of all: scale what goes in, and back
        for norm, count, stay, size in (
            (a.query_norm, a.heads, heads, sizes[0]),
            (a.key_norm, a.kv_heads, kv_heads, sizes[1]),
        ):
            assert norm is not None
            up = (count / len(stay)) ** 0.5
            self.on_input(self.module(norm.weight), up * _heads_mask(count, stay, a.head_dim))
            self.on_output(self.module(norm.weight), torch.tensor(size / up))

    def without_channels(self, hidden: Indices) -> None:
        mask = _mask(self.decoder.hidden_size, hidden)
        self.on_output(self.module(self.decoder.embedding), mask)
        for layer in self.decoder.layers:
            for linear in (layer.mixer(Attention).output, layer.mixer(MLP).down):
                self.on_output(self.module(linear.weight), mask)
            for norm in (layer.mixer(Attention).query_norm, layer.mixer(Attention).key_norm):
                if norm is not None:  # the config has one ε, which is larger by as much as there are fewer channels
                    self.larger_epsilon(norm, self.decoder.hidden_size / len(hidden))

    def larger_epsilon(self, norm: Norm, factor: float) -> None:
        module = self.module(norm.weight)
        key = next(key for key in ("variance_epsilon", "eps") if hasattr(module, key))
        before = getattr(module, key)
        self.undo.append(lambda: setattr(module, key, before))
        setattr(module, key, before * factor)


def _as_it_came(_module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> object:
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]


def _mask(size: int, kept: Indices) -> torch.Tensor:
    mask = torch.zeros(size)
    mask[torch.from_numpy(kept)] = 1
    return mask


def _heads_mask(count: int, kept: Indices, width: int) -> torch.Tensor:
    return _mask(count, kept).repeat_interleave(width)
