"""Several feeds through a network side by side, a step at a time; what is behind is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgepress.exporter.arrays.parallel import each
from edgepress.exporter.interpreter.network import Feed, Network, Step, Tensors


class Walk:
    """Goes on from where it stopped, so that a network is computed once, however often it is looked at on the way.

    ``constants`` gives what stands in for constants, and is asked anew at each step: what was changed behind the walk
    changes nothing, what is changed ahead of it does. What is computed of constants alone is no step of the walk: it is
    made where it is read.
    """

    def __init__(self, network: Network, feeds: Sequence[Feed], constants: Callable[[], Tensors] | None = None) -> None:
        self.network, self._constants = network, constants
        varying, self._plan = set(network.inputs), list[tuple[Step, tuple[str, ...]]]()
        for step, dead in network.plan(network.inputs, network.outputs):
            if varying & {*step.inputs, *step.reads}:
                varying.update(step.outputs)
                self._plan.append((step, dead))
        self._varying, self._at = varying, 0
        self._values: list[dict[str, Tensor]] = [network.tensors(feed) for feed in feeds]

    @property
    def ahead(self) -> list[Step]:
        """The steps that are not done yet."""
        return [step for step, _ in self._plan[self._at :]]

    def before(self, step: Step) -> list[dict[str, Tensor]]:
        """Go on until ``step`` is next; what it reads that depends on the feed, by name, for each feed."""
        while self._plan[self._at][0] is not step:
            self._do()
        return [{name: values[name] for name in step.inputs if name in values} for values in self._values]

    def alive(self, step: Step) -> list[Tensors]:
        """Go on until ``step`` is next; all values that it or a later one reads, for each feed."""
        self.before(step)
        return [dict(values) for values in self._values]

    def until(self, name: str) -> list[Tensor]:
        """Go on until the value ``name`` is made, and give it for each feed."""
        while any(name not in values for values in self._values):
            self._do()
        return [values[name] for values in self._values]

    def _do(self) -> None:
        step, dead = self._plan[self._at]
        known = None if self._constants is None else self._constants()
        read = dict.fromkeys((*filter(None, step.inputs), *step.reads))
        with torch.no_grad():
            made = self.network.run({}, [name for name in read if name not in self._varying], constants=known)

            def compute(values: dict[str, Tensor]) -> None:
                values.update(made)
                self.network.do(step, values, known)
                for name in {*made, *(name for name in dead if name in values)}:
                    del values[name]

            each(compute, self._values, self.network.device)
        self._at += 1
