"""Sizes that free axes may have: a graph is the module at all of them, and what its trace took for granted is found.

What each module computes is known: it is torch's own, run at the sizes in question.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgepress.errors import InputError
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.ways.torch_module import open_callable
from edgepress.runtime.tasks.kinds import open_task
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import Axis

SOURCE = """
import torch


class Way(torch.nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.given = forward

    def forward(self, x):
        return self.given(x)


def of(forward):
    free = {"x": {0: "batch", 1: "length"}}
    return lambda: (Way(forward), (torch.randn(2, 6),), free)


longer = of(lambda x: x.exp() if x.shape[1] <= 300 else x.sin())
shorter = of(lambda x: x.exp() if x.shape[1] > 2 else x.sin())
even = of(lambda x: x.exp() if x.shape[1] % 2 == 0 else x.sin())
single = of(lambda x: x.exp() if x.shape[1] != 1 else x.sin())
harmless = of(lambda x: x.exp() if x.shape[1] > 3 else x.exp() * 1)
hole = of(lambda x: x.exp() if x.shape[1] != 5 else x.sin())
both = of(lambda x: x.exp() if x.shape[0] + x.shape[1] > 4 else x.sin())
batch = of(lambda x: x.exp() if x.shape[0] != 1 else x.sin())
"""


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "bounds_example.py").write_text(SOURCE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def opened(name: str, folder: Path) -> Traced:
    return open_callable(f"bounds_example:{name}", Options(), folder)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("longer", Axis("length", most=300)),
        ("shorter", Axis("length", least=3)),
        ("even", Axis("length", multiple=2, least=2)),
        ("single", Axis("length", least=2)),
        ("harmless", None),
    ],
)
def test_an_axis_has_the_sizes_at_which_the_graph_is_the_module(name: str, axis: Axis | None, tmp_path: Path) -> None:
    traced = opened(name, tmp_path)
    assert traced.task.axes == (None if axis is None else (axis,))
    session, compute = open_on_cpu(traced.file), traced.compute
    assert compute is not None
    for rows, length in ((1, 1), (3, 2), (1, 3), (2, 7), (1, 300), (1, 301), (1, 1000)):
        feed = {"x": np.random.default_rng(length).standard_normal((rows, length), np.float32)}
        (found,), expected = session.run(None, feed), compute(feed)["output"]
        same = np.allclose(found, expected, atol=1e-5)
        assert same == (axis is None or axis.allows(length)), length


def test_inputs_of_other_sizes_are_errors_that_name_the_axis(tmp_path: Path) -> None:
    traced = opened("longer", tmp_path)
    session = open_on_cpu(traced.file)
    model = open_task(traced.task, lambda feed: {"output": session.run(None, feed)[0]}, tmp_path)
    assert model.run({"x": np.zeros((1, 300), np.float32)})["output"].shape == (1, 300)
    with pytest.raises(InputError, match=r"x has the shape \(1, 301\).*length has to be 1 to 300 and is 301"):
        model.run({"x": np.zeros((1, 301), np.float32)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hole", r"cannot leave length free: its graph computes .* only where .*length, 5.*Leave that axis out"),
        ("both", r"cannot leave batch and length free: .* only where batch \+ length > 4, and not where batch is 1"),
        ("batch", r"cannot leave batch free: where it is 1, .*give an example of one"),
    ],
)
def test_sizes_that_are_no_range_are_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        opened(name, tmp_path)
