"""The head in pieces and gradients a layer at a time are those of the whole model, and no more than that is held."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import prune_task, pruning, tiny
from torch.nn import functional

from edgepress.exporter.methods.smaller import gradients, task
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import layer_weights
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams import head, streams

# a head of its own and one that is tied; a cap on logits, a multiplier, layer norms with bias, windows
NAMES = ["llama", "gemma3_text-version4", "granite", "gpt2", "phi3"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gradients")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """320 tokens in pieces of 37, so that the last one is smaller; sequences of 32 tokens one by one."""
    monkeypatch.setattr(head, "ROWS", 37)
    monkeypatch.setattr(gradients, "_TOKENS", 32)


def doubles(one: PruneTask) -> operations.Values:
    values = {weight.name: one.read(weight).double() for weight in one.decoder.weights()}
    return lambda weight: values[weight.name]


def noise(one: PruneTask, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (24, one.decoder.hidden_size)).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_divergences_in_pieces_are_those_of_whole_logits(name: str, home: Path, tmp_path: Path) -> None:
    one = prune_task(tiny(name, home), tmp_path / "task")
    x = noise(one, 0)
    others = [x, x + 0.01 * noise(one, 1), noise(one, 2)]
    logs = [network.head_forward(one.decoder, doubles(one), y.double()).log_softmax(-1) for y in (x, *others)]
    expected = [float((logs[0].exp() * (logs[0] - log)).sum()) for log in logs[1:]]
    found = head.divergences(one.checkpoint, one.decoder, x, others)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_s_gradient_in_pieces_is_the_whole_one_s(name: str, home: Path, tmp_path: Path) -> None:
    one = prune_task(tiny(name, home), tmp_path / "task")
    x, targets = noise(one, 0), torch.from_numpy(np.random.default_rng(3).integers(0, 320, 24))
    y = x.double().requires_grad_()
    logits = network.head_forward(one.decoder, doubles(one), y)
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), y)
    found = head.loss_gradient(one.checkpoint, one.decoder, x, targets)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_layer_by_layer_are_those_of_the_whole_model(name: str, home: Path, tmp_path: Path) -> None:
    one = prune_task(tiny(name, home), tmp_path / "task")
    decoder, tokens, values = one.decoder, one.tokens(96), doubles(one)
    wanted = {layer.mixer(MLP).down for layer in decoder.layers}
    tables = {
        key: operations.Rotary(table.cos.double(), table.sin.double())
        for key, table in network.rotaries(decoder, tokens.shape[1]).items()
    }
    inputs: list[torch.Tensor] = []
    writes: list[torch.Tensor] = []

    def tap(linears: tuple[Linear, ...], x: torch.Tensor) -> torch.Tensor:
        if linears[0] in wanted:
            inputs.append(x)
        return x

    def added(y: torch.Tensor) -> torch.Tensor:
        writes.append(y)
        return y

    ids = torch.from_numpy(tokens)
    x = network.embed(decoder, values, ids).requires_grad_()
    writes.append(x)
    for layer in decoder.layers:
        x = network.layer_forward(layer, values, x, tables, tap, added=added)
    logits = network.head_forward(decoder, values, x)[:, :-1]
    loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    slopes = torch.autograd.grad(loss, [*inputs, *writes])
    expected_inputs = [(y * g).detach() for y, g in zip(inputs, slopes[: len(inputs)], strict=True)]
    expected_writes = sum((y * g).detach() for y, g in zip(writes, slopes[len(inputs) :], strict=True))

    found_inputs = [torch.zeros_like(y) for y in expected_inputs]
    found_writes = torch.zeros_like(torch.as_tensor(expected_writes))

    def input_seen(index: int, batch: slice, y: torch.Tensor, slope: torch.Tensor) -> None:
        if index >= 0:
            found_inputs[index][batch] += y * slope

    def write_seen(_index: int, batch: slice, y: torch.Tensor, slope: torch.Tensor) -> None:
        found_writes[batch] += y * slope

    gradients.inputs_of(one, tokens, wanted, input_seen, "test")
    gradients.writes_of(one, tokens, write_seen, "test")
    for found, expected in zip((*found_inputs, found_writes), (*expected_inputs, expected_writes), strict=True):
        assert (found - expected).abs().max() <= 2e-5 * torch.as_tensor(expected).abs().max()
    assert list(one.folder.iterdir()) == []


class Held:
    """Bytes of weights that are alive at once, at most, and the names of all that were read whole."""

    def __init__(self) -> None:
        self.now, self.most, self.names = 0, 0, set[str]()

    def read(self, checkpoint: Checkpoint, weight: Weight) -> np.ndarray:
        value = read_weight(checkpoint, weight)
        value = value if value.base is None else value.copy()
        self.now += value.nbytes
        self.most = max(self.most, self.now)
        self.names.add(weight.name)
        weakref.finalize(value, self._drop, value.nbytes)
        return value

    def _drop(self, nbytes: int) -> None:
        self.now -= nbytes


@pytest.mark.parametrize("name", ["gemma3_text-version4", "llama"])
@pytest.mark.parametrize(
    ("method", "by"),
    [*((method, "loss") for method in ("depth", "mlp_width", "heads", "hidden")), ("depth", "influence")],
)
def test_no_more_than_a_layer_is_held(
    method: str, by: str, name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, step, weights = prune_task(tiny(name, home), tmp_path / "task"), pruning(method), Held()
    monkeypatch.setattr(streams, "read_weight", weights.read)
    monkeypatch.setattr(task, "read_weight", weights.read)
    decoder = one.decoder
    step.run(one, {**step.options, "by": by})
    assert weights.names >= {weight.name for layer in decoder.layers for weight in layer_weights(layer)}
    assert not weights.names & {decoder.embedding.name, decoder.head.weight.name}
    layers = [sum(4 * int(np.prod(weight.shape)) for weight in layer_weights(layer)) for layer in decoder.layers]
    ends = sum(4 * int(np.prod(weight.shape)) for weight in (decoder.final_norm.weight, decoder.positions) if weight)
    assert weights.most <= max(layers) + ends
