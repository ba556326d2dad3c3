"""A bundle's one graph for an accelerator: every shape fixed, in integers as the CPU computes it, compiled for chips.

It is made from the bundle's own graph and weights, so both compute the same codes: a recipe of static integers gives
what the CPU's graph has, with one example a run; a recipe that rounds nothing gives float graphs, which the accelerator
computes in float16. Texts have one length, to which the runtime pads them.
"""

from collections.abc import Sequence
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.bundle.one_graph.asked import FLOAT, graph_widths, static_shapes
from edgepress.exporter.graph.passes import Context, PassOrder
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.plan.planned import Writable
from edgepress.onnx_graph.files import parse_model
from edgepress.targets import Soc, Target
from edgepress.targets.legality.traps import refuse_traps
from edgepress.targets.providers import find_provider
from edgepress.terminal.progress import Progress

DATA_FILE = "weights.bin"
_LAST = ("fold-constants", "plain-gather-nd", "float-masks")
_INTEGERS = PassOrder(("bind-shapes", *_LAST))
_FLOATS = PassOrder(("bind-shapes", "float32", *_LAST))


def refuse_graph(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for graphs, weights and chips of which no static form can be made."""
    static_shapes(subject, target)
    refuse_widths(subject, target, socs)


def refuse_widths(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for weights that the accelerator or a chip does not take, and where nothing compiles."""
    name = graph_widths(subject, target)
    if name == FLOAT and (lacking := [soc.name for soc in socs if not soc.float16]):
        raise InputError(
            f"{', '.join(lacking)} cannot compute in float16, which recipe {subject.recipe.name} asks for; take "
            "int8-static-a16 or int8-static"
        )
    if socs:
        find_provider(target.provider).version()  # before hours of work: what compiles must be installed


def write_graph(
    bundle: Path, subject: Writable, target: Target, folder: Path, *, socs: tuple[Soc, ...], progress: Progress
) -> dict[str, object]:
    """Write the graph and one file of weights, then compile it for each chip; returns what the manifest says of it."""
    name, shapes = graph_widths(subject, target), static_shapes(subject, target)
    model, weights = parse_model(bundle / MODEL_FILE), Weights(bundle / MODEL_FILE)
    (_FLOATS if name == FLOAT else _INTEGERS).run(model, Context(shapes, weights))
    weights.write([model], folder / DATA_FILE)
    path = folder / MODEL_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {
        "widths": name,
        "shapes": shapes,
        "socs": compile_graphs([path], target, socs, progress, fp16=name == FLOAT),
    }


def compile_graphs(
    paths: Sequence[Path], target: Target, socs: tuple[Soc, ...], progress: Progress, *, fp16: bool
) -> dict[str, dict[str, object]]:
    """Context binaries of graphs that lie in one folder, for each chip in a folder of its name."""
    provider, compiled = find_provider(target.provider), dict[str, dict[str, object]]()
    with progress(len(paths) * len(socs), f"compiling for {target.name}", " graphs") as advance:
        for soc in socs:
            folder = paths[0].parent / soc.name
            for path in paths:
                provider.compile_context(path, folder / path.name, soc, refuse=refuse_traps, fp16=fp16)
                advance(1)
            size = sum(file.stat().st_size for file in folder.iterdir())
            compiled[soc.name] = {"arch": soc.arch, "bytes": size, "compiler": provider.version()}
    return compiled
