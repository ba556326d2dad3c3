"""Graphs that are a little off: wrong, or digits that float32 does not have, by what the original is in float64."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foreign_models import Maker

from edgepress.errors import CheckFailed
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.traced import TOLERANCE, Feed, Traced
from edgepress.exporter.doors.tracing import Tracing
from edgepress.tasks.task import Edge, Task


def off_by(share: float, folder: Path, exact: Callable[[Feed], Feed] | None) -> Traced:
    """A graph that gives its input and a share more, of an original that gives it as it is."""
    m = Maker()
    m.edge("x", ["batch", 4])
    m.constant("factor", np.array(1 + share, np.float32))
    m.node("Mul", ["x", "factor"], "y")
    m.given("y", ["batch", 4])
    onnx.save(m.model(), folder / "off.onnx")

    def examples(seed: int) -> Iterator[Feed]:
        random = np.random.default_rng(seed)
        while True:
            yield {"x": random.standard_normal((2, 4)).astype(np.float32)}

    task = Task("tensors", (Edge("x", "float32", ("batch", 4)),), (Edge("y", "float32", ("batch", 4)),))
    return Traced(
        file=folder / "off.onnx",
        model_type="made",
        task=task,
        examples=examples,
        compute=lambda feed: {"y": feed["x"]},
        exact=exact,
    )


def moved(share: float) -> Callable[[Feed], Feed]:
    return lambda feed: {"y": feed["x"].astype(np.float64) * (1 + share)}


def test_float64_is_not_asked_where_float32_agrees(tmp_path: Path) -> None:
    def fails(_feed: Feed) -> Feed:
        raise AssertionError

    traced = off_by(1e-6, tmp_path, fails)
    found = check_agreement(traced)
    accepted = found.of(traced, "first")
    assert (found.own, accepted.tolerance, accepted.notes) == (None, TOLERANCE, ("first",))


@pytest.mark.parametrize("exact", [3e-4, 2e-4])
def test_what_the_original_itself_does_not_hold_is_no_fault(exact: float, tmp_path: Path) -> None:
    """The graph is 3e-4 off; the original is nearly as far from itself in float64, or farther."""
    traced = off_by(3e-4, tmp_path, moved(exact))
    found = check_agreement(traced)
    accepted = found.of(traced, "first")
    assert found.own == pytest.approx(exact, rel=1e-3)
    assert found.share < accepted.tolerance == pytest.approx(3 * exact, rel=1e-3)
    assert "float64" in accepted.notes[1]


def test_a_model_that_float32_hardly_holds_is_still_compared(tmp_path: Path) -> None:
    """Float64 is a tenth away: bundles may differ by ten times the usual tolerance, and no more."""
    found = check_agreement(off_by(3e-4, tmp_path, moved(0.1)))
    assert found.own == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert found.share < found.of(off_by(3e-4, tmp_path, None)).tolerance == pytest.approx(10 * TOLERANCE)


@pytest.mark.parametrize(
    ("share", "exact"),
    [(3e-4, None), (3e-4, moved(0.0)), (3e-4, moved(5e-5)), (-3e-4, moved(1.4e-4)), (0.1, moved(0.1))],
    ids=["no float64", "float64 agrees with the original", "is nearer", "is on the other side", "far off"],
)
def test_what_float64_does_not_excuse_is_wrong(
    share: float, exact: Callable[[Feed], Feed] | None, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailed, match="does not compute what the original computes"):
        check_agreement(off_by(share, tmp_path, exact))


def test_a_module_computes_in_float64() -> None:
    """Where float32 loses all of the answer, float64 has it; the module itself stays as it was."""

    class Lost(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.far = torch.nn.Parameter(torch.tensor([2.0**30]))

        def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return (x + self.far) - self.far + shift

    module, shift = Lost().eval(), torch.ones(1)
    tracing = Tracing(module=module, inputs={"x": torch.zeros(3)}, where="made", fixed={"shift": shift})
    feed = {"x": np.array([1.0, -2.0, 3.0], np.float32)}
    np.testing.assert_array_equal(tracing.compute(feed)["output"], [1, 1, 1])
    np.testing.assert_array_equal(tracing.exact(feed)["output"], [2, -1, 4])
    assert module.far.dtype == torch.float32
