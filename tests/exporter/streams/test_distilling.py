"""Graphs that learn to compute what another computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from qdq_models import save_model

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.streams.distilling import Match, Student, distil
from edgepress.terminal.progress import silent


def two_layers(path: Path, noise: float) -> Path:
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.5, (6, 6)).astype(np.float32) for name in ("a", "b")}
    weights = {name: w + random.normal(0, noise, w.shape).astype(np.float32) for name, w in weights.items()}
    nodes = [("MatMul", ["x", "a"], "h", {}), ("Tanh", ["h"], "t", {}), ("MatMul", ["t", "b"], "y", {})]
    return save_model(path, nodes, {"x": (4, 6)}, {"y": (4, 6)}, weights)


def feeds(count: int = 24) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(9)
    return [{"x": random.standard_normal((4, 6)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Network, Network]:
    return Network.read(two_layers(tmp_path / "teacher.onnx", 0.0)), Network.read(
        two_layers(tmp_path / "student.onnx", 0.2)
    )


def trained(
    pair: tuple[Network, Network], state: Path, **changed: object
) -> tuple[dict[str, torch.Tensor], list[float]]:
    teacher, student = pair
    matches = [Match("y", "y"), Match("t", "t", weight=0.5)]
    settings = {"name": "test", "steps": 120, "batch": 4, "progress": silent, "state_file": state} | changed
    training = distil(Student.of(student, ["a", "b"], 0.05), teacher, feeds(), matches, **settings)  # type: ignore[arg-type]
    return training.best, [loss for _, _, loss in training.curve]


def test_a_student_learns(pair: tuple[Network, Network], tmp_path: Path) -> None:
    best, losses = trained(pair, tmp_path / "state")
    assert min(losses) < 0.05 * losses[0]
    teacher, student = pair
    x = {"x": torch.from_numpy(feeds(25)[-1]["x"])}  # one that was not trained on
    wanted, found = teacher.run(x)["y"], student.run(x, constants=best)["y"]
    before = student.run(x)["y"]
    assert float((found - wanted).square().sum()) < 0.1 * float((before - wanted).square().sum())


def test_a_run_that_is_done_is_not_done_again(pair: tuple[Network, Network], tmp_path: Path) -> None:
    best, losses = trained(pair, tmp_path / "state")
    assert (tmp_path / "state").is_file()
    again, same = trained(pair, tmp_path / "state")
    assert same == losses
    for name in best:
        torch.testing.assert_close(again[name], best[name], rtol=0, atol=0)


def test_divergence_of_logits() -> None:
    """By hand: KL(p ‖ q) of two classes, T = 2."""
    found, wanted = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    p, q = np.exp([0.5, 0.0]), np.exp([0.0, 1.0])
    p, q = p / p.sum(), q / q.sum()
    by_hand = 4 * 3 * float((p * np.log(p / q)).sum())
    assert float(Match("y", "y", "kl", weight=3, temperature=2).of(found, wanted)) == pytest.approx(by_hand, rel=1e-5)


def test_one_feed_is_too_few(pair: tuple[Network, Network], tmp_path: Path) -> None:
    teacher, student = pair
    with pytest.raises(InputError, match="the number of calibration samples"):
        distil(
            Student.of(student, ["a"], 0.1),
            teacher,
            feeds(1),
            [Match("y", "y")],
            name="test",
            state_file=tmp_path / "state",
            steps=1,
            batch=1,
            progress=silent,
        )
