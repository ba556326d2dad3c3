"""Which of a bundle's graphs runs: an accelerator's, where there is one that the bundle was made for, else the CPU's.

A bundle for an accelerator has, in the folder of the target's name, static ``prefill.onnx`` and ``decode.onnx``,
``encoder.onnx`` and ``decoder.onnx``, or ``model.onnx`` where it is neither kind; and for each chip that it was
compiled for a folder with the same names: context binaries, which open at once. The manifest says whether float nodes
compute in float16, which chips there are, and which size the axes have that the CPU's graph leaves open.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest
from edgepress.errors import InputError
from edgepress.runtime.sessions.session import RanOn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onnxruntime import InferenceSession

    from edgepress.bundle.states import State
    from edgepress.runtime.sessions.static import StaticSession
    from edgepress.targets import Soc, Target

CPU = "cpu"
PREFILL_FILE, DECODE_FILE = "prefill.onnx", "decode.onnx"

Opened = TypeVar("Opened")

_log = logging.getLogger("edgepress.runtime")


@dataclass(frozen=True)
class Place:
    """An accelerator and the folder of the graphs that run there; ``soc`` None compiles for the chip that is found.

    ``context`` is the length that the graphs of a model that writes tokens were made for, ``states`` the bundle's list,
    empty where it has none. ``shapes`` are the sizes of the axes of another graph, or of a source.
    """

    target: Target
    folder: Path
    soc: Soc | None
    fp16: bool
    simulated: bool
    context: int
    states: tuple[State, ...]
    shapes: Mapping[str, int]

    @property
    def ran_on(self) -> RanOn:
        """What a session there reports as its place."""
        return RanOn(self.target.provider, self.target.name, self.soc.name if self.soc else None, self.simulated)

    def __str__(self) -> str:
        return self.ran_on.name

    def open(self) -> StaticSession:
        """Open both graphs of a language model; InputError when the provider does not take one."""
        from edgepress.runtime.sessions.static import StaticSession

        prefill, decode = (self.open_graph(name) for name in (PREFILL_FILE, DECODE_FILE))
        return StaticSession(prefill, decode, self.ran_on, self.states or None)

    def open_graph(self, name: str) -> InferenceSession:
        """Open the graph of that file; InputError when the provider does not take it."""
        from edgepress.targets.providers import find_provider

        session: InferenceSession = find_provider(self.target.provider).open_session(
            self.folder / name, self.soc, fp16=self.fp16
        )
        return session


def open_accelerator(
    bundle: Path, on: str | None = None, soc: str | None = None, graph: str | None = None
) -> StaticSession | None:
    """Open the graphs of an accelerator, or return None for the CPU.

    Args:
        bundle: the directory that an export wrote.
        on: a target of the bundle, simulated where this machine is not one; ``cpu``; or None for what is here: an
            accelerator only if the machine has one, and the CPU, with a warning, when it does not take the graphs.
        soc: with ``on``, the chip to run or simulate; by default the one that is here, else the first compiled for.
        graph: one of the CPU's graphs, which is to run: then it is the CPU.

    Raises:
        InputError: the bundle was not made for ``on`` or ``soc``, or what was asked for by name does not open.

    """
    found = open_first(find_places(bundle, on, soc, graph), Place.open, asked=on is not None)
    return None if found is None else found[1]


def open_first(
    places: Iterable[Place], opens: Callable[[Place], Opened], *, asked: bool
) -> tuple[Place, Opened] | None:
    """The first of ``places`` that opens, and what it opens; None, with a warning for each, where none does.

    Raises:
        InputError: the place was ``asked`` for by name and does not open.

    """
    for place in places:
        if asked:
            _log.info("running on %s", place)
            return place, opens(place)
        try:
            return place, opens(place)
        except InputError as error:
            _log.warning("the CPU runs this bundle, because %s does not: %s", place, error)
    return None


def find_places(bundle: Path, on: str | None = None, soc: str | None = None, graph: str | None = None) -> list[Place]:
    """Where :func:`open_accelerator` would open a bundle, in the order in which it tries; empty for the CPU."""
    if graph is not None:
        if on not in (None, CPU):
            raise InputError(
                f"{graph} is a graph that the CPU runs, and {on} has graphs of its own; name one of the two"
            )
        on = CPU
    if on == CPU or (on is None and not any(path.is_dir() for path in bundle.iterdir())):
        if soc is not None:
            raise InputError(f"a chip, {soc}, is named, but the CPU runs the bundle; name its target too")
        return []
    graphs = _graphs(bundle)
    if on is not None:
        return [_asked(bundle, graphs, on, soc)]
    if soc is not None:
        raise InputError(f"a chip, {soc}, is named, but no target; name one of {', '.join(graphs) or CPU}")
    return list(filter(None, (_found(bundle, name, described) for name, described in graphs.items())))


def _graphs(bundle: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each target that has static graphs."""
    if not (bundle / MANIFEST_NAME).is_file():
        return {}
    targets = cast("dict[str, dict[str, Any]]", read_manifest(bundle).targets)
    return {name: described for name, described in targets.items() if "widths" in described}


def _asked(bundle: Path, graphs: dict[str, dict[str, Any]], on: str, soc: str | None) -> Place:
    # here, as a bundle for CPUs alone is for no target that has to be found
    from edgepress.targets import find_target, target_names
    from edgepress.targets.providers import find_provider

    if on not in graphs:
        has = f"{bundle} has no graphs for {on!r}, it has those for {', '.join([*graphs, CPU])}"
        fixed = next((state.kind for state in _states(bundle) if not state.in_place and state.kind != "encoded"), None)
        if fixed is not None:
            raise InputError(f"{has}; a model with {fixed} states runs on CPUs only")
        with_graphs = [name for name in target_names() if find_target(name).form == "static"]
        if on in with_graphs:
            raise InputError(f"{has}; `edgepress export --target {on}` makes them")
        raise InputError(f"{has}; name one of these, or export for {' or '.join(with_graphs)}")
    described, target = graphs[on], find_target(on)
    provider, compiled = find_provider(target.provider), list(described["socs"])
    simulated = bool(provider.simulated())
    if soc is None and simulated:
        soc = compiled[0] if compiled else _any_soc(target, fp16=described["widths"] == "fp16").name
    chip = next((one for one in target.socs if one.name == soc), None) if soc else provider.host_soc(target.socs)
    if soc is not None and chip is None:
        raise InputError(f"{on} knows no chip {soc!r}; the bundle is compiled for {', '.join(compiled) or 'none'}")
    return _place(bundle, target, described, chip, simulated=simulated)


def _states(bundle: Path) -> tuple[State, ...]:
    return read_manifest(bundle).states if (bundle / MANIFEST_NAME).is_file() else ()


def _any_soc(target: Target, *, fp16: bool) -> Soc:
    """The chip that is simulated when none is named: the first that takes the graphs."""
    return next(soc for soc in target.socs if soc.float16 or not fp16)


def _found(bundle: Path, name: str, described: dict[str, Any]) -> Place | None:
    """The accelerator of this machine, None where there is none or its provider is not installed."""
    from edgepress.targets import find_target
    from edgepress.targets.providers import find_provider

    target = find_target(name)
    provider = find_provider(target.provider)
    try:
        if provider.simulated():
            return None
    except InputError:  # the provider is not installed
        return None
    return _place(bundle, target, described, provider.host_soc(target.socs), simulated=False)


def _place(bundle: Path, target: Target, described: dict[str, Any], soc: Soc | None, *, simulated: bool) -> Place:
    folder = bundle / target.name
    if soc is not None and soc.name in described["socs"]:
        folder /= soc.name
    return Place(
        target,
        folder,
        soc,
        fp16=described["widths"] == "fp16",
        simulated=simulated,
        context=int(described.get("context_length", 0)),
        states=read_manifest(bundle).states,
        shapes={str(axis): int(size) for axis, size in described.get("shapes", {}).items()},
    )
