"""Distillation of a pruned model: what it computes, that it helps, what it writes, and that a killed run goes on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import described_logits, prune_task, pruning, tiny
from safetensors.numpy import save_file

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.methods.options import Options, read_options
from edgepress.exporter.methods.shrink import retrain
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.learned import split
from edgepress.exporter.streams.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"steps": 8, "batch": 4}


def options(**asked: bool | float | str) -> Options:
    return {**retrain.METHOD.options, **QUICK, **asked}


def narrowed(model: Path, folder: Path, **changes: object) -> PruneTask:
    """The task of a step that comes after half of the MLP's channels were removed."""
    before = prune_task(model, folder / "before")
    step = pruning("mlp_width")
    step.run(before, step.options)
    assert before.written is not None
    checkpoint, decoder = before.written
    task = prune_task(model, folder / "after", length=16)
    recipe = replace(task.recipe, calibration=replace(task.recipe.calibration, training_tokens=512))
    return replace(task, checkpoint=checkpoint, decoder=decoder, recipe=recipe, **changes)  # type: ignore[arg-type]


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(task: PruneTask, checkpoint: Checkpoint, sequences: np.ndarray, *, temperature: float = 1.0) -> tuple:
    """Mean KL(original ‖ model) and KL(model ‖ original), in float64 and without any code of retrain."""
    decoder, forward, reverse = read_decoder(checkpoint), [], []
    for tokens in sequences:
        wanted = log_softmax(described_logits(task.original, task.original_decoder, tokens) / temperature)
        found = log_softmax(described_logits(checkpoint, decoder, tokens) / temperature)
        forward.append((np.exp(wanted) * (wanted - found)).sum(-1).mean())
        reverse.append((np.exp(found) * (found - wanted)).sum(-1).mean())
    return float(np.mean(forward)), float(np.mean(reverse))


def first_loss(task: PruneTask, asked: Options, monkeypatch: pytest.MonkeyPatch) -> tuple[float, np.ndarray]:
    """The loss on the held-out sequences before the first step, and those sequences."""
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", lambda *_: None)
        retrain.run(task, asked)
    curve = task.report["curve"]
    assert isinstance(curve, list)
    tokens = task.tokens(512)
    return curve[0][2], tokens[split(len(tokens), task.seed, "retrain")[1]]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "phi3"])
def test_the_loss_is_the_divergence_from_the_original(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = narrowed(tiny(name, tmp_path), tmp_path)
    asked = options(forward=0.75, reverse=0.5, temperature=2.0)
    loss, sequences = first_loss(task, asked, monkeypatch)
    forward, reverse = divergence(task, task.checkpoint, sequences, temperature=2.0)
    assert forward != pytest.approx(reverse, rel=1e-4)
    assert loss == pytest.approx(4.0 * (0.75 * forward + 0.5 * reverse), rel=1e-3)


def test_the_text_itself_can_be_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = narrowed(tiny("llama", tmp_path), tmp_path)
    loss, sequences = first_loss(task, options(forward=0.0, truth=0.5), monkeypatch)
    lost = []
    for tokens in sequences:
        found = log_softmax(described_logits(task.checkpoint, task.decoder, tokens))
        lost.append(-found[np.arange(len(tokens) - 1), tokens[1:]].sum() / len(tokens))
    assert loss == pytest.approx(0.5 * np.mean(lost), rel=1e-4)


def test_hidden_states_are_compared_where_layers_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = narrowed(tiny("llama", tmp_path), tmp_path)
    loss, sequences = first_loss(task, options(hidden=3.0, hidden_layers=2), monkeypatch)
    other = tmp_path / "other-state"
    other.mkdir()
    with_none, _ = first_loss(replace(task, out=tmp_path / "other", folder=other), options(), monkeypatch)
    count = len(task.decoder.layers)
    points = [math.ceil((i + 1) * count / 2) for i in range(2)]
    streams: list[dict[int, np.ndarray]] = []
    for checkpoint, decoder in ((task.checkpoint, task.decoder), (task.original, task.original_decoder)):

        def values(weight, checkpoint=checkpoint):  # type: ignore[no-untyped-def]
            return torch.from_numpy(read_weight(checkpoint, weight))

        x = network.embed(decoder, values, torch.from_numpy(sequences))
        tables, seen = network.rotaries(decoder, sequences.shape[1]), {}
        for index, layer in enumerate(decoder.layers):
            x = network.layer_forward(layer, values, x, tables)
            seen[index + 1] = x.numpy().astype(np.float64)
        streams.append(seen)
    ours, theirs = streams
    # each piece of the held-out text has its own mean; here all of it is one piece
    expected = np.mean([((ours[p] - theirs[p]) ** 2).sum() / (theirs[p] ** 2).sum() for p in points])
    assert loss - with_none == pytest.approx(3.0 * expected, rel=1e-3)


@pytest.mark.parametrize("asked", [{}, {"rank": 4, "rate": 0.05}, {"quantized": True}])
def test_text_that_was_not_trained_on_is_predicted_better(asked: dict[str, float], tmp_path: Path) -> None:
    task = narrowed(tiny("llama-tied-llama3", tmp_path), tmp_path)
    retrain.run(task, options(**{"rate": 0.005, **asked}, steps=24))
    assert task.written is not None
    tokens = task.tokens(512)
    held_out = tokens[split(len(tokens), task.seed, "retrain")[1]]
    before, after = (
        stored(task, one, tmp_path / name) if "quantized" in asked else one
        for name, one in (("before", task.checkpoint), ("after", task.written[0]))
    )
    assert divergence(task, after, held_out)[0] < 0.95 * divergence(task, before, held_out)[0]
    curve = task.report["curve"]
    assert isinstance(curve, list)
    assert [point[0] for point in curve] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert min(point[2] for point in curve) == pytest.approx(divergence(task, after, held_out)[0], rel=1e-3)


def stored(task: PruneTask, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint with its weights as an export of the task's recipe rounds them, read back from the bundle."""
    recipe = folder.with_suffix(".toml")
    recipe.write_text("[weights]\nbits = 4\nblock_size = 32\n[embedding]\nbits = 4\nblock_size = 32\n")
    export(checkpoint.directory, out=folder / "bundle", target="x86-cpu", recipe=recipe, threads=1)
    plan = decide(checkpoint.directory, target="x86-cpu", recipe=recipe).plan
    weights = StoredWeights(folder / "bundle/model.onnx.data", plan)
    parts = {part.tensor for weight in task.decoder.weights() for part in weight.parts}
    tensors = {name: weights(name) for name in parts}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((checkpoint.directory / "config.json").read_bytes())
    return Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["llama", "llama-tied-llama3", "gpt2", "gemma3_text", "phi3", "olmo2"])
def test_weights_that_learned_nothing_are_written_as_they_were(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused, transposed, shifted and tied tensors come apart as they were put together."""
    task = narrowed(tiny(name, tmp_path), tmp_path)
    monkeypatch.setattr(Training, "step", lambda *_: None)
    retrain.run(task, options())
    assert task.written is not None
    found = task.written[0].tensors
    assert set(found) == {part.tensor for weight in task.decoder.weights() for part in weight.parts}
    for tensor, stored in found.items():
        before = task.checkpoint.tensors[tensor]
        assert (stored.dtype, stored.shape) == (before.dtype, before.shape)
        if task.decoder.final_norm.weight.plus:  # added and taken away again, in float32
            np.testing.assert_allclose(
                stored.rows(0, stored.shape[0]), before.rows(0, before.shape[0]), rtol=0, atol=1e-7
            )
        else:
            assert stored.read(0, stored.nbytes).tobytes() == before.read(0, before.nbytes).tobytes()


def test_adapters_change_projections_by_their_rank(tmp_path: Path) -> None:
    task = narrowed(tiny("llama", tmp_path), tmp_path)
    retrain.run(task, options(rank=2, rate=0.2, quantized=False))
    assert task.written is not None
    for weight in task.decoder.weights():
        before, after = (read_weight(one, weight) for one in (task.checkpoint, task.written[0]))
        if weight.kind == "linear":
            values = np.linalg.svd(after - before, compute_uv=False)
            assert values[0] > 0
            assert values[2:].max() < 1e-4 * values[0]
        elif weight.kind in ("embedding", "head"):
            np.testing.assert_array_equal(after, before)
        else:
            assert not np.array_equal(after, before)


def test_what_is_trained_is_what_ships(tmp_path: Path) -> None:
    """Quantization-aware: weights as the student computed with them are those of the exported bundle."""
    task = narrowed(tiny("llama", tmp_path), tmp_path)
    retrain.run(task, options(quantized=True))
    assert task.written is not None
    checkpoint, decoder = task.written
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[weights]\nbits = 4\nblock_size = 32\n[embedding]\nbits = 4\nblock_size = 32\n")
    export(checkpoint.directory, out=tmp_path / "bundle", target="x86-cpu", recipe=recipe, threads=1)
    plan = decide(checkpoint.directory, target="x86-cpu", recipe=recipe).plan
    bundle, schemes = StoredWeights(tmp_path / "bundle/model.onnx.data", plan), retrain.schemes(task)
    compared = set()
    for weight in decoder.weights():
        if weight.name in schemes:
            seen = retrain.as_stored(torch.from_numpy(read_weight(checkpoint, weight)), schemes[weight.name])
            shipped = np.concatenate([bundle(part.tensor) for part in weight.parts])
            np.testing.assert_array_equal(shipped, seen.numpy())
            compared.add(weight.kind)
    assert compared == {"linear", "embedding", "head"}


def test_the_originals_logits_are_cut_to_the_tokens_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student whose tokens were only renamed, and whose weights are the original's, has nothing to learn."""
    model = tiny("llama", tmp_path)
    task = prune_task(model, tmp_path / "task", length=16)
    vocabulary = task.decoder.vocab_size
    kept = np.arange(vocabulary, dtype=np.int64)
    loss, _ = first_loss(replace(task, kept_tokens=kept), options(), monkeypatch)
    assert loss == pytest.approx(0.0, abs=1e-6)
    half = replace(task, kept_tokens=kept, out=tmp_path / "half")
    tokens = half.tokens(256)
    teacher = retrain.teach(half, tokens, [])
    cut = retrain.teach(replace(half, kept_tokens=kept[: tokens.max() + 1]), tokens, [])
    x = teacher.streams[teacher.last].read_some(np.array([0]))
    with torch.no_grad():
        torch.testing.assert_close(cut.logits(x), teacher.logits(x)[..., : tokens.max() + 1])


@pytest.mark.parametrize("stop", [0, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = narrowed(tiny("llama", tmp_path), tmp_path)
    whole = replace(task, out=tmp_path / "whole", folder=tmp_path / "whole-state")
    whole.folder.mkdir()
    retrain.run(whole, options(quantized=True))
    original, taken = Training.step, []

    def step(self: Training, sequences: np.ndarray, share: float) -> None:
        if len(taken) == stop:
            raise KeyboardInterrupt
        taken.append(share)
        original(self, sequences, share)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(KeyboardInterrupt):
        retrain.run(task, options(quantized=True))
    assert not task.out.exists()
    resumed = []

    def count(self: Training, sequences: np.ndarray, share: float) -> None:
        resumed.append(share)
        original(self, sequences, share)

    monkeypatch.setattr(Training, "step", count)
    retrain.run(task, options(quantized=True))
    assert len(resumed) == 8 - stop  # the state is saved after every step of 8
    names = sorted(path.name for path in whole.out.iterdir())
    assert names == sorted(path.name for path in task.out.iterdir())
    for name in names:
        assert (task.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert task.report == whole.report


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": -1.0}, "temperature must be more than 0"),
        ({"reverse": -0.5}, "reverse must be at least 0"),
        ({"forward": 0.0}, "forward, reverse and truth are all 0"),
    ],
)
def test_an_option_out_of_range_is_refused(asked: dict[str, float], message: str, tmp_path: Path) -> None:
    task = prune_task(tiny("llama", tmp_path), tmp_path / "task")
    with pytest.raises(InputError, match=message):
        retrain.run(task, read_options("retrain", retrain.METHOD.declared, asked))


def test_hidden_states_of_another_size_cannot_be_compared(tmp_path: Path) -> None:
    task = prune_task(tiny("llama", tmp_path), tmp_path / "task")
    other = replace(task, original_decoder=replace(task.decoder, hidden_size=96))
    with pytest.raises(InputError, match=r"hidden size \d+ and the original 96"):
        retrain.run(other, options(hidden=1.0))


def test_too_little_memory_is_refused_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.exporter.streams.training.free_memory", lambda _: 1000)
    task = prune_task(tiny("llama", tmp_path), tmp_path / "task")
    numbers = sum(math.prod(weight.shape) for weight in task.decoder.weights())
    with pytest.raises(InputError, match=rf"retrain needs {20 * numbers} bytes .* 1000 are free; .*rank"):
        retrain.run(task, options())


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "gpt_neox", "gpt2", "opt"])
def test_what_is_trained_is_written_where_it_was_read(name: str, tmp_path: Path) -> None:
    """Gates and ups that take turns, stacks of experts, interleaved heads, transposed matrices, offset positions."""
    task = prune_task(tiny(name, tmp_path), tmp_path / "task")
    linears = [weight for weight in task.decoder.weights() if weight.kind == "linear"]
    trained = {weight.name: read_weight(task.checkpoint, weight) * np.float32(1.5) for weight in linears}
    checkpoint, decoder = task.write(
        config={**task.checkpoint.config, "dtype": "float32"}, tensors=retrain._tensors(task, trained, keep=False)
    )
    for weight in decoder.weights():
        expected = trained.get(weight.name)
        expected = read_weight(task.checkpoint, weight) if expected is None else expected
        np.testing.assert_array_equal(read_weight(checkpoint, weight), expected, err_msg=weight.name)
