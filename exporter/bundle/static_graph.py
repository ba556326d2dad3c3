"""A bundle's one graph for an accelerator: every shape fixed, in integers as the CPU computes it, compiled for chips.

It is made from the bundle's own graph and weights, so both compute the same codes: a recipe of static integers gives
what the CPU's graph has, with one example a run; a recipe that rounds nothing gives float graphs, which the accelerator
computes in float16. Texts have one length, to which the runtime pads them.
"""

from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.graph.foreign.quantized import widths_of
from edgepress.exporter.graph.passes import Context, PassOrder
from edgepress.exporter.graph.qdq import find_widths
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.plan.planned import Writable
from edgepress.onnx_graph.files import parse_model
from edgepress.targets import Soc, Target
from edgepress.targets.legality.traps import refuse_traps
from edgepress.targets.providers import find_provider
from edgepress.tasks.task import Task, made_size
from edgepress.terminal.progress import Progress

FLOAT16 = "fp16"
DATA_FILE = "weights.bin"
TEXT_LENGTH = 128  # tokens of a text unless --context says otherwise
_LAST = ("fold-constants", "plain-gather-nd", "float-masks")
_INTEGERS = PassOrder(("bind-shapes", *_LAST))
_FLOATS = PassOrder(("bind-shapes", "float32", *_LAST))
_FIT = "int8-static-a16 or int8-static with --calibration, fp16 or fp32"


def refuse_graph(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for graphs, weights and chips of which no static form can be made."""
    name = graph_widths(subject, target)
    static_shapes(subject, target)
    if name != FLOAT16:
        find_widths(name, target)
    elif lacking := [soc.name for soc in socs if not soc.float16]:
        raise InputError(
            f"{', '.join(lacking)} cannot compute in float16, which recipe {subject.recipe.name} asks for; take "
            "int8-static-a16 or int8-static"
        )
    if socs:
        find_provider(target.provider).version()  # before hours of work: what compiles must be installed


def graph_widths(subject: Writable, target: Target) -> str:
    """``fp16``, or the integers: ``a16w8``, ``a8w8``, ``a16w4``.

    Raises:
        InputError: weights alone are integers, or values are rounded while the graph runs.

    """
    recipe = subject.recipe
    if recipe.activations.is_calibrated:
        return widths_of(recipe.activations, recipe.weights.bits).name
    if all(tensor.scheme is None for tensor in subject.plan.tensors):
        return FLOAT16
    raise InputError(
        f"{target.name} takes integers everywhere or none, and recipe {recipe.name} stores weights alone in them; "
        f"recipes that fit: {_FIT}"
    )


def static_shapes(subject: Writable, target: Target) -> dict[str, int]:
    """The size of each axis of the graph's inputs that has none: one example, and texts of one length.

    Raises:
        InputError: there is no task, or an axis is left for which nothing says a size.

    """
    task = subject.task
    if task is None or task.sequences is not None:
        what = "an encoder and a decoder" if task is not None else "a language model"
        raise InputError(f"{target.name} takes bundles of one graph here, and this is {what}; export it for a CPU")
    firsts = {edge.shape[0] for edge in task.inputs if edge.shape and isinstance(edge.shape[0], str)}
    if len(firsts) > 1:
        names = ", ".join(sorted(map(str, firsts)))
        raise InputError(f"{target.name}: inputs have examples along different axes ({names}), and no static form")
    shapes = {str(axis): 1 for axis in firsts} | _text_shape(task, subject.recipe.context_length, target)
    shapes |= _image_shapes(task)
    left = {axis: edge.name for edge in task.inputs for axis in edge.shape if isinstance(axis, str)}
    if unknown := sorted(left.keys() - shapes.keys()):
        raise InputError(
            f"{target.name} takes fixed shapes, and nothing says how long {unknown[0]} of {left[unknown[0]]} is; "
            "export a model in which it has a size"
        )
    return shapes


def _text_shape(task: Task, asked: int | None, target: Target) -> dict[str, int]:
    if task.text is None:
        if asked is not None:
            raise InputError(f"a task that takes no text has no context of {asked} tokens; leave it out")
        return {}
    axis = task.input(task.text.ids).shape[1]
    if isinstance(axis, int):
        return {}
    if task.text.mask is None and task.text.length is None:
        raise InputError(
            f"{target.name} takes texts of one length, and the graph has no mask that says which tokens are padding"
        )
    return {axis: asked or task.text.length or min(task.text.longest, TEXT_LENGTH)}


def _image_shapes(task: Task) -> dict[str, int]:
    if task.images is None or (size := made_size(task.images)) is None:
        return {}
    _, *axes = task.input(task.images.input).shape
    axes.pop(0 if task.images.layout == "NCHW" else 2)
    return {axis: length for axis, length in zip(axes, size, strict=True) if isinstance(axis, str)}


def write_graph(
    bundle: Path, subject: Writable, target: Target, folder: Path, *, socs: tuple[Soc, ...], progress: Progress
) -> dict[str, object]:
    """Write the graph and one file of weights, then compile it for each chip; returns what the manifest says of it."""
    name, shapes = graph_widths(subject, target), static_shapes(subject, target)
    model, weights = parse_model(bundle / MODEL_FILE), Weights(bundle / MODEL_FILE)
    (_FLOATS if name == FLOAT16 else _INTEGERS).run(model, Context(shapes, weights))
    weights.write([model], folder / DATA_FILE)
    path = folder / MODEL_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {"widths": name, "shapes": shapes, "socs": _compile(path, target, socs, progress, fp16=name == FLOAT16)}


def _compile(
    path: Path, target: Target, socs: tuple[Soc, ...], progress: Progress, *, fp16: bool
) -> dict[str, dict[str, object]]:
    """A context binary for each chip, in a folder of its name."""
    provider, compiled = find_provider(target.provider), dict[str, dict[str, object]]()
    with progress(len(socs), f"compiling for {target.name}", " chips") as advance:
        for soc in socs:
            folder = path.parent / soc.name
            provider.compile_context(path, folder / path.name, soc, refuse=refuse_traps, fp16=fp16)
            size = sum(file.stat().st_size for file in folder.iterdir())
            compiled[soc.name] = {"arch": soc.arch, "bytes": size, "compiler": provider.version()}
            advance(1)
    return compiled
