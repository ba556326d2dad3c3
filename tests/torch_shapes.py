"""Small torch modules of the kinds that apps ship, each as a function that ``package.module:function`` names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """With random weights and statistics of batch norms that are none of an initialization's zeros and ones."""
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
    return module.eval()


class _Stage(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(2, outputs),
            nn.SiLU(),
        )


class UNet(nn.Module):
    """Three levels, each of which the way up sees again; transposed convolutions and interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bottom = _Stage(3, 8), _Stage(8, 16), _Stage(16, 32)
        self.up_second, self.up_first = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(16, 8, 1)
        self.on_second, self.on_first, self.head = _Stage(32, 16), _Stage(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Images (batch, 3, height, width) → logits of 4 classes for each pixel."""
        first = self.first(image)
        second = self.second(nn.functional.max_pool2d(first, 2))
        bottom = self.bottom(nn.functional.avg_pool2d(second, 2))
        second = self.on_second(torch.cat([second, self.up_second(bottom)], 1))
        wider = nn.functional.interpolate(self.up_first(second), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.on_first(torch.cat([first, wider], 1)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A convolution over time, two recurrent layers in both directions, and an answer for each frame and for all."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.front = nn.Conv1d(10, 16, 3, padding=1)
        self.layers = kind(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.frames, self.whole = nn.Linear(48, 5), nn.Linear(48, 3)

    def forward(self, sound: Tensor) -> dict[str, Tensor]:
        """Frames (batch, frames, 10) → logits of each frame, and of the whole."""
        found, _ = self.layers(self.front(sound.transpose(1, 2)).transpose(1, 2).relu())
        return {"frames": self.frames(found), "whole": self.whole(found.mean(1))}


class TwoInputs(nn.Module):
    """An image and words that are asked of it, by attention of words over places."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.table = nn.Conv2d(3, 32, 4, stride=4), nn.Embedding(50, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 6)

    def forward(self, pixels: Tensor, words: Tensor) -> Tensor:
        """Images (batch, 3, 16, 16) and words (batch, words) → logits of 6 answers."""
        places = self.patches(pixels).flatten(2).transpose(1, 2)
        asked = self.table(words)
        seen, _ = self.attention(asked, places, places, need_weights=False)
        return self.head(nn.functional.gelu(self.norm(asked + seen)).mean(1))  # type: ignore[no-any-return]


def unet() -> dict[str, Any]:
    """Sides of any length that is a multiple of 4."""
    return {
        "module": _drawn(UNet),
        "inputs": {"image": torch.randn(2, 3, 16, 24)},
        "axes": {"image": {0: "batch", 2: ("height", 4), 3: ("width", 4)}},
        "task": "semantic-segmentation",
    }


def _recurrent(kind: type[nn.RNNBase]) -> dict[str, Any]:
    return {
        "module": _drawn(lambda: Recurrent(kind)),
        "inputs": {"sound": torch.randn(2, 12, 10)},
        "axes": {"sound": {0: "batch", 1: "frames"}},
    }


def lstm() -> dict[str, Any]:
    """Of LSTM."""
    return _recurrent(nn.LSTM)


def gru() -> dict[str, Any]:
    """Of GRU."""
    return _recurrent(nn.GRU)


def two_inputs() -> dict[str, Any]:
    """As many images as texts, of any length."""
    return {
        "module": _drawn(TwoInputs),
        "inputs": {"pixels": torch.randn(2, 3, 16, 16), "words": torch.randint(0, 50, (2, 7))},
        "axes": {"pixels": {0: "batch"}, "words": {0: "batch", 1: "words"}},
    }
