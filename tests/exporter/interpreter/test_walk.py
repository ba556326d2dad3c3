"""Feeds side by side: the same values as run by run, what is changed ahead counts, what is behind is gone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from qdq_models import save_model

from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.interpreter.walk import Walk


@pytest.fixture
def network(tmp_path: Path) -> Network:
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.standard_normal((5, 5)).astype(np.float32) for i in range(3)}
    nodes = [("MatMul", [f"h{i}", f"w{i}"], f"h{i + 1}", {}) for i in range(3)]
    return Network.read(save_model(tmp_path / "model.onnx", nodes, {"h0": (2, 5)}, {"h3": (2, 5)}, weights))


def test_a_walk(network: Network) -> None:
    random = np.random.default_rng(1)
    feeds = [{"h0": random.standard_normal((2, 5)).astype(np.float32)} for _ in range(3)]
    changed: dict[str, torch.Tensor] = {}
    walk = Walk(network, feeds, lambda: changed)
    second = walk.ahead[1]
    inputs = walk.before(second)
    for feed, found in zip(feeds, inputs, strict=True):
        assert set(found) == {"h1"}
        torch.testing.assert_close(found["h1"], network.run(network.tensors(feed), ["h1"])["h1"])
    changed["w0"] = torch.zeros(5, 5)  # behind: without effect
    changed["w2"] = 2 * network.constants["w2"]
    for feed, found in zip(feeds, walk.until("h3"), strict=True):
        torch.testing.assert_close(found, 2 * network.run(network.tensors(feed))["h3"])
    assert not walk.ahead
