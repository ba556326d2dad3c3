"""What a check finds: where each node runs, and why not on the accelerator."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Cause = Literal[
    "",
    "op",
    "subgraph",
    "version",
    "dtype",
    "rank",
    "dynamic shape",
    "attribute",
    "constant",
    "quantization",
    "neighbour",
]
"""What keeps a node off the accelerator, in one word; ``""`` for a node that is on it."""


@dataclass(frozen=True)
class Placement:
    """Where one node would run.

    ``node`` is its name; a nameless one is called by its first output, and the second of two with one name is
    ``name#2``. Nodes in subgraphs follow their parents, as ``parent/then_branch/node``. ``runs_on`` is onnxruntime's
    name of a provider, or ``""`` when none takes the node and the session cannot be made. ``reason`` says why it is
    not the accelerator (``""`` when it is), ``change`` what the smallest change is that would put it there (``""`` when
    none is known), and ``fixed_by`` names the pass of edgepress that helps.
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

    ``partitions`` counts the pieces that the accelerator gets: data crosses to the CPU and back between them.
    ``warnings`` are speed cliffs, nodes that run where they should by a slow kernel; ``products`` are integer products
    whose sums saturate on some of the target's processors; ``caveats`` are conditions of a table that could not be
    checked. ``multiply_adds`` are those of products and convolutions of known sizes, by where they run.
    """

    model: str
    target: str
    soc: str
    provider: str
    checked: str
    source: str
    placements: tuple[Placement, ...]
    partitions: int
    warnings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    multiply_adds: Mapping[str, int] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether every node runs on the target's own provider."""
        return all(placement.runs_on == self.provider for placement in self.placements)

    def to_json(self) -> dict[str, object]:
        """Everything that was found, as JSON's types."""
        return {**asdict(self), "full": self.full}


def format_report(report: Report) -> str:
    """Return the report for reading: counts by operator and device, reasons in groups, then every node."""
    return "\n".join([*_summary(report), *_counts(report), *_reasons(report), *_notes(report), *_nodes(report)])


def _summary(report: Report) -> Iterator[str]:
    target = f"{report.target} {report.soc}".strip()
    yield f"{report.model} on {target}, {report.checked}: {report.source}"
    devices = Counter(placement.runs_on for placement in report.placements)
    total = len(report.placements)
    on = devices.pop(report.provider, 0)
    pieces = "" if report.full or not on else f" in {report.partitions} partition{'s' * (report.partitions != 1)}"
    yield f"  {on:,} of {total:,} nodes on {report.provider}{pieces}"
    for device, count in devices.most_common():
        yield f"  {count:,} on {device}" if device else f"  {count:,} on no provider: a session cannot be made"
    if work := sum(report.multiply_adds.values()):
        there = report.multiply_adds.get(report.provider, 0)
        yield f"  {there / work:.1%} of {work / 1e6:,.1f} M multiply-adds on {report.provider}"


def _counts(report: Report) -> Iterator[str]:
    devices = [report.provider, *sorted({placement.runs_on for placement in report.placements} - {report.provider})]
    counts = Counter((_key(placement), placement.runs_on) for placement in report.placements)
    names = sorted({_key(placement) for placement in report.placements})
    width = max(map(len, names))
    yield ""
    yield f"{'operator':{width}}  " + "  ".join(f"{device or 'nowhere':>{_width(device)}}" for device in devices)
    for name in names:
        row = (f"{counts[name, device] or '·':>{_width(device)}}" for device in devices)
        yield f"{name:{width}}  {'  '.join(row)}"


def _width(device: str) -> int:
    return max(len(device), 7)


def _key(placement: Placement) -> str:
    return f"{placement.domain}:{placement.op}" if placement.domain else placement.op


def _reasons(report: Report) -> Iterator[str]:
    """One paragraph for each change that would help, with the nodes that it would help counted by operator."""
    groups: dict[tuple[str, str, str], list[Placement]] = {}
    for placement in report.placements:
        if placement.runs_on != report.provider:
            groups.setdefault((placement.cause, placement.change, placement.fixed_by), []).append(placement)
    if groups:
        yield ""
        yield f"why not {report.provider}"
    for (cause, change, fixed_by), placements in sorted(groups.items(), key=lambda item: -len(item[1])):
        counts = Counter(map(_key, placements)).most_common()
        yield f"  {cause}: {', '.join(f'{count} {name}' for name, count in counts)}"
        example = "" if len({placement.reason for placement in placements}) == 1 else "for example, "
        yield f"    why: {example}{placements[0].reason}"
        passes = f"the pass {fixed_by}" if fixed_by else ""
        yield f"    change: {'; '.join(filter(None, (change, passes))) or 'none was found'}"


def _notes(report: Report) -> Iterator[str]:
    if report.warnings:
        yield ""
        yield "slow kernels"
        yield from (f"  {warning}" for warning in report.warnings)
    if report.products:
        yield ""
        yield "integer products"
        yield from (f"  {product}" for product in report.products)
    if report.caveats:
        yield ""
        yield "conditions that are not checked"
        yield from (f"  {caveat}" for caveat in report.caveats)


def _nodes(report: Report) -> Iterator[str]:
    yield ""
    yield "nodes"
    for placement in report.placements:
        reason = f": {placement.reason}" if placement.reason else ""
        yield f"  {placement.runs_on or 'nowhere'}  {_key(placement)}  {placement.node}{reason}"
