"""Checkpoints in stored formats, packed bit by bit and slowly, by the formats' descriptions and nothing of edgepress.

A format's test gives :func:`save_packed` a function that packs one projection; what it says the weights are is the
oracle of all that reads them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VARIANTS, save_variant

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}


@dataclass(frozen=True)
class Affine:
    """Whole numbers and what they stand for: ``w = (codes − zeros) · scales`` of their groups."""

    codes: np.ndarray  # (rows, columns), from 0 on
    scales: np.ndarray  # (rows, groups), float32
    zeros: np.ndarray  # (rows, groups), as the codes count
    groups: np.ndarray  # (columns,): the group of each column

    @property
    def weight(self) -> np.ndarray:
        """(rows, columns), element by element, in float64 rounded to float32 once."""
        steps = self.codes.astype(np.float64) - self.zeros[:, self.groups]
        return (steps * self.scales[:, self.groups].astype(np.float64)).astype(np.float32)


def rounded(weight: np.ndarray, bits: int, group: int, *, symmetric: bool, seed: int, half: bool = True) -> Affine:
    """Random whole numbers about as large as ``weight``; ``group`` 0 is a row."""
    rng = np.random.default_rng(seed)
    rows, columns = weight.shape
    size = group or columns
    count = columns // size
    top = float(np.abs(weight).max()) / (1 << (bits - 1))
    scales = (top * rng.uniform(0.5, 1.0, (rows, count))).astype(np.float16 if half else np.float32).astype(np.float32)
    middle = 1 << (bits - 1)
    zeros = np.full((rows, count), middle) if symmetric else rng.integers(1, 1 << bits, (rows, count))
    codes = rng.integers(0, 1 << bits, weight.shape)
    return Affine(codes, scales, zeros, np.arange(columns) // size)


def words(codes: Sequence[int], bits: int, order: Sequence[int] | None = None) -> list[int]:
    """Codes as 32-bit words (signed), one bit at a time; ``order`` says which code of a word's comes first."""
    if order is not None:
        width = len(order)
        codes = [codes[start + order[at]] for start in range(0, len(codes), width) for at in range(width)]
    stream = [(int(code) >> bit) & 1 for code in codes for bit in range(bits)]
    stream += [0] * (-len(stream) % 32)
    found = []
    for start in range(0, len(stream), 32):
        value = sum(bit << at for at, bit in enumerate(stream[start : start + 32]))
        found.append(value - (1 << 32) if value >= 1 << 31 else value)
    return found


def int32(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """A matrix of words."""
    return torch.tensor(np.array(rows, np.int64).astype(np.int32))


Packer = Callable[[str, np.ndarray], tuple[Mapping[str, torch.Tensor], np.ndarray]]


def save_packed(
    directory: Path, pack: Packer, config: Mapping[str, object], *, family: str = "llama", seed: int = 0
) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny checkpoint whose projections ``pack`` stores, and its weights as they are to be read.

    ``pack(name, weight)`` gives the tensors that hold ``name.weight``, by what follows ``name.``, and what they stand
    for.
    """
    variant = VARIANTS[family]
    save_variant(replace(variant, config={**variant.config, **SIZES}), directory, seed=seed)
    tensors = load_file(directory / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj") or name == module:
            stored[name] = plain[name] = tensor
            continue
        found, weight = pack(module, tensor.numpy())
        stored |= {f"{module}.{key}": value.contiguous() for key, value in found.items()}
        plain[name] = torch.from_numpy(weight)
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return directory, plain
