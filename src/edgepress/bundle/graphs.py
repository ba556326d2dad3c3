"""A bundle's graphs over one data file: one model for several kinds of processor, and which of them runs here.

::

    model_fp16.onnx   requires fp16   attention and states in float16
    model.onnx        requires -      in float32: what every processor runs

The manifest lists them in the order of preference; a bundle with one graph has no list.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgepress.bundle.states import State, check_states
from edgepress.processor import FEATURES, features

_FEWEST, _MOST = 2, 8
_File = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.onnx$")]
_Feature = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]{1,32}$")]


@dataclass(frozen=True)
class GraphEntry:
    """One graph: its ``file``, what a processor must have to run it, and what it carries from one call to the next.

    ``requires`` has words of :data:`edgepress.processor.FEATURES`; a word that is not there is what a newer edgepress
    knows, and no processor has it. With ``casts`` onnxruntime runs the graph, when it is asked for, by casting where a
    processor lacks what is required; without, its kernels may end the process there.
    """

    file: _File
    requires: Annotated[tuple[_Feature, ...], msgspec.Meta(max_length=_MOST)]
    states: tuple[State, ...]
    casts: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """What it requires and this processor has not."""
        return tuple(word for word in self.requires if word not in features())

    @property
    def unknown(self) -> tuple[str, ...]:
        """What it requires and this edgepress does not know."""
        return tuple(word for word in self.requires if word not in FEATURES)


def check_graphs(graphs: Sequence[GraphEntry], files: Collection[str], states: Sequence[State]) -> None:
    """Raise a ValueError unless ``graphs`` are none, or several of ``files`` of which the last one alone runs anywhere.

    Its states are ``states``, those of a bundle for who knows of no other graph.
    """
    if not graphs:
        return
    if not _FEWEST <= len(graphs) <= _MOST:
        raise ValueError(f"there are {len(graphs)}, and a list has {_FEWEST} to {_MOST}")
    for entry in graphs:
        if entry.file not in files:
            raise ValueError(f"{entry.file} is not among the files")
        check_states(entry.states)
    if len({entry.file for entry in graphs}) < len(graphs):
        raise ValueError("one file is there twice")
    *others, last = graphs
    if last.requires or not all(entry.requires for entry in others):
        raise ValueError("the last one, and no other, must require nothing: it is what runs where the others cannot")
    if last.states != tuple(states):
        raise ValueError(f"the states of {last.file} are not those of the bundle")


def choose(graphs: Iterable[GraphEntry]) -> GraphEntry:
    """The first of a list whose requirements this processor meets; the last one has none."""
    return next(entry for entry in graphs if not entry.missing)


def describe_choice(entry: GraphEntry, chosen: GraphEntry) -> str:
    """Whether ``entry`` runs on this processor, and why, in a few words."""
    if entry.unknown:
        return f"no: this edgepress knows no {', '.join(entry.unknown)}"
    if entry.missing:
        return f"no: this processor has no {', '.join(FEATURES[word] for word in entry.missing)}"
    return "yes" if entry == chosen else f"no: {chosen.file} is preferred"
