"""Several feeds through a network side by side, a step at a time; what is behind is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgepress.exporter.interpreter.network import Feed, Network, Step, Tensors


class Walk:
    """Goes on from where it stopped, so that a network is computed once, however often it is looked at on the way.

    ``constants`` gives what stands in for constants, and is asked anew at each step: what was changed behind the walk
    changes nothing, what is changed ahead of it does.
    """

    def __init__(self, network: Network, feeds: Sequence[Feed], constants: Callable[[], Tensors] | None = None) -> None:
        self._network, self._constants = network, constants
        self._plan = network.plan(network.inputs, network.outputs)
        self._at = 0
        self._values: list[dict[str, Tensor]] = [network.tensors(feed) for feed in feeds]

    @property
    def ahead(self) -> list[Step]:
        """The steps that are not done yet."""
        return [step for step, _ in self._plan[self._at :]]

    def before(self, step: Step) -> list[dict[str, Tensor]]:
        """Go on until ``step`` is next; its computed inputs by name, for each feed."""
        while self._plan[self._at][0] is not step:
            self._do()
        return [{name: values[name] for name in step.inputs if name in values} for values in self._values]

    def until(self, name: str) -> list[Tensor]:
        """Go on until the value ``name`` is made, and give it for each feed."""
        while any(name not in values for values in self._values):
            self._do()
        return [values[name] for values in self._values]

    def _do(self) -> None:
        step, dead = self._plan[self._at]
        known = None if self._constants is None else self._constants()
        with torch.no_grad():
            for values in self._values:
                self._network.do(step, values, known)
                for name in dead:
                    del values[name]
        self._at += 1
