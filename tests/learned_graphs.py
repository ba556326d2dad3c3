"""Small float models of several kinds for methods that learn, and inputs for them."""

from pathlib import Path
from typing import Any

import numpy as np
from qdq_models import save_model


def convolutions(path: Path) -> Path:
    """Two bottlenecks of a depthwise network, their channels of very different sizes, a classifier."""
    random = np.random.default_rng(1)
    constants: dict[str, np.ndarray] = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes: list[tuple[str, list[str], str, dict[str, object]]] = []

    def conv(x: str, name: str, shape: tuple[int, ...], group: int = 1, *, spread: bool = True) -> str:
        sizes = 10 ** random.uniform(-1, 0.5, shape[0]) if spread else np.ones(shape[0])
        weight = random.normal(0, 1, shape) * sizes[:, None, None, None] / np.sqrt(np.prod(shape[1:]))
        constants[f"{name}.w"] = weight.astype(np.float32)
        constants[f"{name}.b"] = (random.normal(0, 0.3, shape[0]) * sizes).astype(np.float32)
        pads = [1, 1, 1, 1] if shape[2] == 3 else [0, 0, 0, 0]
        nodes.append(("Conv", [x, f"{name}.w", f"{name}.b"], name, {"group": group, "pads": pads}))
        return name

    def cap(x: str) -> str:
        nodes.append(("Clip", [x, "low", "high"], f"{x}.6", {}))
        return f"{x}.6"

    x = cap(conv("image", "stem", (8, 3, 3, 3)))
    x = cap(conv(x, "deep", (8, 1, 3, 3), 8))
    x = conv(x, "project", (6, 8, 1, 1), spread=False)
    nodes += [("GlobalAveragePool", [x], "pool", {}), ("Flatten", ["pool"], "flat", {})]
    constants["head.w"] = random.normal(0, 1, (5, 6)).astype(np.float32)
    constants["head.b"] = random.normal(0, 0.1, 5).astype(np.float32)
    nodes.append(("Gemm", ["flat", "head.w", "head.b"], "logits", {"transB": 1}))
    return save_model(path, nodes, {"image": (4, 3, 8, 8)}, {"logits": (4, 5)}, constants, opset=21)


def images(count: int, seed: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"image": random.normal(0, 1, (4, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def linear(path: Path) -> Path:
    random = np.random.default_rng(5)
    constants = {"w": random.normal(0, 1, (4, 6)).astype(np.float32), "b": np.zeros(4, np.float32)}
    nodes: list[tuple[str, list[str], str, dict[str, object]]] = [("Gemm", ["x", "w", "b"], "y", {"transB": 1})]
    return save_model(path, nodes, {"x": (16, 6)}, {"y": (16, 4)}, constants, opset=21)


def rows(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(6)
    mix = random.normal(0, 1, (6, 6))
    return [{"x": (random.normal(0, 1, (16, 6)) @ mix + 1).astype(np.float32)} for _ in range(count)]


def encoder(path: Path) -> Path:
    """Two products of an MLP behind a layer norm; the first is stored (columns, rows), the second by Gemm's rows."""
    random = np.random.default_rng(11)
    constants = {
        "gain": np.ones(32, np.float32),
        "bias": np.zeros(32, np.float32),
        "up": (random.normal(0, 1, (32, 48)) / 6).astype(np.float32),
        "down": (random.normal(0, 1, (16, 48)) / 7).astype(np.float32),
        "c": random.normal(0, 0.1, 16).astype(np.float32),
    }
    nodes: list[Any] = [
        ("LayerNormalization", ["x", "gain", "bias"], "n", {}),
        ("MatMul", ["n", "up"], "h", {}),
        ("Gelu", ["h"], "g", {}),
        ("Gemm", ["g", "down", "c"], "y", {"transB": 1}),
    ]
    return save_model(path, nodes, {"x": (32, 32)}, {"y": (32, 16)}, constants, opset=21)


def texts(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(12)
    mix = random.normal(0, 1, (6, 32))
    return [{"x": (random.normal(0, 1, (32, 6)) @ mix).astype(np.float32)} for _ in range(count)]
