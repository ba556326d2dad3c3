"""A bundle of any graph compared with the model that it was made from: what ``--check`` does.

::

    original    what the user has: a torch module, or the file itself
    float       the graph that is planned, with the float weights: must be the original
    restored    the same with the weights that the bundle stores
    exact       the bundle's graph with no input of a product rounded: must be ``restored``
    shipped     the bundle's graph

A detector's queries are compared as sets where they are one within the tolerance (:mod:`..doors.comparing.queries`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.doors.comparing.probabilities import least_sizes
from edgepress.exporter.doors.comparing.queries import Moved, in_order
from edgepress.exporter.doors.traced import Feed, Traced
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.onnx_graph.files import parse_model
from edgepress.sessions import UNFUSED, open_on_cpu, session_options
from edgepress.terminal.progress import Progress

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH_TOLERANCE = 1e-3  # the same after rounding weights, which kernels dequantize in their own ways
EXAMPLES = 3
MOST_SAMPLES = 32

Outputs = list[NDArray[np.generic]]


def parity_traced(
    work: Path,
    traced: Traced,
    model: onnx.ModelProto,
    source: OnnxFile,
    plan: Plan | None,
    *,
    learned: tuple[onnx.ModelProto, OnnxFile] | None = None,
    samples: Iterator[Feed],
    progress: Progress,
) -> dict[str, object]:
    """Run all of them on made-up examples and on ``samples``.

    ``learned`` is the float graph as methods left it, where any did; weights are restored into that. Without ``plan``
    every value of the bundle's graph is an integer: there is no such graph that rounds weights alone.

    Raises:
        CheckFailed: the planned graph does not compute what the original does, or the bundle's graph not what the
            planned one computes with the same weights.
        InputError: the model runs on no example, and there are no samples; or an output is in none of them a number.

    """
    names = [edge.name for edge in traced.task.outputs]
    original = open_on_cpu(traced.file)
    feeds = [*find_examples(traced), *islice(samples, MOST_SAMPLES)]
    if not feeds:
        raise InputError(
            f"{traced.file} runs on none of the examples that are made up for its inputs; give some of its inputs by "
            "--calibration, as an .npz file with an array for each"
        )
    with progress(5, "checking against the model", " graphs") as advance:
        expected = [_original(traced, original, feed, names) for feed in feeds]
        _check_finite(traced, names, expected)
        advance(1)
        plain = _run(open_on_cpu(_with_weights(model, source, {}).SerializeToString()), feeds, names)
        plain, moved = _in_order(plain, expected, names, traced.task.name, traced.tolerance)
        advance(1)
        graph_difference = 0.0
        if plan is not None:
            left = _restored(work, *(learned or (model, source)), plan)
            restored = _run(open_on_cpu(left.SerializeToString()), feeds, names)
            exact = _run(_in_float(work), feeds, names)
            exact, _ = _in_order(exact, restored, names, traced.task.name, GRAPH_TOLERANCE)
            graph_difference = largest(exact, restored, least_sizes(model, names, GRAPH_TOLERANCE))
        advance(2)
        shipped = _run(open_on_cpu(work / MODEL_FILE), feeds, names)
        shipped, _ = _in_order(shipped, expected, names, traced.task.name, traced.tolerance)
        advance(1)
    float_difference = largest(plain, expected, least_sizes(model, names, traced.tolerance))
    for found, most, what, as_is in (
        (float_difference, traced.tolerance, "the float graph", "the original"),
        (graph_difference, GRAPH_TOLERANCE, "the bundle's graph", f"{traced.file} with the same weights"),
    ):
        if not found <= most:  # written so that NaN fails too
            raise CheckFailed(
                f"{what} does not compute the same as {as_is}: largest difference {found:.2e} of the largest output, "
                f"tolerance {most:.0e}; please report this model"
            )
    return {
        "float_difference": float(f"{float_difference:.3e}"),
        "float_tolerance": traced.tolerance,
        **(
            {}
            if plan is None
            else {"graph_difference": float(f"{graph_difference:.3e}"), "graph_tolerance": GRAPH_TOLERANCE}
        ),
        "feeds": len(feeds),
        **({"queries": str(moved)} if moved.rows else {}),
        "outputs": {
            name: compare([run[at] for run in shipped], [run[at] for run in expected]) for at, name in enumerate(names)
        },
    }


def _check_finite(traced: Traced, names: Sequence[str], expected: Sequence[Outputs]) -> None:
    """Raise an InputError where an output of floats has no finite number to compare."""
    for at, name in enumerate(names):
        given = [run[at] for run in expected if run[at].size and run[at].dtype.kind == "f"]
        if given and not any(np.isfinite(one).any() for one in given):
            raise InputError(
                f"{traced.file} gives nothing but NaN and infinities as {name}, for {len(given)} inputs, so there is "
                "nothing to compare; give some of its inputs by --calibration, as an .npz file with an array for each"
            )


def find_examples(traced: Traced, most: int = EXAMPLES) -> list[Feed]:
    """The first examples on which the model runs, few or none."""
    session = open_on_cpu(traced.file)
    found: list[Feed] = []
    for feed in islice(traced.examples(0), most):
        with suppress(Exception):  # onnxruntime's exceptions have no common type
            session.run(None, dict(feed))
            found.append(feed)
    return found


def _original(traced: Traced, session: "InferenceSession", feed: Feed, names: Sequence[str]) -> Outputs:
    if traced.compute is None:
        return _run(session, [feed], names)[0]
    computed = traced.compute(feed)
    return [np.asarray(computed[name]) for name in names]


def _run(session: "InferenceSession", feeds: Sequence[Feed], names: Sequence[str]) -> list[Outputs]:
    return [session.run(list(names), dict(feed)) for feed in feeds]


def _with_weights(
    model: onnx.ModelProto, source: OnnxFile, weights: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """The model with its bytes inside, some of its weights others."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for index, tensor in enumerate(made.graph.initializer):
        if tensor.name in weights:
            made.graph.initializer[index].CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
        else:
            made.graph.initializer[index].CopyFrom(source.inline(tensor))
    return made


def _restored(work: Path, model: onnx.ModelProto, source: OnnxFile, plan: Plan) -> onnx.ModelProto:
    """The model with the weights that the bundle stores."""
    stored = StoredWeights(work / DATA_FILE, plan)
    weights = {
        tensor.weight.name: np.ascontiguousarray(stored(tensor.weight.name)).reshape(
            tuple(source.tensors[tensor.weight.name].dims)
        )
        for tensor in plan.tensors
    }
    return _with_weights(model, source, weights)


def _in_float(work: Path) -> "InferenceSession":
    """The bundle's graph when no input of a product is rounded."""
    graph, options = parse_model(work / MODEL_FILE), session_options()
    compute_in_float(graph, 1)
    options.add_session_config_entry(UNFUSED, "1")  # a fusion of DequantizeLinear fails in graphs inside nodes
    path = work / ".check.onnx"  # beside the data file that it refers to
    try:
        path.write_bytes(graph.SerializeToString())
        return open_on_cpu(path, options)
    finally:
        path.unlink(missing_ok=True)


def _in_order(
    found: Sequence[Outputs], expected: Sequence[Outputs], names: Sequence[str], task: str, tolerance: float
) -> tuple[list[Outputs], Moved]:
    """Each run's outputs with a detector's queries where ``expected`` has them, and how many had moved."""
    ordered, moved = list[Outputs](), Moved()
    for ours, theirs in zip(found, expected, strict=True):
        arrays, of_run = in_order(
            dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True)), task, tolerance
        )
        ordered.append([arrays[name] for name in names])
        moved += of_run
    return ordered, moved


def largest(found: Sequence[Outputs], expected: Sequence[Outputs], least: Sequence[float] = ()) -> float:
    """The largest difference as a share of the largest value of that output, of the output where that is largest.

    ``least`` is what each output's largest value counts as at least; nothing where it is empty. Where NaN is expected,
    as of a text that is padding alone, any number is right.
    """
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        for a, b, at_least in zip(ours, theirs, least or [0.0] * len(ours), strict=True):
            if a.shape != b.shape:
                return float("inf")
            if not b.size:
                continue
            a64, b64 = a.astype(np.float64), b.astype(np.float64)
            same = (a64 == b64) | np.isnan(b64)
            difference = np.where(same, 0.0, np.abs(a64 - b64)).max()
            size = np.abs(b64[np.isfinite(b64)]).max(initial=at_least)
            share = difference / max(size, np.finfo(np.float32).tiny)
            worst = float(np.maximum(worst, share))  # NaN where one is
    return worst


def compare(found: Outputs, expected: Outputs) -> dict[str, object]:
    """How near one output of all feeds is: the largest error, and 10 log10 (Σ y² / Σ (y − ŷ)²); of integers a share."""
    if not all(np.issubdtype(one.dtype, np.floating) for one in expected):
        equal = sum(int((a == b).sum()) for a, b in zip(found, expected, strict=True) if a.shape == b.shape)
        return {"agreement": equal / max(1, sum(one.size for one in expected))}
    power = noise = error = 0.0
    for a, b in zip(found, expected, strict=True):
        difference = np.nan_to_num(a.astype(np.float64) - b.astype(np.float64))
        error = max(error, float(np.abs(difference).max(initial=0.0)))
        noise += float(np.square(difference).sum())
        power += float(np.square(np.nan_to_num(b.astype(np.float64), posinf=0.0, neginf=0.0)).sum())
    sqnr = round(10 * np.log10(power / noise), 3) if noise > 0 and power > 0 else None
    return {"max_abs_error": float(f"{error:.3e}"), "sqnr_db": sqnr}
