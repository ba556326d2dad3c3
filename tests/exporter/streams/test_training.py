"""A batch's parts on a core each: the same step as one after the other."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.exporter.arrays.activations import BATCH_TOKENS
from edgepress.exporter.arrays.parallel import torch_threads, use_cores
from edgepress.exporter.streams import training
from edgepress.exporter.streams.training import Trained, Training
from edgepress.terminal.progress import silent

SEQUENCES = 6


def steps(tmp_path: Path, threads: int) -> tuple[np.ndarray, list[float]]:
    """Two steps of a small regression whose every sequence is a part of its own."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(SEQUENCES, 40, 30, generator=random), torch.randn(SEQUENCES, 40, 20, generator=random)
    weight = torch.randn(30, 20, generator=random).requires_grad_()
    unused = torch.ones(3, requires_grad=True)
    one = Training(
        name="test",
        trained={"weight": Trained(weight, 0.01), "unused": Trained(unused, 0.01)},
        loss=lambda some: ((x[some] @ weight).relu() - y[some]).square().mean(),
        snapshot=dict,
        held_out=np.arange(2),
        length=BATCH_TOKENS,
        state_file=tmp_path / f"state-{threads}",
        seed=0,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(2):
            one.step(np.arange(SEQUENCES), 1.0)
    finally:
        torch.set_num_threads(before)
    return weight.detach().numpy().copy(), one._seen


def test_a_step_of_a_small_model_does_not_depend_on_the_cores(tmp_path: Path) -> None:
    alone, losses = steps(tmp_path, 1)
    beside, others = steps(tmp_path, 3)
    np.testing.assert_array_equal(beside, alone)
    assert losses == others


def test_a_step_of_a_large_model_is_the_same_but_for_torchs_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, losses = steps(tmp_path, 1)
    monkeypatch.setattr(training, "_SMALL", 0)
    in_turn, others = steps(tmp_path, 3)
    np.testing.assert_allclose(in_turn, alone, rtol=1e-5, atol=1e-6)
    assert losses == pytest.approx(others, rel=1e-6)


def test_parts_of_a_small_models_batch_are_computed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    both = threading.Barrier(2, timeout=60)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        threads.add(threading.current_thread().name)
        both.wait()  # goes on only when another part has got here too
        return weight.sum()

    weight = torch.ones(3, requires_grad=True)
    one = Training(
        name="test",
        trained={"weight": Trained(weight, 0.01)},
        loss=lambda _some: loss(weight),
        snapshot=dict,
        held_out=np.arange(2),
        length=BATCH_TOKENS,
        state_file=tmp_path / "state",
        seed=0,
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    one.step(np.arange(4), 1.0)
    assert len(threads) == 2


def test_a_lone_part_has_every_core_and_parts_have_one_each(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    weight = torch.ones(3, requires_grad=True)

    def loss(some: np.ndarray) -> torch.Tensor:
        seen.append((len(some), torch.get_num_threads()))
        return weight.sum() * len(some)

    one = Training(
        name="test",
        trained={"weight": Trained(weight, 0.01)},
        loss=loss,
        snapshot=dict,
        held_out=np.arange(3),
        length=BATCH_TOKENS // 2,  # two sequences are a part
        state_file=tmp_path / "state",
        seed=0,
    )
    with use_cores(2, 1):
        one.run(np.arange(3, 9), steps=1, batch=2, progress=silent, label="test")
        assert torch.get_num_threads() == 1
    checked = [(1, 1), (2, 1)]
    assert [sorted(seen[:2]), seen[2], sorted(seen[3:])] == [checked, (2, 2), checked]


def test_a_sum_does_not_depend_on_torchs_threads() -> None:
    x = torch.randn(3000, 1000, generator=torch.Generator().manual_seed(0))
    found = set()
    for threads in (1, 2, 3, 5):
        with torch_threads(threads):
            found.add(float(training.summed(x)))
            assert torch.get_num_threads() == threads
    assert len(found) == 1
