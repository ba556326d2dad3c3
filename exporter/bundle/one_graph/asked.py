"""What a static graph of a bundle's one graph is: integers or floats, and the size of each axis."""

from edgepress.errors import InputError
from edgepress.exporter.graph.foreign.quantized import widths_of
from edgepress.exporter.plan.planned import Writable
from edgepress.targets import Target
from edgepress.tasks.task import Task, made_size

FLOAT = "fp16"
"""What takes the place of the widths where nothing is an integer."""

TEXT_LENGTH = 128  # tokens of a text unless --context says otherwise
_RECIPES = {"a16w8": "int8-static-a16", "a8w8": "int8-static"}


def graph_widths(subject: Writable, target: Target) -> str:
    """``fp16``, or the integers: ``a16w8``, ``a8w8``, ``a16w4``.

    Raises:
        InputError: weights alone are integers, values are rounded while the graph runs, or the target does not take
            these integers.

    """
    recipe = subject.recipe
    does = "stores weights alone in them"
    if recipe.activations.is_calibrated:
        widths = widths_of(recipe.activations, recipe.weights.bits)
        if widths.name in target.qdq:
            return widths.name
        does = f"has activations of {widths.activation_bits} bits and weights of {widths.weight_bits}"
    elif all(tensor.scheme is None for tensor in subject.plan.tensors):
        return FLOAT
    integers = [f"{preset} with --calibration" for name, preset in _RECIPES.items() if name in target.qdq]
    raise InputError(
        f"{target.name} takes {'integers everywhere or none' if integers else 'no integers'}, and recipe {recipe.name} "
        f"{does}; recipes that fit: {', '.join([*integers, 'fp16', 'fp32'])}"
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
        if asked not in (None, axis):
            raise InputError(
                f"the graph takes texts of {axis} tokens and no other number, not of {asked}; leave it out"
            )
        return {}
    if task.text.mask is None and task.text.length is None:
        raise InputError(
            f"{target.name} takes texts of one length, and the graph has no mask that says which tokens are padding"
        )
    if asked is not None and asked > task.text.longest:
        raise InputError(
            f"{target.name} is asked for texts of {asked} tokens, and texts are cut after {task.text.longest}; give "
            f"--context {task.text.longest} or less"
        )
    return {axis: asked or task.text.length or min(task.text.longest, TEXT_LENGTH)}


def _image_shapes(task: Task) -> dict[str, int]:
    if task.images is None or (size := made_size(task.images)) is None:
        return {}
    _, *axes = task.input(task.images.input).shape
    axes.pop(0 if task.images.layout == "NCHW" else 2)
    return {axis: length for axis, length in zip(axes, size, strict=True) if isinstance(axis, str)}
