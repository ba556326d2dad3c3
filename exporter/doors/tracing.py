"""A torch module and how it is called → an ONNX file in float32, its task's edges, and feeds to hold it against.

``torch.export`` runs the module once on tensors without values and records what it does; onnxscript writes that as
ONNX. Axes that calls choose are symbols in both. What depends on values cannot be recorded: an ``if`` over a tensor
is an error that names its line.
"""

from __future__ import annotations

import io
import linecache
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgepress.errors import InputError
from edgepress.exporter.doors.bounds import AxesFixedError, Condition, Graph, ValuesDecideError
from edgepress.exporter.doors.feeds import Feeds, like
from edgepress.exporter.doors.modules.attention import attention_by_text, without_fast_path
from edgepress.exporter.doors.modules.recurrent import recurrent_operators
from edgepress.exporter.doors.traced import Feed
from edgepress.tasks.task import Axis, Edge, EdgeType, Task

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OPSET = 23
"""Of the files that are written: the first with Attention and RMSNormalization, and all of what torchlib writes."""

_FILE, _DATA = "model.onnx", "model.onnx.data"
_STACK = "pkg.torch.onnx.stack_trace"  # of a node: where the module computes it
_DRAWN = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_LIBRARIES = ("torch", "onnxscript", "onnx_ir", "edgepress", "contextlib.py")  # whose frames are not the user's


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """A torch module in evaluation mode, and how it is called.

    ``inputs`` are example tensors by the names of ``forward``'s arguments, in the order of the graph's inputs, ``axes``
    the free axes of each, and ``fixed`` arguments that are constants. ``outputs`` takes what ``forward`` gives apart.
    ``where`` names the module in messages. Names of weights are told without ``inner``, that of a module in it.
    """

    module: torch.nn.Module
    inputs: Mapping[str, torch.Tensor]
    where: str
    inner: str = ""
    axes: Mapping[str, Mapping[int, Axis]] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    outputs: Callable[[object], Mapping[str, torch.Tensor]] = field(default_factory=lambda: named_outputs)

    def names(self) -> dict[str, Axis]:
        """Every free axis by its name."""
        return {axis.name: axis for axes in self.axes.values() for axis in axes.values()}

    def compute(self, feed: Feed) -> Feed:
        """What the module gives for ``feed``, by name; InputError with the line that failed when it does not."""
        import torch

        try:
            with torch.inference_mode(), without_fast_path():
                tensors = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
                found = self.outputs(self.module(**tensors, **self.fixed))
                return {name: tensor.numpy() for name, tensor in found.items()}
        except InputError:  # of what it gives, which is no error of the module
            raise
        except Exception as error:
            shown, at = ", ".join(f"{name} {array.shape}" for name, array in feed.items()), user_line(error)
            free = ", ".join(self.names())
            remedy = f"; if one of the free axes ({free}) cannot have that size, name it otherwise" if free else ""
            raise InputError(
                f"{self.where} cannot be called with {shown}{at and f' ({at})'}: {type(error).__name__}: "
                f"{_spoken(error)}{remedy}"
            ) from error

    @cached_property
    def in_float64(self) -> Tracing:
        """A copy that computes in float64: twice the memory of the module's weights."""
        import torch

        fixed = {
            name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in self.fixed.items()
        }
        return replace(self, module=deepcopy(self.module).double(), fixed=fixed)

    def exact(self, feed: Feed) -> Feed:
        """What the module gives for ``feed`` in float64, by name; errors are those of :meth:`compute`."""
        precise = {
            name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feed.items()
        }
        return self.in_float64.compute(precise)


def named_outputs(result: object) -> dict[str, torch.Tensor]:
    """Tensors by name: a dictionary's own names, ``output`` for one tensor, ``output_0`` … for several.

    What lies deeper has the names on the way joined by dots. None and numbers are passed over.
    """
    import torch

    def walk(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield name or "output", value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                yield from walk(inner, f"{name}.{index}" if name else f"output_{index}")

    return dict(walk(result, ""))


def trace(tracing: Tracing, task: str, folder: Path) -> Graph:
    """Write the module into ``folder`` as ONNX with its weights beside it.

    Weights are written one at a time from where the module has them, so that there is no second copy of them in memory.

    Raises:
        InputError: the module decides by values, draws random numbers, makes an axis that should be free depend on its
            example's size, uses something that ONNX has no operator for, or fails.

    """
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from edgepress.exporter.doors.tidying import tidy

    model, program = _to_onnx(tracing)
    RemoveUnusedNodesPass()(model)
    _check_drawn(tracing, model)
    tidy(model)
    path = folder / _FILE
    onnx_ir.save(model, path, external_data=_DATA, size_threshold_bytes=1024)
    edges = Task(task, _edges(model.graph.inputs), _edges(model.graph.outputs))
    return Graph(path, edges, _symbolic_axes(program, tracing), _conditions(program, tracing))


def _check_drawn(tracing: Tracing, model: ir.Model) -> None:
    """Raise an InputError that names the line where the module draws random numbers: no two runs would be alike."""
    for node in model.graph.all_nodes():
        training = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
        if node.op_type in _DRAWN or (training is not None and _is_true(training)):
            files = re.findall(r'File "(.+)", line (\d+)', node.metadata_props.get(_STACK, ""))
            own = [(file, int(line)) for file, line in files if _is_users(file)]
            at = f" at {own[-1][0]}:{own[-1][1]}: `{linecache.getline(*own[-1]).strip()}`" if own else ""
            raise InputError(
                f"{tracing.where} draws random numbers{at}, so that no two of its runs are alike ({node.op_type}); "
                "make them an input, or take that step out of the module"
            )


def _is_true(value: ir.Value) -> bool:
    """Whether a value is a constant that is true."""
    import onnx_ir

    found = onnx_ir.convenience.get_const_tensor(value)
    return found is not None and bool(np.any(found.numpy()))


def _to_onnx(tracing: Tracing) -> tuple[ir.Model, torch.export.ExportedProgram]:
    import torch

    names = list(tracing.inputs)
    sizes = {name: 2 * axis.multiple for name, axis in tracing.names().items()}
    examples = tuple(
        _resized(tensor, {index: max(sizes[axis.name], tensor.shape[index]) for index, axis in _axes(tracing, name)})
        for name, tensor in tracing.inputs.items()
    )
    roots = {name: torch.export.Dim(name, min=1) for name, axis in tracing.names().items() if axis.multiple > 1}
    shapes = tuple(
        {
            index: axis.multiple * roots[axis.name] if axis.multiple > 1 else torch.export.Dim.DYNAMIC
            for index, axis in _axes(tracing, name)
        }
        for name in names
    )
    outputs = list(tracing.compute({name: tensor.numpy() for name, tensor in zip(names, examples, strict=True)}))
    if not outputs:
        raise InputError(f"{tracing.where} gives no tensor; return a tensor, or a tuple or dictionary of some")
    with _quiet(), torch.no_grad(), attention_by_text(), recurrent_operators() as translations:
        try:
            program = torch.export.export(_called(tracing), examples, dynamic_shapes=(shapes,), strict=False)
        except Exception as error:
            raise _refusal(tracing, error) from error
        _widen_subtracted(program)
        symbols = _symbols(program, tracing)
        try:
            found = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                input_names=names,
                output_names=outputs,
                custom_translation_table=translations,
            )
        except Exception as error:
            raise _no_operator(tracing, error) from error
    assert found is not None
    _rename_axes(found.model, symbols)
    _own_names(found.model, f"module.{tracing.inner}", "module.")
    return found.model, program


def _widen_subtracted(program: torch.export.ExportedProgram) -> None:
    """Make floats of whole numbers that are taken from a float, as in ``1.0 - mask``.

    torch 2.13's exporter writes that as a difference whose first operand is no tensor, and finds no operator for that.
    """
    import torch

    graph = program.graph
    for node in [one for one in graph.nodes if one.target == torch.ops.aten.rsub.Scalar]:
        whole, kind = node.args[0], node.meta["val"].dtype
        if whole.meta["val"].dtype != kind:
            with graph.inserting_before(node):
                wide = graph.call_function(torch.ops.aten._to_copy.default, (whole,), {"dtype": kind})
            wide.meta["val"] = whole.meta["val"].to(kind)
            node.replace_input_with(whole, wide)


def _called(tracing: Tracing) -> torch.nn.Module:
    """A module whose arguments and results are flat, as those of a graph are."""
    import torch

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = tracing.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            named = dict(zip(tracing.inputs, tensors, strict=True))
            given, known = [], list(tensors)  # an output that is an input, or another output, is a value of its own
            for tensor in tracing.outputs(self.module(**named, **tracing.fixed)).values():
                given.append(tensor.clone() if any(tensor is one for one in known) else tensor)
                known.append(tensor)
            return tuple(given)

    return Called().eval()


def _axes(tracing: Tracing, name: str) -> list[tuple[int, Axis]]:
    return list(tracing.axes.get(name, {}).items())


def _resized(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """``tensor`` repeated or cut to these sizes of its axes."""
    import torch

    for axis, size in sizes.items():
        tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def _symbols(program: torch.export.ExportedProgram, tracing: Tracing) -> dict[str, str]:
    """What torch calls each free axis → its name. Axes that must be equal have the first one's."""
    found: dict[str, str] = {}
    for size, axis in _free(program, tracing).values():
        for symbol in _symbols_in(size):
            found.setdefault(symbol, axis.name)
    return found


def _free(program: torch.export.ExportedProgram, tracing: Tracing) -> dict[tuple[str, int], tuple[Any, Axis]]:
    """The free axes of each input: torch's size, an expression of symbols, and ours."""
    places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {
        (name, index): (places[str(place)].meta["val"].shape[index], axis)
        for name, place in zip(tracing.inputs, program.graph_signature.user_inputs, strict=True)
        for index, axis in _axes(tracing, name)
    }


def _symbols_in(size: Any) -> list[str]:
    expression = getattr(getattr(size, "node", None), "expr", None)
    return [] if expression is None else [str(symbol) for symbol in expression.free_symbols]


def _symbolic_axes(program: torch.export.ExportedProgram, tracing: Tracing) -> dict[str, dict[int, Axis]]:
    """The free axes of each input; those that must be equal are the first of them."""
    symbols, names = _symbols(program, tracing), tracing.names()
    axes: dict[str, dict[int, Axis]] = {name: {} for name in tracing.inputs}
    for (name, index), (size, axis) in _free(program, tracing).items():
        axes[name][index] = next((names[symbols[symbol]] for symbol in _symbols_in(size)), axis)
    return axes


def _conditions(program: torch.export.ExportedProgram, tracing: Tracing) -> list[Condition]:
    """What the trace took for granted of sizes: torch's guards that are about free axes alone, each once."""
    symbols, names = _symbols(program, tracing), tracing.names()
    axes = {symbol: names[name] for symbol, name in symbols.items()}
    sizes = [size for size, _ in _free(program, tracing).values() if _symbols_in(size)]
    if not sizes:
        return []
    relations = dict.fromkeys(guard.expr for guard in sizes[0].node.shape_env.guards)
    return [Condition(one, axes) for one in relations if {str(symbol) for symbol in one.free_symbols} <= {*axes}]


def _rename_axes(model: ir.Model, symbols: Mapping[str, str]) -> None:
    """Have every shape in ``model`` speak of axes by the names that the user knows."""
    import onnx_ir

    if not symbols:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b")
    values = [*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is not None and any(not isinstance(size, int) for size in value.shape):
            value.shape = onnx_ir.Shape(
                size
                if isinstance(size, int)
                else pattern.sub(lambda one: symbols[one[1]], str(size.value or "")) or None
                for size in value.shape
            )


def _own_names(model: ir.Model, *prefixes: str) -> None:
    """Give weights the names that they have in the module's state dictionary: without the first prefix they have."""
    for name, value in list(model.graph.initializers.items()):
        prefix = next((one for one in prefixes if name.startswith(one)), "")
        if prefix:
            del model.graph.initializers[name]
            value.name = name.removeprefix(prefix)
            model.graph.initializers[value.name] = value


def _edges(values: Sequence[ir.Value]) -> tuple[Edge, ...]:
    edges = []
    for value in values:
        assert value.name is not None
        assert value.dtype is not None
        if value.shape is None:
            raise InputError(f"nothing is known of the shape of {value.name}; give it one with torch.reshape")
        sizes = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
        edges.append(Edge(value.name, cast("EdgeType", value.dtype.numpy().name), sizes))
    return tuple(edges)


def feeds(tracing: Tracing) -> Feeds:
    """Feeds like the example, of its range of values, itself being the first."""
    examples = {name: tensor.numpy() for name, tensor in tracing.inputs.items()}
    return Feeds(
        shapes={name: array.shape for name, array in examples.items()},
        axes=tracing.axes,
        draw=lambda name, shape, generator: like(examples[name], shape, generator),
        first=examples,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress and its warnings of libraries that the module does not need."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # torch prints the graph of what failed
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refusal(tracing: Tracing, error: Exception) -> InputError:
    """What ``torch.export`` found, as the line of the user's file and what to do."""
    text, line = _spoken(error), user_line(error)
    at = f" at {line}" if line else ""
    kinds = " ".join(type(one).__name__ for one in _chain(error))
    if "DataDependent" in kinds or "data-dependent" in text:
        return ValuesDecideError(
            f"{tracing.where} decides by the values of a tensor{at}: a graph has no values when it is made. Write it "
            "with torch.where, keep the shape fixed, or take that step out of the module"
        )
    if "Constraint" in kinds or "Constraints violated" in text:
        return AxesFixedError(
            f"{tracing.where} cannot leave its axes free: {_constraints(tracing, text)}. Leave that axis out of "
            "`axes`, or name it as (NAME, MULTIPLE) where its size must be a multiple of a number"
        )
    return InputError(f"{tracing.where} cannot be traced{at}: {type(error).__name__}: {text}")


def _no_operator(tracing: Tracing, error: Exception) -> InputError:
    """What the exporter to ONNX has no operator for, or axes that it cannot leave free."""
    chain = _chain(error)
    deepest = next((one for one in chain if type(one).__name__ == "DispatchError"), chain[-1])
    if "Constraints violated" in _spoken(deepest):  # found as late as operators are taken apart
        return _refusal(tracing, deepest if isinstance(deepest, Exception) else error)
    return InputError(
        f"{tracing.where} cannot be written as ONNX: {_spoken(deepest)}. Replace that operator with others, or take "
        "that step out of the module"
    )


def _constraints(tracing: Tracing, text: str) -> str:
    """The lines of a violated constraint that say what is fixed, with the graph's names of its inputs."""
    found = [line.strip(" -") for line in text.splitlines() if line.strip().startswith("- ")] or [text.splitlines()[0]]
    said = found[0]
    for index, name in enumerate(tracing.inputs):
        said = re.sub(rf"L\['tensors'\]\[{index}\]|L\['args'\]\[{index}\]", name, said)
    return said.partition(". If ")[0].partition(" If you're")[0].rstrip(".")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that led to it, the first cause last."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    return chain


def _spoken(error: BaseException) -> str:
    """The first lines of a message, in which torch goes on with advice for its own developers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


def _is_users(file: str) -> bool:
    return not file.startswith("<") and not {*Path(file).parts} & {*_LIBRARIES}


def user_line(error: BaseException) -> str:
    """``file:line: source`` of the deepest frame that is the user's, "" where there is none."""
    for one in reversed(_chain(error)):
        trace, found = one.__traceback__, None
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if _is_users(file):
                found = (file, trace.tb_lineno)
            trace = trace.tb_next
        if found is not None:
            file, number = found
            return f"{file}:{number}: `{linecache.getline(file, number).strip()}`"
    return ""
