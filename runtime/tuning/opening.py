"""How a bundle is opened: as the user says, else as was measured here, else as is right for most machines."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.runtime.prepared import find_form
from edgepress.runtime.sessions.session import PREFILL_CHUNK
from edgepress.runtime.tuning.record import Choice, Steps, read_tuning, write_tuning
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgepress.runtime.config import BundleConfig
    from edgepress.runtime.generation.speculation.costs import StepCosts


def how_to_open(config: BundleConfig, threads: int | None, prefill_chunk: int | None, *, prepared: bool) -> Choice:
    """The choice for a bundle; ``threads`` and ``prefill_chunk`` are the user's, None where there is no wish.

    What was measured belongs to the ``prepared`` form, and is for those threads that were measured.

    Raises:
        InputError: a number is out of range.

    """
    known = None
    if prepared and None in (threads, prefill_chunk):
        with suppress(InputError):  # why there is no form is said when it is opened
            known = read_tuning(find_form(config.bundle, model=config.model)).choice
    usual = Choice(usable_cores(), (), spinning=True, prefill_chunk=PREFILL_CHUNK)
    measured = usual if known is None else known
    placed = measured if threads is None else replace(usual, threads=whole_number("threads", threads))
    pieces = measured.prefill_chunk if prefill_chunk is None else whole_number("prefill_chunk", prefill_chunk)
    return replace(placed, prefill_chunk=pieces)


def known_or_measured(form: Path | None, threads: int, measure: Callable[[], StepCosts]) -> StepCosts:
    """What steps over several tokens cost with so many threads: from a form's folder, else measured and kept there."""
    tuning = read_tuning(form)
    if str(threads) in tuning.steps:
        return tuning.steps[str(threads)].costs()
    costs = measure()
    if form is not None:
        write_tuning(form, replace(tuning, steps={**tuning.steps, str(threads): Steps.of(costs)}))
    return costs
