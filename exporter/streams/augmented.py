"""Samples drawn at random and changed: what a student learns from where there are few of them.

The teacher computes the changed samples too, so each is a lesson of its own and needs no label, however far it is from
what was sampled (Beyer et al. 2022, arXiv:2106.05237: many different views, and patience).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.network import Feed

_TURN, _STRETCH = math.radians(15), 1.1


@dataclass(frozen=True)
class Changes:
    """What is done to samples; inputs of four axes, float32, are images (n, channels, height, width). In this order:

    - ``flip`` turns half of the images left to right;
    - ``zoom`` enlarges half of them by up to this factor or makes them as much smaller, turned by up to 15 degrees and
      stretched by up to a tenth, mirrored at their edges;
    - ``shift`` moves each by up to so many pixels, its edges repeated;
    - ``mix`` makes half of all samples a weighted mean with another one (mixup, Zhang et al. 2018, arXiv:1710.09412);
    - ``paste`` puts a rectangle of another image into half of the images (CutMix, Yun et al. 2019, arXiv:1905.04899).
    """

    flip: bool = False
    zoom: float = 1.0
    shift: int = 0
    mix: bool = False
    paste: bool = False


class Augmented(Sequence[Feed]):
    """``count`` batches of ``batch`` samples, drawn at random and changed; the same batch by the same number.

    ``pool`` has all samples, by input, along the first axis.
    """

    def __init__(self, pool: Feed, count: int, batch: int, changes: Changes, *, seed: int) -> None:
        self._pool, self._count, self._changes, self._seed = pool, count, changes, seed
        self._rows = len(next(iter(pool.values())))
        self._batch = min(batch, self._rows)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Feed:  # type: ignore[override]  # one at a time is all that is asked
        number = range(self._count)[index]
        random = np.random.default_rng((self._seed, number))
        rows = random.choice(self._rows, self._batch, replace=False)
        feed = {name: values[rows] for name, values in self._pool.items()}
        images = [name for name, values in feed.items() if values.ndim == 4 and values.dtype == np.float32]
        for name in images:
            feed[name] = moved(feed[name].astype(np.float32, copy=False), self._changes, random)
        order = random.permutation(self._batch)
        if self._changes.mix:
            feed = mixed(feed, order, random)
        if self._changes.paste:
            feed = pasted(feed, images, order, random)
        return feed


def moved(images: NDArray[np.float32], changes: Changes, random: Generator) -> NDArray[np.float32]:
    """Images turned left to right, zoomed and shifted, each by itself."""
    count, _, height, width = images.shape
    if changes.flip:
        turned = np.asarray(random.random(count)) < 0.5
        images = np.where(turned[:, None, None, None], images[..., ::-1], images)
    if changes.zoom > 1:
        half = np.flatnonzero(random.random(count) < 0.5)
        if len(half):
            images = images.copy()
            images[half] = zoomed(images[half], changes.zoom, random)
    if changes.shift:
        by = changes.shift
        around = np.pad(images, ((0, 0), (0, 0), (by, by), (by, by)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, (height, width), (2, 3))  # (n, c, y, x, h, w)
        y, x = random.integers(0, 2 * by + 1, (2, count))
        images = windows[np.arange(count), :, y, x]
    return np.ascontiguousarray(images)


def zoomed(images: NDArray[np.float32], most: float, random: Generator) -> NDArray[np.float32]:
    """Images seen through affine maps, each about a place of its own near the middle."""
    count, _, height, width = images.shape
    size = np.exp(random.uniform(-math.log(most), math.log(most), count))
    stretch = np.exp(random.uniform(-math.log(_STRETCH), math.log(_STRETCH), count))
    angle = random.uniform(-_TURN, _TURN, count)
    middle = random.uniform(-1, 1, (count, 2)) * np.abs(1 - 1 / size)[:, None]
    cosine, sine, aspect = np.cos(angle), np.sin(angle), width / height
    maps = np.empty((count, 2, 3), np.float32)  # from places in what is made to those in what is seen, both in [−1, 1]
    maps[:, 0, 0], maps[:, 0, 1] = cosine / (size * stretch), -sine / (size * aspect)
    maps[:, 1, 0], maps[:, 1, 1] = sine * aspect / size, cosine * stretch / size
    maps[:, :, 2] = middle
    places = functional.affine_grid(torch.from_numpy(maps), list(images.shape), align_corners=False)
    seen: Tensor = functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(images)), places, padding_mode="reflection", align_corners=False
    )
    return seen.numpy()


def mixed(feed: Feed, order: NDArray[np.int64], random: Generator) -> dict[str, NDArray[Any]]:
    """Half of the samples, each in a weighted mean with another one; what is not float32 stays its own."""
    share = random.uniform(0, 1, len(order)).astype(np.float32)
    share[random.random(len(order)) < 0.5] = 1
    found = dict(feed)
    for name, values in feed.items():
        if values.dtype == np.float32:
            own = share.reshape(-1, *[1] * (values.ndim - 1))
            floats = values.astype(np.float32, copy=False)
            found[name] = own * floats + (1 - own) * floats[order]
    return found


def pasted(feed: Feed, images: Sequence[str], order: NDArray[np.int64], random: Generator) -> dict[str, NDArray[Any]]:
    """Half of the ``images``, each with a rectangle of another one where that has it."""
    count = len(order)
    middle, side = random.random((2, count)), np.sqrt(random.random((2, count))) / 2  # in shares of height and width
    side[:, random.random(count) < 0.5] = 0
    found = dict(feed)
    for name in images:
        inside = [
            np.abs((np.arange(length) + 0.5) / length - middle[axis][:, None]) < side[axis][:, None]
            for axis, length in enumerate(feed[name].shape[2:])
        ]
        there = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (n, 1, height, width)
        found[name] = np.where(there, feed[name][order], feed[name])
    return found
