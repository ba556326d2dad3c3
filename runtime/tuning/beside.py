"""Drafters' graphs beside the texts of a bundle, and what their steps and the model's own cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepress.errors import InputError
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import ON_CPU, Session
from edgepress.runtime.tuning.opening import known_or_measured

if TYPE_CHECKING:
    from pathlib import Path

    from edgepress.runtime.config import BundleConfig
    from edgepress.runtime.generation.speculation.costs import StepCosts


def step_costs_of(session: Session, threads: int) -> StepCosts:
    """What a model's steps over several tokens cost: measured beside its text, and kept with the prepared form.

    Raises:
        InputError: the model runs on an accelerator, whose graphs compute one token or a whole piece of a prompt.

    """
    from edgepress.runtime.generation.speculation.costs import measure_steps

    if session.ran_on.target != ON_CPU.target:
        raise InputError(
            f"{session.ran_on} computes one token or a whole piece of a prompt, so there is no step over several "
            "tokens to speculate with; run the bundle on the CPU (--on cpu), or do not speculate"
        )
    return known_or_measured(session.prepared.directory, threads, lambda: measure_steps(session.with_adapter(None)))


class GraphsBeside:
    """Drafters' graphs, each opened when first asked for, and once for all texts of the bundle.

    ``opened`` has them by their file, with a session that has no text and what its steps cost.
    """

    def __init__(self, threads: int) -> None:
        self.opened: dict[Path, tuple[Session, StepCosts]] = {}
        self._threads = threads

    def open(self, config: BundleConfig, main: Session) -> tuple[Session, StepCosts]:
        """A session of its own of the graph that ``config`` has, to draft for ``main``, and what its steps cost."""
        from edgepress.runtime.generation.speculation.costs import measure_steps

        if config.model not in self.opened:
            first = CpuSession(
                config,
                threads=self._threads,
                context=min(main.context, config.context_length),
                prepared=main.prepared.directory is not None,
            )
            costs = known_or_measured(
                first.prepared.directory, self._threads, lambda: measure_steps(first, reads=first.predicts_further)
            )
            self.opened[config.model] = first, costs
        session, costs = self.opened[config.model]
        return session.with_adapter(None), costs
