"""Static graphs for an accelerator, in integers or float16, and compiled for its chips.

Of a language model a prefill and a decode graph; of an encoder and a decoder one each
(:mod:`edgepress.exporter.bundle.one_graph.pair`); of any other model its one graph
(:mod:`edgepress.exporter.bundle.one_graph.compiled`). They are made from the bundle's own graph and weights: what a
recipe rounded with one scale a row keeps its codes. Their activations become integers of the recipe's type (uint16
where it has none) by ranges from its calibration text. A recipe without quantized weights gives float graphs, which
the accelerator computes in float16.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgepress.disk.files import read_into
from edgepress.errors import InputError
from edgepress.exporter.bundle.files import DATA_FILE as BUNDLE_DATA
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.bundle.one_graph.asked import FLOAT
from edgepress.exporter.bundle.one_graph.compiled import compile_graphs, refuse_graph, write_graph
from edgepress.exporter.bundle.one_graph.pair import has_sequences, refuse_pair, write_pair
from edgepress.exporter.graph.qdq import Rounded, Widths, calibrate_decoder, find_widths, quantize, write_models
from edgepress.exporter.graph.static import DATA_FILE, DECODE_FILE, PREFILL_FILE, SEQUENCE, write_static
from edgepress.exporter.model.description import Block
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.plan.plan import PlannedTensor
from edgepress.exporter.plan.planned import Planned, Writable
from edgepress.exporter.recipe.recipe import Activations
from edgepress.onnx_graph.files import parse_model
from edgepress.targets import Soc, Target
from edgepress.targets.providers import find_provider
from edgepress.terminal.progress import Advance

LONGEST = 1024  # tokens of context unless --context says otherwise: each token is compared with every slot of the cache
_FIT = "int8-static-a16, int8-static, int4-channel, fp16 or fp32"


def refuse(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for models and weights that accelerators do not take, and chips without float16."""
    if isinstance(subject, Planned):
        refuse_decoder(subject, target, socs)
    elif has_sequences(subject):
        refuse_pair(subject, target, socs)
    else:
        refuse_graph(subject, target, socs)


def refuse_decoder(planned: Planned, target: Target, socs: tuple[Soc, ...]) -> None:
    """As :func:`refuse`, of a language model."""
    _refuse_model(planned, target)
    for tensor in _products(planned):
        scheme = tensor.scheme
        if scheme is None or (scheme.per_channel and scheme.symmetric and scheme.bits > 2):
            continue
        found = (
            "zero points" if not scheme.symmetric else "2 bits" if scheme.bits == 2 else f"block {scheme.block_size}"
        )
        raise InputError(
            f"{target.name} takes weights of 4 or 8 bits with one scale a row and no zero points; recipe "
            f"{planned.recipe.name} stores {tensor.weight.name} with {found}. Recipes that fit: {_FIT}"
        )
    if widths_name(planned) != FLOAT:
        find_widths(widths_name(planned), target)
    elif lacking := [soc.name for soc in socs if not soc.float16]:
        raise InputError(
            f"{', '.join(lacking)} cannot compute in float16, which recipe {planned.recipe.name} asks for; "
            "take int8-static-a16, int8-static or int4-channel"
        )
    if socs:
        find_provider(target.provider).version()  # before hours of work: what compiles must be installed


def _refuse_model(planned: Planned, target: Target) -> None:
    """Refuse what has no static form: see :func:`~edgepress.exporter.graph.static.static_decoder`."""
    context, blocks = static_context(planned), list(every(Block, planned.decoder.layers))
    if context < 2:
        raise InputError(f"{target.name} takes a context of 2 tokens or more, not {context}")
    for block in blocks:
        if why := block.mixer.why_not_static():
            raise InputError(f"{target.name}: {block.name} has no static form: {why}")
    windows = {window for block in blocks for window in block.mixer.windows() if window <= context - 1}
    if len(windows) > 1:
        raise InputError(
            f"{target.name}: layers have different windows, {', '.join(map(str, sorted(windows)))} tokens, and have no "
            f"static form; a context of at most {sorted(windows)[-1]} leaves one of them"
        )
    ropes = {rope for block in blocks for rope in block.mixer.ropes()}
    long = {rope for rope in ropes if planned.decoder.ropes[rope].long_inverse_frequencies is not None}
    if long and ropes != long:
        raise InputError(
            f"{target.name}: layers with longrope and layers without it read the same positions; this model has no "
            "static form"
        )


def static_context(planned: Planned) -> int:
    """Tokens that the static graphs hold."""
    return planned.recipe.context_length or min(planned.plan.context_length, LONGEST)


def widths_name(planned: Planned) -> str:
    """``fp16``, or the integers: ``a16w8``, ``a8w8``, ``a16w4``."""
    bits = [tensor.scheme.bits for tensor in _products(planned) if tensor.scheme is not None]
    if not bits:
        return FLOAT
    activations = 8 if planned.recipe.activations.type == "uint8" else 16
    return f"a{activations}w{min(bits)}"


def _products(planned: Planned) -> Iterable[PlannedTensor]:
    """Weights of linear layers; tables and heads are rounded anew where their scales do not fit."""
    return [tensor for tensor in planned.plan.tensors if tensor.weight.kind == "linear"]


def write(task: FormTask) -> dict[str, object]:
    """Write the graphs and one file of weights, then compile them for each chip."""
    if isinstance(task.planned, Planned):
        return write_decoder(task, task.planned)
    write_other = write_pair if has_sequences(task.planned) else write_graph
    return write_other(task.bundle, task.planned, task.target, task.folder, socs=task.socs, progress=task.progress)


def write_decoder(task: FormTask, planned: Planned) -> dict[str, object]:
    """As :func:`write`, of a language model: both of its graphs."""
    context = static_context(planned)
    name = widths_name(planned)
    if name == FLOAT:
        write_static(task.bundle / MODEL_FILE, task.folder, context=context)
    else:
        with TemporaryDirectory(prefix="edgepress-", dir=task.folder) as temporary:
            paths = write_static(task.bundle / MODEL_FILE, Path(temporary), context=context)
            _write_integers(task, paths, find_widths(name, task.target), context)
    return {
        "widths": name,
        "context_length": context,
        "sequence": min(SEQUENCE, context),
        "socs": compile_graphs(
            [task.folder / graph for graph in (PREFILL_FILE, DECODE_FILE)],
            task.target,
            task.socs,
            task.progress,
            fp16=name == FLOAT,
        ),
    }


def _write_integers(task: FormTask, paths: tuple[Path, Path], widths: Widths, context: int) -> None:
    asked = task.planned.recipe.activations
    ranges = asked.ranges if asked.is_calibrated else "minmax"
    activations = Activations(widths.activations, ranges, asked.percentile)
    tokens = task.tokens()
    tokens = tokens[:, : max(min(tokens.shape[1], context - 1) // SEQUENCE * SEQUENCE, 2)]
    with task.progress(len(tokens), f"calibrating {task.target.name}", " sequences") as advance:
        calibrator = calibrate_decoder(*paths, _counted(tokens, advance), threads=task.threads)
    found = calibrator.ranges(activations)
    models = {}
    for path in paths:
        rounded = rounded_weights(task, path)
        models[task.folder / path.name] = quantize(path, found, widths, rounded)
    write_models(models, task.folder / DATA_FILE)


def _counted(tokens: NDArray[np.int64], advance: Advance) -> Iterable[NDArray[np.int64]]:
    for sequence in tokens:
        yield sequence
        advance(1)


def rounded_weights(task: FormTask, graph: Path) -> dict[str, Rounded]:
    """Scales of the weights of ``graph`` that the recipe rounded with one scale a row, by their names there.

    A weight (rows, columns) called ``w`` in the plan is a matrix (columns, rows) in the graph, whose name begins with
    ``w.``; a table that is gathered from is rounded anew.
    """
    found: dict[str, Rounded] = {}
    tensors = parse_model(graph).graph.initializer
    for planned in task.planned.plan.tensors:
        scheme = planned.scheme
        if scheme is None or not (scheme.per_channel and scheme.symmetric and scheme.bits > 2):
            continue
        rows, columns = planned.weight.shape
        region = planned.regions["scales"]
        stored = np.empty((rows, region.nbytes // rows // 4), "<f4")
        if read_into(task.bundle / BUNDLE_DATA, region.offset, stored.data) != region.nbytes:
            raise InputError(f"{task.bundle / BUNDLE_DATA} ended inside {planned.weight.name}; export again")
        scales = stored[:, 0].copy()
        scales[scales == 0] = 1  # a row of zeros
        for tensor in tensors:
            if tensor.name.startswith(f"{planned.weight.name}.") and [*tensor.dims] == [columns, rows]:
                found[tensor.name] = Rounded(scales, scheme.bits)
    return found


FORM = Form(
    name="static",
    description="static graphs in integers or float16, and context binaries for chips",
    refuse=refuse,
    write=write,
)
