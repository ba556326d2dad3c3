"""Where each node of a model would run on a target, and why not on its accelerator.

Read on a build machine only (it needs onnx): files.py reads any ONNX file safely, registry.py asks onnxruntime's kernel
registry, tables.py reads operator tables, asked.py asks a provider's own compiler, cliffs.py knows slow kernels.
"""

from dataclasses import dataclass
from typing import Literal

Cause = Literal[
    "", "op", "version", "dtype", "rank", "dynamic shape", "attribute", "constant", "neighbour", "quantization"
]
"""What keeps a node off the accelerator, in one word; ``""`` for a node that is on it."""


@dataclass(frozen=True)
class Placement:
    """Where one node would run.

    ``node`` is its name; a nameless one is called by its first output. Nodes in subgraphs follow their parents, as
    ``parent/then_branch/node``. ``runs_on`` is onnxruntime's name of a provider, or ``""`` when none takes the node and
    the session cannot be made. ``reason`` says why it is not the accelerator (``""`` when it is), ``change`` what the
    smallest change is that would put it there, and ``fixed_by`` names the pass of edgepress that makes this change.
    """

    node: str
    op: str
    domain: str
    runs_on: str
    cause: Cause = ""
    reason: str = ""
    change: str = ""
    fixed_by: str = ""


@dataclass(frozen=True)
class Report:
    """Every node of a model on a target.

    ``partitions`` counts the connected pieces that the accelerator gets: data crosses to the CPU and back between them.
    ``warnings`` are speed cliffs: nodes that run where they should, by a slow kernel.
    """

    target: str
    soc: str
    provider: str
    checked: str
    source: str
    placements: tuple[Placement, ...]
    partitions: int
    warnings: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        """Whether every node runs on the target's own provider."""
        return all(placement.runs_on == self.provider for placement in self.placements)
