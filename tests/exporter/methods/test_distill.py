"""Distillation from the full-precision logits: what it computes, that it helps, and that a killed run goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import KilledError, calibration, content, prepare

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.methods.kinds import round_rows
from edgepress.exporter.methods.repair import distill
from edgepress.exporter.methods.tasks import ModelTask
from edgepress.exporter.model import network
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.streams import training
from edgepress.exporter.streams.learned import split
from edgepress.exporter.streams.training import Training, owner
from edgepress.terminal.progress import Advance

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = np.random.default_rng(7).integers(3, 300, (10, 20)).astype(np.int64)
RECIPE = """after = ["distill"]
[weights]
method = "rtn"
bits = {bits}
block_size = 32
symmetric = true
[embedding]
bits = 4
[options.distill]
steps = {steps}
batch = 4
train = "{train}"
"""


def prepare_distill(
    folder: Path, name: str = "llama", *, train: str = "rounding", steps: int = 16, bits: int = 4
) -> Prepared:
    return prepare(folder, RECIPE.format(train=train, steps=steps, bits=bits), name)


def task_of(run: Calibration, without: str | None = None) -> ModelTask:
    """What a repair of the whole model is given, before the stage ``without`` was done."""
    if without is not None:
        (run.store.directory / f"{without}.safetensors").unlink(missing_ok=True)
    return ModelTask(
        decoder=run.decoder,
        schemes=run.plan.schemes,
        tokens=run.tokens,
        stages=run.store.weights(),
        teacher=run._activations("reference", len(run.decoder.layers)),
        read=run.read,
        full=run.full,
        rounded=round_rows,
        store=run.store,
        device=run.device,
        seed=0,
    )


def stored_logits(task: ModelTask, tokens: np.ndarray) -> np.ndarray:
    """Logits (length, vocabulary) of the model as stored, by the engine's own forward."""

    def values(weight: Weight) -> torch.Tensor:
        found = task.stored(owner(task.decoder, weight))
        return found.dequantize() if isinstance(found, Codes) else found

    return network.logits(task.decoder, values, tokens)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(task: ModelTask, sequences: np.ndarray) -> float:
    """Mean KL(full precision ‖ stored), nats a token, in float64 and without any code of distill."""
    total = []
    for sequence in sequences:
        wanted = log_softmax(network.logits(task.decoder, task.read, task.tokens[sequence]))
        found = log_softmax(stored_logits(task, task.tokens[sequence]))
        total.append((np.exp(wanted) * (wanted - found)).sum(-1).mean())
    return float(np.mean(total))


@pytest.mark.parametrize("name", ["llama-tied-llama3", "llama-biases-head_dim", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("rounding", [False, True])
def test_the_student_begins_as_the_stored_model(name: str, rounding: bool, tmp_path: Path) -> None:
    with calibration(prepare_distill(tmp_path, name, steps=1), tmp_path / "store", TOKENS) as run:
        run.run()
        task = task_of(run, "0004-distill")
        student = distill.make_student(task, rounding=rounding)
        tokens = torch.from_numpy(TOKENS[:2])
        x = student.forward(tokens, run.rotaries)
        found = network.head_forward(run.decoder, student.values, x).detach().numpy()
        for index in range(2):
            expected = stored_logits(task, TOKENS[index])
            assert np.abs(found[index] - expected).max() < 1e-4 * np.abs(expected).max()
        assert bool(student.coded)
        assert bool(student.floats)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_divergence_is_the_mean_kl_however_it_is_cut(name: str, tmp_path: Path) -> None:
    with calibration(prepare_distill(tmp_path, name, steps=1), tmp_path / "store", TOKENS) as run:
        run.run()
        task = task_of(run)
        student = distill.make_student(task, rounding=True)
        sequences = np.array([1, 4, 7])
        gradients = []
        for most in (1 << 30, 7 * run.decoder.vocab_size, 1):
            for learned in student.coded.values():
                learned.factors.grad = None
            x = student.forward(torch.from_numpy(TOKENS[sequences]), run.rotaries)
            reference = torch.cat([task.teacher.read(slice(i, i + 1)) for i in sequences])
            loss = distill.divergence(run.decoder, task.read, student.values, reference, x, most=most)
            assert float(loss.detach()) == pytest.approx(kl(task, sequences), rel=1e-3)
            loss.backward()
            gradients.append([learned.factors.grad for learned in student.coded.values()])
        for other in gradients[1:]:
            torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["llama-tied-llama3", "gpt2", "gemma3_text"])
def test_activations_that_are_kept_give_the_gradients_of_those_computed_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = []
    original = network.layer_forward

    def counted(*arguments: object) -> torch.Tensor:
        forwards.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "layer_forward", counted)
    with calibration(prepare_distill(tmp_path, name, steps=1), tmp_path / "store", TOKENS) as run:
        run.run()
        task = task_of(run, "0004-distill")
        gradients = []
        for kept in (0, 1 << 28):
            monkeypatch.setattr(training, "_KEPT_BYTES", kept)
            student = distill.make_student(task, rounding=True)
            one = distill.make_training(task, student, np.arange(2), 0.01, 0.01)
            forwards.clear()
            values = [trained.value for trained in one.trained.values()]
            gradients.append(torch.autograd.grad(one.loss(np.arange(3)), values, allow_unused=True))
            assert len(forwards) == len(run.decoder.layers) * (1 if kept else 2)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("train", ["rounding", "scales"])
def test_text_that_was_not_trained_on_is_predicted_better(train: str, tmp_path: Path) -> None:
    with calibration(prepare_distill(tmp_path, "llama-tied-llama3", train=train), tmp_path / "store", TOKENS) as run:
        run.run()
        after = task_of(run)
        found = {weight.name: after.stored(weight) for weight in run.decoder.weights()}
        _, held_out = split(len(TOKENS), 0, "distill")
        learned = kl(after, held_out)
        before = task_of(run, "0004-distill")
        assert learned < 0.97 * kl(before, held_out)
        moved = 0
        for weight in run.decoder.weights():
            start, now = before.stored(weight), found[weight.name]
            if isinstance(start, Codes):
                assert isinstance(now, Codes)
                moved += int((start.codes != now.codes).sum())
                assert not torch.equal(start.scales, now.scales)
            else:
                assert not torch.equal(start, torch.as_tensor(now))
        assert (moved > 0) == (train == "rounding")
        assert not list(run.store.directory.glob("distill.*"))


def test_what_is_worse_than_the_start_is_not_stored(tmp_path: Path) -> None:
    prepared = prepare_distill(tmp_path, steps=3)
    prepared.recipe.options["distill"] |= {"rate": 50.0, "rounding_rate": 50.0}  # type: ignore[operator]
    with calibration(prepared, tmp_path / "store", TOKENS) as run:
        run.run()
        after = task_of(run)
        found = {weight.name: after.stored(weight) for weight in run.decoder.weights()}
        before = task_of(run, "0004-distill")
        for weight in run.decoder.weights():
            start, now = before.stored(weight), found[weight.name]
            if isinstance(start, Codes):
                assert isinstance(now, Codes)
                torch.testing.assert_close(now.dequantize(), start.dequantize(), rtol=0, atol=0)


@pytest.mark.parametrize("stop", [0, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(stop: int, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    prepared = prepare_distill(tmp_path, steps=8)
    with calibration(prepared, tmp_path / "whole", TOKENS) as run:
        run.run()
    original = Training.step
    taken: list[float] = []

    def step(self: Training, sequences: np.ndarray, share: float) -> None:
        if len(taken) == stop:
            raise KilledError
        taken.append(share)
        original(self, sequences, share)

    with calibration(prepared, tmp_path / "killed", TOKENS) as run:
        monkeypatch.setattr(Training, "step", step)
        with pytest.raises(KilledError):
            run.run()
        monkeypatch.setattr(Training, "step", original)
        assert not run.store.has("0004-distill")
    resumed: list[float] = []
    counts: list[int] = []

    @contextmanager
    def bar(total: int, label: str, _unit: str = "") -> Iterator[Advance]:
        yield counts.append if label == "distilling" else lambda _: None
        assert label != "distilling" or sum(counts) == total == 8

    def count(self: Training, sequences: np.ndarray, share: float) -> None:
        resumed.append(share)
        original(self, sequences, share)

    monkeypatch.setattr(Training, "step", count)
    with calibration(prepared, tmp_path / "killed", TOKENS) as run:
        run.run(bar)
    assert len(resumed) == 8 - stop  # the state is saved after every step of 8
    assert counts == [stop] + [1] * (8 - stop)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1"),
        ("rate", -1.0, "rate must be more than 0"),
        ("train", "everything", "train must be one of rounding, scales, not 'everything'"),
    ],
)
def test_an_option_out_of_range_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    prepared = prepare_distill(tmp_path)
    prepared.recipe.options["distill"][key] = value  # type: ignore[index]
    with calibration(prepared, tmp_path / "store", TOKENS) as run, pytest.raises(InputError, match=message):
        run.run()


def test_one_sequence_is_too_few(tmp_path: Path) -> None:
    with (
        calibration(prepare_distill(tmp_path), tmp_path / "store", TOKENS[:1]) as run,
        pytest.raises(InputError, match="two calibration sequences"),
    ):
        run.run()


def test_too_little_memory_is_refused_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 0
    prepared = prepare_distill(tmp_path)
    monkeypatch.setattr(training, "free_memory", lambda _: 1_000_000)
    for tensor in prepared.plan.tensors:
        if tensor.scheme is not None:
            rows, columns = tensor.weight.shape
            weights += rows * (columns + -(-columns // 32))
    message = f"{16 * weights} bytes of memory .* 1000000 are free; train = .scales."
    with pytest.raises(InputError, match=message):  # when it is planned
        prepare_distill(tmp_path)
    with calibration(prepare_distill(tmp_path, train="scales", steps=1), tmp_path / "scales", TOKENS) as run:
        run.run()
