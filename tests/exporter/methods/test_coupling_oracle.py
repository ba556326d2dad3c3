"""Which channels go together is what torch-pruning's dependency graph (Fang et al. 2023) finds of the torch module."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.cut import plain

Slices = frozenset[tuple[str, int, int]]  # of parameters: name, axis and place
HEAD = "head"


class Residual(nn.Module):
    """A block inside, and one whose shortcut is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 6), (6, 8)))
        self.short, self.long = nn.Conv2d(8, 12, 1, stride=2), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.second(self.first(x).relu())).relu()
        logits: Tensor = self.head((self.short(x) + self.long(x)).relu().mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """MobileNet's inverted block, and a linear layer that reads every pixel of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.deep, self.narrow = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.narrow(functional.relu6(self.deep(functional.relu6(self.wide(x)))))
        logits: Tensor = self.head(functional.max_pool2d(x, 2).flatten(1))
        return logits


class Dense(nn.Module):
    """DenseNet's concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 4), (10, 4)))
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in (self.first, self.second):
            x = torch.cat([x, layer(x).relu()], 1)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits


class Grouped(nn.Module):
    """A convolution in two groups of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.stem(x).relu()).relu().mean((2, 3)))
        return logits


def theirs(module: nn.Module, x: Tensor) -> set[Slices]:
    """What torch-pruning cuts with each channel that a layer makes; channels of the head are the output's."""
    pruning: Any = pytest.importorskip("torch_pruning", reason="torch-pruning is in edgepress[test]")
    graph = pruning.DependencyGraph().build_dependency(module, x)
    names: dict[Any, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            names[layer] = name
    found = set()
    for layer, name in names.items():
        if name == HEAD:
            continue
        depthwise = layer.groups == layer.out_channels > 1
        cut = pruning.prune_depthwise_conv_out_channels if depthwise else pruning.prune_conv_out_channels
        for place in range(layer.out_channels):
            slices = set()
            for dependency, places in graph.get_pruning_group(layer, cut, idxs=[place]):
                target = dependency.target.module
                if target not in names:
                    continue
                makes = dependency.handler.__name__.endswith("out_channels")
                size = target.weight.shape[0 if makes else 1]
                for parameter in ("weight", "bias") if makes else ("weight",):
                    slices |= {(f"{names[target]}.{parameter}", 0 if makes else 1, int(i) % size) for i in places}
            found.add(frozenset(slices))
    return found


def ours(module: nn.Module, x: Tensor, path: Path) -> set[Slices]:
    """The places along the axes of constants of each channel that can be cut."""
    torch.onnx.export(module, (x,), path, dynamo=True, verbose=False, external_data=False)
    coupling = find_coupling(plain(onnx.load(path)))
    slices: dict[int, set[tuple[str, int, int]]] = {}
    for tensor, axes in coupling.tensors.items():
        for axis, labels in enumerate(axes):
            for place, channel in enumerate([] if labels is None else coupling.channel_of[labels].tolist()):
                slices.setdefault(channel, set()).add((tensor, axis, place))
    return {frozenset(slices[channel]) for group in coupling.groups for channel in group.channels.tolist()}


@pytest.mark.parametrize("kind", [Residual, Depthwise, Dense])
def test_channels_go_together_as_in_torch_pruning(kind: type[nn.Module], tmp_path: Path) -> None:
    module, x = kind().eval(), torch.zeros(1, 3, 8, 8)
    found, expected = ours(module, x, tmp_path / "module.onnx"), theirs(module, x)
    assert found == expected
    assert len(found) > 10


def test_groups_of_a_convolution_lose_a_channel_each(tmp_path: Path) -> None:
    """torch-pruning leaves it to its pruner that groups stay alike: ours are unions of one of its channels a group."""
    module, x = Grouped().eval(), torch.zeros(1, 3, 8, 8)
    found, parts = ours(module, x, tmp_path / "module.onnx"), theirs(module, x)
    assert len(found) == (8 + 12) // 2
    for slices in found:
        own = [part for part in parts if part <= slices]
        assert len(own) == 2
        assert frozenset().union(*own) == slices
    assert np.sum([len(slices) for slices in found]) == 8 * 2 + 4 + 12 * 3  # stem's weight, bias; what the groups read
