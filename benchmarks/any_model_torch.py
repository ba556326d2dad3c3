"""What any_model.py measures as torch modules, for tools that take torch and no ONNX file.

The weights and the arithmetic are those of resnet.py, mobilenet.py and the MiniLM package; the number of samples (and
of tokens) is free. Only torch, safetensors and transformers are imported: environments of other tools read this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

MOST = 64  # samples at once
LONGEST = 256  # tokens
CLOSED = 1e4  # taken from scores of padding
STAGES = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
"""Of MobileNetV2: factor of expansion, blocks, stride of the first (Sandler et al. 2018, table 2)."""


class ResNet(nn.Module):
    """CIFAR-10's, with shortcuts that take every second pixel and pad the channels: (n, 3, 32, 32) → (n, 10)."""

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        widths, blocks = (16, 32, 64), sum(f"layer1.{i}.conv1.weight" in stored for i in range(100))
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.linear, before = nn.Linear(64, 10), 16
        for stage, width in enumerate(widths, 1):
            layer = nn.ModuleList()
            for index in range(blocks):
                layer.append(_ResidualBlock(before, width, 2 if stage > 1 and index == 0 else 1))
                before = width
            self.add_module(f"layer{stage}", layer)
        self.load_state_dict(dict(stored), strict=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                x = block(x)
        return self.linear(x.mean((2, 3)))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.stride, self.added = stride, (width - before) // 2  # channels on each side

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return functional.relu(x + y)


class MobileNet(nn.Module):
    """MobileNetV2 with its norms folded, padded as TensorFlow does: (n, 3, 224, 224) → (n, 1001)."""

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _Padded(stored, "features.0.0", 2)
        index, blocks = 1, []
        for expansion, count, stride in STAGES:
            for i in range(count):
                blocks.append(_InvertedBlock(stored, f"features.{index}", stride if i == 0 else 1, expansion > 1))
                index += 1
        self.blocks, self.last = nn.ModuleList(blocks), _Padded(stored, f"features.{index}.0", 1)
        self.classifier = nn.Linear(*reversed(stored["classifier.weight"].shape))
        self.classifier.load_state_dict({part: stored[f"classifier.{part}"] for part in ("weight", "bias")})

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return self.classifier(functional.relu6(self.last(x)).mean((2, 3)))


class _Padded(nn.Module):
    """A convolution whose padding stands behind the image first, where it is odd."""

    def __init__(self, stored: Mapping[str, Tensor], name: str, stride: int, *, depthwise: bool = False) -> None:
        super().__init__()
        weight = stored[f"{name}.weight"]
        groups, size = len(weight) if depthwise else 1, weight.shape[-1]
        padding = size // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(weight.shape[1] * groups, len(weight), size, stride, padding, groups=groups)
        self.conv.load_state_dict({"weight": weight, "bias": stored[f"{name}.bias"]})
        self.behind = size // 2 if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, self.behind, 0, self.behind)) if self.behind else x)


class _InvertedBlock(nn.Module):
    def __init__(self, stored: Mapping[str, Tensor], name: str, stride: int, expands: bool) -> None:
        super().__init__()
        at = int(expands)
        self.expand = _Padded(stored, f"{name}.conv.0.0", 1) if expands else nn.Identity()
        self.depthwise = _Padded(stored, f"{name}.conv.{at}.0", stride, depthwise=True)
        self.project, self.expands = _Padded(stored, f"{name}.conv.{at + 1}.0", 1), expands
        before = stored[f"{name}.conv.0.0.weight"].shape[1] if expands else stored[f"{name}.conv.0.0.weight"].shape[0]
        self.adds = stride == 1 and before == len(stored[f"{name}.conv.{at + 1}.0.weight"])

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x)) if self.expands else x
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class Embedder(nn.Module):
    """A sentence encoder's mean over tokens that are there, of norm 1: (n, tokens) twice → (n, hidden)."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings."""
        there = attention_mask[..., None].to(torch.float32)
        open_to = (there.transpose(1, 2)[:, None] - 1) * CLOSED  # (n, 1, 1, tokens): made here, no arange is in it
        hidden = self.model(input_ids=input_ids, attention_mask=open_to).last_hidden_state
        return functional.normalize((hidden * there).sum(1) / there.sum(1), dim=1)


@dataclass(frozen=True)
class Traceable:
    """A module, inputs to trace it with, and which axes of each are free."""

    module: nn.Module
    example: tuple[Tensor, ...]
    axes: tuple[dict[int, Dim], ...]


def traceable(name: str, weights: Path) -> Traceable:
    """``resnet``, ``mobilenet`` or ``embedder`` of these weights."""
    samples = Dim("samples", min=1, max=MOST)
    if name == "embedder":
        some = torch.ones(2, 16, dtype=torch.int64)
        axes = {0: samples, 1: Dim("tokens", min=2, max=LONGEST)}
        return Traceable(Embedder(weights).eval(), (some, some.clone()), (axes, axes))
    model, size = (ResNet, 32) if name == "resnet" else (MobileNet, 224)
    return Traceable(model(load_file(weights)).eval(), (torch.zeros(2, 3, size, size),), ({0: samples},))
