"""A bundle's one graph for a provider of onnxruntime's: every shape fixed, operators of its table, weights in one file.

It is made from the bundle's own graph and weights, and computes the same on the CPU, to which it is held before the
bundle is sealed: within the rounding of other orders of sums in floats, and but for codes that such a sum falls
between in integers, whose products are computed in floats for that, so that no kernel's own saturation counts.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.bundle.one_graph.asked import FLOAT, graph_widths, static_shapes
from edgepress.exporter.bundle.parities.traced import compare, largest
from edgepress.exporter.doors.traced import Samples
from edgepress.exporter.graph.editing import Editor, set_nodes
from edgepress.exporter.graph.foreign.half import find_unfit, to_float16
from edgepress.exporter.graph.passes import Context, PassOrder
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.plan.planned import Writable
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.view import view
from edgepress.sessions import UNFUSED, open_on_cpu, session_options
from edgepress.targets import Soc, Target
from edgepress.targets.legality.work import multiply_adds
from edgepress.tasks.task import Edge, Task

LARGEST = 2**31 - 1  # bytes: a protobuf holds no more
FLOAT_TOLERANCE = 1e-4  # of the largest value of an output: other orders of sums
HALF_SQNR = 30.0  # dB: 11 bits of each number, and what layers make of that
INTEGER_SQNR = 15.0  # dB: a code is the next one where a sum falls between two, and layers after it feel that
_FEEDS = 3
_SAMPLES = 32

Change = Callable[[onnx.ModelProto, Weights], Mapping[str, object]]
"""What a form does to the static graph besides passes; returns what the manifest says of it."""

Near = Callable[[float, float], bool]
"""Whether the largest difference, a share of the largest output, and the worst SQNR in dB are of the same numbers."""


def refuse_inside(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for graphs and weights of which no such graph can be made."""
    if socs:
        raise InputError(f"{target.name} is not compiled for chips; leave {socs[0].name} out")
    if graph_widths(subject, target) != FLOAT:
        _refuse_products(subject, target)
    static_shapes(subject, target)
    size = sum(4 * int(np.prod(tensor.weight.shape)) for tensor in subject.plan.tensors)
    if size > LARGEST:
        raise InputError(
            f"{target.name} reads weights inside the .onnx file alone, which holds {LARGEST / 1e9:.2f} GB, and in "
            f"float32 these take {size / 1e9:.2f} GB; export a smaller model, or for android-cpu"
        )


def _refuse_products(subject: Writable, target: Target) -> None:
    """Integers of a scale a channel are for convolutions alone there: of other models next to nothing would be."""
    sizes = {True: 0, False: 0}
    for tensor in subject.plan.tensors:
        if tensor.scheme is not None:
            sizes[tensor.weight.kind == "convolution"] += int(np.prod(tensor.weight.shape))
    if sizes[False] > sizes[True]:
        share = sizes[False] / sum(sizes.values())
        raise InputError(
            f"{target.name} computes integers with a scale a channel in convolutions alone, and {share:.0%} of this "
            "model's weights are in other products; take fp16 or fp32, or arm64-cpu, which computes them"
        )


def write_inside(  # noqa: PLR0917 - as it is read: from, of, for, into, by, and then
    bundle: Path,
    subject: Writable,
    target: Target,
    folder: Path,
    passes: PassOrder,
    change: Change | None = None,
    *,
    narrow: bool = False,
    half: Samples | None = None,
) -> dict[str, object]:
    """Write the graph with its weights inside; returns what the manifest says of it.

    With ``narrow`` it takes int32 where the bundle's graph takes int64; with ``half`` a recipe that stores weights in
    float16 computes in it too, but for what that cannot hold, by made-up inputs and these samples.

    Raises:
        CheckFailed: it does not compute what the bundle's graph does.

    """
    name, shapes = graph_widths(subject, target), static_shapes(subject, target)
    path, weights = bundle / MODEL_FILE, Weights(bundle / MODEL_FILE)
    model = parse_model(path)
    passes.run(model, Context(shapes, weights))
    told = dict(change(model, weights)) if change is not None else {}
    passes.run(model, Context(shapes, weights))  # once more over what that wrote
    if subject.task is None:
        raise ValueError("a model without a task has no one graph")
    in_half = half is not None and any(tensor.form == "half" for tensor in subject.plan.tensors)
    if half is not None and in_half:
        feeds = [_feed(subject.task, shapes, seed) for seed in range(_FEEDS)]
        samples = (feed for feed in half() if _shapes(feed) == _shapes(feeds[0]))
        told |= _in_float16(model, weights, folder, [*feeds, *islice(samples, _SAMPLES)])
    narrowed = _narrow_inputs(model) if narrow else []
    for tensor in model.graph.initializer:
        tensor.CopyFrom(weights.inline(tensor))
    made = folder / MODEL_FILE
    made.write_bytes(model.SerializeToString(deterministic=True))
    agreement = _held(path, made, subject.task, shapes, narrow=narrowed, is_near=_near(name, in_half=in_half))
    return {
        "model": MODEL_FILE,
        "computes": "float16" if in_half else "float" if name == FLOAT else name,
        "shapes": shapes,
        "int32_inputs": narrowed,
        "bytes": made.stat().st_size,
        "agreement": agreement,
        **told,
    }


def _narrow_inputs(model: onnx.ModelProto) -> list[str]:
    """Have the graph take int32 where it takes int64; returns which inputs these are.

    What looks up rows or casts reads it as it is, everything else through a Cast.
    """
    wide = [value for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.INT64]
    if not wide:
        return []
    editor, names = Editor(model, model.graph, Weights()), {value.name for value in wide}
    cast: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in names or node.op_type == "Cast" or (node.op_type == "Gather" and index == 1):
                continue
            if node.op_type in ("Unsqueeze", "Reshape") and index == 0 and _is_cast_after(editor, node):
                continue
            if name not in cast:
                editor.emit("Cast", [name], f"{name}.int64", to=TensorProto.INT64)
                cast.add(name)
            node.input[index] = f"{name}.int64"
        editor.nodes.append(node)
    for value in wide:
        value.type.tensor_type.elem_type = TensorProto.INT32
    set_nodes(model.graph, editor.nodes)
    del model.graph.value_info[:]
    found = onnx.shape_inference.infer_shapes(model, data_prop=True) if model.ByteSize() < LARGEST else model
    model.graph.value_info.extend(found.graph.value_info)
    return sorted(names)


def _is_cast_after(editor: Editor, node: onnx.NodeProto) -> bool:
    readers = editor.readers.get(node.output[0], ())
    return bool(readers) and all(reader.op_type == "Cast" for reader in readers)


def _held(
    bundle: Path, made: Path, task: Task, shapes: Mapping[str, int], *, narrow: Sequence[str], is_near: Near
) -> dict[str, object]:
    """Run both on made-up inputs by the CPU provider."""
    names = [edge.name for edge in task.outputs]
    options = session_options()
    options.add_session_config_entry(UNFUSED, "1")
    before, after = open_on_cpu(bundle, options), open_on_cpu(made, options)
    first, second = [], []
    for seed in range(_FEEDS):
        feed = _feed(task, shapes, seed)
        first.append(before.run(names, feed))
        narrowed = {name: value.astype(np.int32) if name in narrow else value for name, value in feed.items()}
        second.append(after.run(names, narrowed))
    outputs = {name: compare([run[at] for run in second], [run[at] for run in first]) for at, name in enumerate(names)}
    difference = largest(second, first)
    sqnr = min((float(str(one.get("sqnr_db") or np.inf)) for one in outputs.values()), default=np.inf)
    if not is_near(difference, sqnr):
        raise CheckFailed(
            f"{made.parent.name}/{made.name} does not compute what the bundle's graph does: largest difference "
            f"{difference:.2e} of the largest output ({sqnr:.1f} dB); please report this model"
        )
    return {"difference": float(f"{difference:.3e}"), "outputs": outputs}


def _near(name: str, *, in_half: bool) -> Near:
    if in_half:
        return lambda _, sqnr: sqnr >= HALF_SQNR
    if name == FLOAT:
        return lambda difference, _: difference <= FLOAT_TOLERANCE  # written so that NaN fails too
    return lambda _, sqnr: sqnr >= INTEGER_SQNR


def _in_float16(
    model: onnx.ModelProto, weights: Weights, folder: Path, feeds: Sequence[Mapping[str, NDArray[np.generic]]]
) -> dict[str, object]:
    """Put what fits into float16; what does not, why, and its share of the multiply-adds is what the manifest says."""
    plain = folder / ".float32.onnx"
    inlined = onnx.ModelProto()
    inlined.CopyFrom(model)
    for tensor in inlined.graph.initializer:
        tensor.CopyFrom(weights.inline(tensor))
    try:
        plain.write_bytes(inlined.SerializeToString())
        kept = find_unfit(plain, feeds)
    finally:
        plain.unlink(missing_ok=True)
    [graph, *_] = view(inlined)
    work = {node.name: multiply_adds(node) for node in graph.nodes}
    share = sum(work.get(name, 0) for name in kept) / max(sum(work.values()), 1)
    to_float16(model, weights, kept)
    return {"in_float32": kept, "in_float32_multiply_adds": float(f"{share:.4g}")}


def _feed(task: Task, shapes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.generic]]:
    return {edge.name: _made_up(edge, shapes, np.random.default_rng(seed)) for edge in task.inputs}


def _shapes(feed: Mapping[str, NDArray[np.generic]]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in feed.items()}


def _made_up(edge: Edge, shapes: Mapping[str, int], random: np.random.Generator) -> NDArray[np.generic]:
    """Numbers that any model takes: normal ones, and of integers 0 and 1."""
    shape = [size if isinstance(size, int) else shapes[size] for size in edge.shape]
    if np.issubdtype(np.dtype(edge.type), np.floating):
        return random.standard_normal(shape).astype(edge.type)
    drawn = random.integers(0, 2, shape)
    if len(shape) > 1:
        drawn[..., 0] = 1  # some of every text is no padding
    return drawn.astype(edge.type)
