"""Which channels of an ONNX graph must be cut together, each with all constants that are cut with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.exporter.methods.narrower.rules import all_rules, counted
from edgepress.exporter.methods.narrower.rules.attention import HEADS
from edgepress.exporter.methods.narrower.rules.norms import NORMED
from edgepress.exporter.methods.narrower.rules.products import CHANNELS, STATES
from edgepress.exporter.methods.narrower.trace import Axes, Labels, OpaqueError, Repair, Trace, Work, node_name
from edgepress.onnx_graph.values import Scope
from edgepress.onnx_graph.walk import normal_domain, read_inside

Kind = Literal["channels", "widths", "heads", "hidden", "states"]
"""What the channels of a group are: of convolutions, of linear layers alone, heads, normalized over, of LSTMs."""


NO_CHANNELS = ""
"""The reason of axes that are none of channels, which nobody needs to be told."""


@dataclass(frozen=True)
class Site:
    """An axis of a constant, ``reads`` where a product sums over it, and where its channels lie: labels → channels."""

    tensor: str
    axis: int
    reads: bool


@dataclass(frozen=True)
class Group:
    """Channels that are cut in the same places. ``channels`` are their numbers in :class:`Coupling`."""

    name: str
    kind: Kind
    channels: NDArray[np.int64]
    sites: tuple[Site, ...]

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True)
class Coupling:
    """The channels of a graph, numbered: labels that were joined are one channel.

    ``channel_of`` is the channel of each label; ``tensors`` the labels of the axes of constants, ``why`` the reason of
    each channel that cannot be cut. ``whole`` are axes of which something must stay.
    """

    channel_of: NDArray[np.int64]
    groups: tuple[Group, ...]
    kept_whole: Mapping[str, str]
    tensors: Mapping[str, Axes]
    work: tuple[Work, ...]
    whole: tuple[tuple[str, Labels], ...]
    repairs: Mapping[int, Repair]

    @property
    def count(self) -> int:
        """How many channels there are, those included that cannot be cut."""
        return int(self.channel_of.max(initial=-1)) + 1

    def all_kept(self) -> NDArray[np.bool_]:
        """Every channel stays, (count,)."""
        return np.ones(self.count, np.bool_)

    def multiply_adds(self, kept: NDArray[np.bool_]) -> int:
        """Multiply-adds of products and attention; sizes that are not fixed count 1."""
        sizes = [[kept[self.channel_of[labels]].sum() for labels in work.labels] for work in self.work]
        return sum(work.factor * int(np.prod(own, dtype=np.int64)) for work, own in zip(self.work, sizes, strict=True))

    def parameters(self, kept: NDArray[np.bool_]) -> int:
        """Numbers in the float32 constants that the graph has, those without axes to cut included."""
        return sum(
            int(
                np.prod(
                    [size if axis is None else kept[self.channel_of[axis]].sum() for size, axis in own], dtype=np.int64
                )
            )
            for own in self._sized
        )

    @cached_property
    def _sized(self) -> list[list[tuple[int, Labels | None]]]:
        return [[(1 if axis is None else len(axis), axis) for axis in axes] for axes in self.tensors.values()]

    def positions(self, site: Site, channels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where along a site these channels lie, (size,)."""
        labels = self.tensors[site.tensor][site.axis]
        assert labels is not None  # a site has labels
        return np.isin(self.channel_of[labels], channels)


def find_coupling(model: onnx.ModelProto) -> Coupling:
    """Walk through a graph and join its channels. Constants are initializers (:func:`.cut.plain`)."""
    trace = _walk(model)
    channel_of = _connected(trace.count, trace.joined)
    why = _first_reasons(trace, channel_of)
    groups, whole = _groups(trace, channel_of, why)
    tensors = {tensor.name: trace.axes[tensor.name] for tensor in model.graph.initializer if tensor.name in trace.axes}
    return Coupling(channel_of, groups, whole, tensors, tuple(trace.work), tuple(trace.whole), dict(trace.repairs))


def _walk(model: onnx.ModelProto) -> Trace:
    trace, rules = Trace(Scope(model)), all_rules()
    trace.begin()
    for index, node in enumerate(model.graph.node):
        trace.index = index
        for name in read_inside(node):
            trace.fix_all(trace.axes.get(name, ()), f"{node_name(node)} reads it in a graph of its own")
        key = normal_domain(node.domain), node.op_type
        if not any(map(trace.is_labelled, node.input)) and key not in counted():
            continue
        before = len(trace.joined), len(trace.fixed), len(trace.tagged)
        rule = rules.get(key)
        try:
            if rule is None:
                raise OpaqueError(f"{node.op_type} (node {node_name(node)}) is not known to keep channels apart")
            rule(trace, node)
        except OpaqueError as reason:
            for name in node.input:
                trace.fix_all(trace.axes.get(name, ()), str(reason))
            for name in node.output:
                trace.axes.pop(name, None)
            trace.repairs.pop(index, None)
        _fix_unused(trace, node, *before)
    for value in model.graph.output:
        trace.fix_all(trace.axes.get(value.name, ()), f"it reaches the output {value.name}")
    for name, axes in trace.axes.items():
        if trace.is_constant(name):
            for place, axis in enumerate(axes):
                trace.keeps_some(axis, f"axis {place} of {name}")
    return trace


def _fix_unused(trace: Trace, node: onnx.NodeProto, joined: int, fixed: int, tagged: int) -> None:
    """Keep whole what a rule had nothing to say of, such as the height of a kernel."""
    said = [labels for pair in trace.joined[joined:] for labels in pair]
    said += [labels for labels, _ in (*trace.fixed[fixed:], *trace.tagged[tagged:])]
    said += [axis for name in node.output for axis in trace.axes.get(name, ()) if axis is not None]
    used = np.unique(np.concatenate([np.empty(0, np.int64), *said]))
    for name in node.input:
        for axis in trace.axes.get(name, ()):
            if axis is not None and not np.isin(axis, used).all():
                trace.fix(axis, NO_CHANNELS)


def _connected(count: int, joined: Sequence[tuple[Labels, Labels]]) -> NDArray[np.int64]:
    """The number of the component of each label."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in joined)])
    second = np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in joined)])
    edges = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def _first_reasons(trace: Trace, channel_of: NDArray[np.int64]) -> dict[int, str]:
    """Why a channel cannot be cut, for those that cannot."""
    found: dict[int, str] = {}
    for labels, reason in trace.fixed:
        for channel in np.unique(channel_of[labels]).tolist():
            found.setdefault(channel, reason)
    return found


def _groups(
    trace: Trace, channel_of: NDArray[np.int64], why: Mapping[int, str]
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """Channels with the same sites are a group; groups that cannot be cut are only named, with the reason."""
    tags: dict[str, set[int]] = {}
    for labels, word in trace.tagged:
        tags.setdefault(word, set()).update(np.unique(channel_of[labels]).tolist())
    sites: dict[int, list[Site]] = {}
    names: dict[Site, str] = {}
    for node in trace.scope.graph.node:
        for name in node.input:
            if not trace.is_constant(name):
                continue
            for place, axis in enumerate(trace.axes.get(name, ())):
                site = Site(name, place, (name, place) in trace.read)
                if axis is None or site in names:
                    continue
                names[site] = node_name(node)
                for channel in np.unique(channel_of[axis]).tolist():
                    sites.setdefault(channel, []).append(site)
    members: dict[tuple[tuple[Site, ...], Kind, str | None], list[int]] = {}
    for channel, own in sites.items():
        members.setdefault((tuple(own), _kind(channel, tags), why.get(channel)), []).append(channel)
    groups: list[Group] = []
    whole: dict[str, str] = {}
    used: dict[str, int] = {}
    for (places, kind, reason), channels in members.items():
        base = names[next((site for site in places if not site.reads), places[0])]
        if reason is not None:
            if reason != NO_CHANNELS and not all(site.reads for site in places):
                whole.setdefault(base, reason)
            continue
        used[base] = used.get(base, 0) + 1
        name = base if used[base] == 1 else f"{base}#{used[base]}"
        groups.append(Group(name, kind, np.array(channels, np.int64), places))
    return tuple(groups), whole


def _kind(channel: int, tags: Mapping[str, set[int]]) -> Kind:
    if channel in tags.get(HEADS, ()):
        return "heads"
    if channel in tags.get(STATES, ()):
        return "states"
    if channel in tags.get(NORMED, ()):
        return "hidden"
    return "channels" if channel in tags.get(CHANNELS, ()) else "widths"
