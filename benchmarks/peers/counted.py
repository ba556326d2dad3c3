"""What the peers that are counted on emulated ARM have in common: their calls and tokens, and a sample of one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arm_instructions import CONTEXTS, PREFILL, Machine, Sample, Subject

from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.source.checkpoint import Checkpoint

IN_MACHINE = {"import/peers/in_machine.py": Path(__file__).with_name("in_machine.py")}
"""What a machine is sent besides: the functions that it calls."""


def open_checkpoint(subject: Subject) -> Checkpoint:
    """The checkpoint of a subject, of the demo its name."""
    return Checkpoint.open(resolve_model(subject.checkpoint))


def asked(checkpoint: Checkpoint, contexts: Sequence[int] = CONTEXTS) -> dict[str, Any]:
    """What each tool is asked: ``pairs`` of context and tokens that fit the model, and random ``tokens``."""
    longest = checkpoint.config["max_position_embeddings"]
    pairs = [(context, more) for context in contexts for more in (1, *PREFILL) if context + more <= longest]
    random = np.random.default_rng(0).integers(3, checkpoint.config["vocab_size"], max(map(sum, pairs)))
    return {"pairs": pairs, "tokens": [int(token) for token in random]}


def sample(
    of: tuple[str, str, str, Subject],
    told: Mapping[str, Any],
    operators: Mapping[str, int],
    *,
    weight_bytes: int,
    cache_row: int,
    versions: Mapping[str, str],
) -> Sample:
    """One call; ``of`` is tool, form, processor and subject, ``cache_row`` the bytes of a token's keys and values.

    ``operators`` leave something over of the whole, which is told as ``outside``.
    """
    tool, form, cpu, subject = of
    instructions = min(told["instructions"])
    return Sample(
        tool=tool,
        model=subject.model,
        layers=subject.layers,
        of_layers=subject.of_layers,
        form=form,
        cpu=cpu,
        tokens=told["tokens"],
        context=told["context"],
        instructions=instructions,
        in_engine=instructions,
        operators={**operators, "outside": instructions - sum(operators.values())},
        weight_bytes_loaded=weight_bytes,
        state_bytes_loaded=cache_row * (told["context"] + told["tokens"]),
        state_bytes_stored=cache_row * told["tokens"],
        versions=versions,
    )


def versions_of(machine: Machine, **more: str) -> dict[str, str]:
    """Versions of what the machine runs on, and the peer's own."""
    return {**machine[0].versions, **machine[1].versions, **more}
