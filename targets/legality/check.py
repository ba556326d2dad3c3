"""``edgepress check``: where every node of a model would run on a target, in one report."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx

from edgepress.bundle.manifest import MANIFEST_NAME, check_links, read_manifest, refuse_pack
from edgepress.errors import InputError
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.headers import refused_header
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.view import Graph, Node, view
from edgepress.onnx_graph.walk import opsets_of
from edgepress.targets import Soc, Target, find_soc, find_target
from edgepress.targets.legality import cliffs, registry, signature, tables
from edgepress.targets.legality.partitions import partitions
from edgepress.targets.legality.report import Placement, Report
from edgepress.targets.legality.saturation import saturating_products
from edgepress.targets.legality.work import multiply_adds

FixedBy = Callable[[Placement], str]
"""Names the pass that makes a node legal, ``""`` when none does."""


def check(path: Path, target: Target, soc: str = "", fixed_by: FixedBy = lambda _: "") -> list[Report]:
    """Say where each node of a model or bundle would run on ``target``: one report a graph.

    Args:
        path: an .onnx file; or a bundle, whose graphs for the target are checked, or its CPU graph if it has none.
        target: the device class; its ``checked`` says how the answer is known.
        soc: one of the target's chips, where it has any.
        fixed_by: which pass would make a node legal; the exporter's passes say so.

    Raises:
        InputError: a file cannot be used (see :func:`.files.read_model`), or the target has no such chip.

    """
    return [check_file(file, target, soc, fixed_by) for file in find_models(path, target.name)]


def find_models(path: Path, target: str) -> list[Path]:
    """Return the ONNX files that ``path`` means on ``target``.

    A file means itself. A bundle means the graphs in the folder of the target's name where it has such a folder, with
    .onnx files in it, and else ``model.onnx``, or the graphs of its encoder and decoder; on one whose processors may
    compute in float16 all graphs that the manifest lists. On a CPU also those of its drafters.

    Raises:
        InputError: there is nothing at ``path``, or no model in the directory.

    """
    if path.is_dir():
        models = sorted((path / target).glob("*.onnx"))
        if not models and (path / MANIFEST_NAME).is_file() and find_target(target).float16:
            models = [path / entry.file for entry in read_manifest(path).graphs]
        models = models or _graphs(path)
        if find_target(target).is_cpu and (path / MANIFEST_NAME).is_file():
            models += [path / entry.file for entry in read_manifest(path).drafters]
        if not models[0].is_file():
            refuse_pack(path)
            raise InputError(f"{path} has no model.onnx; name a bundle or an .onnx file")
        check_links(path, models)
        return models
    if not path.exists():
        raise InputError(f"{path} does not exist; name a bundle or an .onnx file")
    if not path.is_file():
        raise InputError(f"{path} is no regular file; name a bundle or an .onnx file")
    return [path]


def _graphs(bundle: Path) -> list[Path]:
    """The graphs that a bundle has for CPUs: one, or those of an encoder and a decoder."""
    task = read_manifest(bundle).task if (bundle / MANIFEST_NAME).is_file() else None
    if task is None or task.sequences is None:
        return [bundle / "model.onnx"]
    return [bundle / name for name in task.sequences.graphs]


def check_file(file: Path, target: Target, soc: str = "", fixed_by: FixedBy = lambda _: "") -> Report:
    """Say where each node of one .onnx file would run; see :func:`check`."""
    chip = find_soc(target, soc) if soc else None
    model = read_model(file)
    graphs = view(model)
    placements, caveats = _place_all(file, model, graphs, target, chip)
    taken = {placement.node for placement in placements if placement.runs_on == target.provider}
    return Report(
        model=str(file),
        target=target.name,
        soc=soc,
        provider=target.provider,
        checked=target.checked,
        source=f"{target.source}, {target.package} {version(target.package)}" if target.package else target.source,
        placements=tuple(_with_pass(placement, fixed_by) for placement in placements),
        partitions=sum(len(partitions(graph, taken)) for graph in graphs),
        warnings=tuple(cliffs.slow_kernels(target, graphs)),
        products=tuple(saturating_products(target, model, graphs, TensorReader(file).array)),
        caveats=tuple(caveats),
        multiply_adds=_work(graphs, placements),
    )


def _work(graphs: Sequence[Graph], placements: Sequence[Placement]) -> dict[str, int]:
    """Multiply-adds by provider."""
    where, found = {placement.node: placement.runs_on for placement in placements}, dict[str, int]()
    for node in (node for graph in graphs for node in graph.nodes):
        if node.name in where and (count := multiply_adds(node)):
            found[where[node.name]] = found.get(where[node.name], 0) + count
    return found


def _place_all(
    file: Path, model: onnx.ModelProto, graphs: Sequence[Graph], target: Target, chip: Soc | None
) -> tuple[list[Placement], list[str]]:
    refused = refused_header(model.ir_version, tuple(sorted(opsets_of(model).items())))
    if refused:
        return [_unread(node, refused) for graph in graphs for node in graph.nodes], []
    if target.is_cpu:
        return [_placed(node) for graph in graphs for node in graph.nodes], []
    if target.table is not None:
        placements, caveats = tables.place_all(target, graphs)
        unopened = {node.name: signature.refused(node) for graph in graphs for node in graph.nodes}
        return [unopened[placement.node] or placement for placement in placements], caveats
    from edgepress.targets.legality import asked

    return asked.place_all(file, target, chip), []


def _with_pass(placement: Placement, fixed_by: FixedBy) -> Placement:
    if not placement.cause or placement.fixed_by:
        return placement
    return replace(placement, fixed_by=fixed_by(placement))


def _unread(node: Node, refused: str) -> Placement:
    """No provider is asked about a file that onnxruntime does not read."""
    change = "convert the model to an IR version and opset that it reads"
    return Placement(node.name, node.op, node.domain, "", "version", refused, change)


def _placed(node: Node) -> Placement:
    placement = registry.place(node)
    product = cliffs.product_of(node)
    if product is None or not cliffs.refused(product):
        return placement
    reason = f"onnxruntime's kernel refuses {product.bits} bits in blocks of {product.block}"
    return replace(placement, runs_on="", cause="attribute", reason=reason, change="use blocks of 32, 64 or 128")
