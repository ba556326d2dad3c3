"""A graph that is run in torch: all of it, or what lies between given and wanted values."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.interpreter.call import TYPES, Call, Operator, Result
from edgepress.exporter.interpreter.operators import operators
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.values import constant_of
from edgepress.onnx_graph.walk import all_nodes, attributes_of, normal_domain, opsets_of, read_by, subgraphs

Feed = Mapping[str, NDArray[np.generic]]
"""An array for each input of a graph, by name."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One node: what computes it, and the names that it reads and makes ("" where one is left out)."""

    key: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    reads: frozenset[str]  # what graphs inside it read besides
    call: Call
    compute: Operator
    inner: Mapping[str, Subgraph]


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A graph inside a node."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Hooks:
    """What is done to values on their way.

    ``made(name, value)`` gives what stands for a value that was given or computed; ``read(step, index, value)`` what a
    node reads as its input ``index``, constants included.
    """

    made: Callable[[str, Tensor], Tensor] | None = None
    read: Callable[[Step, int, Tensor], Tensor] | None = None


_PLAIN = Hooks()


class Network:
    """A model in torch. ``constants`` has every constant of it by its name, of the graphs inside nodes too.

    Raises:
        InputError: there is an operator or a type that is not computed here; the message names it.

    """

    def __init__(self, model: onnx.ModelProto, path: Path | None = None, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._versions, self._reader = opsets_of(model), TensorReader(path)
        self.constants: dict[str, Tensor] = {}
        self.types: dict[str, int] = {}
        self.steps = self._steps(model.graph, "")
        self.inputs = tuple(v.name for v in model.graph.input if v.name not in self.constants)
        self.outputs = tuple(v.name for v in model.graph.output)
        axes = [v.type.tensor_type.shape.dim for v in model.graph.input if v.name in self.inputs]
        self.free_batch = all(dims and not dims[0].dim_value for dims in axes)  # any number of samples at once
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], list[tuple[Step, tuple[str, ...]]]] = {}

    @classmethod
    def read(cls, path: Path, device: torch.device | str = "cpu") -> Network:
        """The model in a file; see :func:`~edgepress.onnx_graph.files.read_model` for what is refused."""
        return cls(read_model(path), path, device)

    def _steps(self, graph: onnx.GraphProto, where: str) -> tuple[Step, ...]:
        for tensor in graph.initializer:
            self._constant(tensor.name, tensor)
        found = []
        for node in graph.node:
            if node.op_type == "Constant" and not normal_domain(node.domain):
                tensor = constant_of(node)
                if tensor is None:
                    raise InputError(f"Constant {node.name or node.output[0]} holds no numbers; it cannot be computed")
                self._constant(node.output[0], tensor)
            else:
                found.append(self._step(node, where))
        return tuple(found)

    def _constant(self, name: str, tensor: onnx.TensorProto) -> None:
        if tensor.data_type not in TYPES:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise InputError(f"{name} is a constant of type {kind}, which is not computed in torch")
        self.types[name] = tensor.data_type
        array = self._reader.array(tensor)
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            array = array.astype(np.float32)
        elif array.dtype.kind == "V" or array.dtype.name in ("int4", "uint4", "int2", "uint2"):
            array = array.astype(np.int8 if array.dtype.name.startswith("i") else np.uint8)
        elif array.dtype in (np.uint16, np.uint32):
            array = array.astype(np.int64)
        self.constants[name] = torch.from_numpy(np.array(array, order="C")).to(TYPES[tensor.data_type]).to(self.device)

    def _step(self, node: onnx.NodeProto, where: str) -> Step:
        domain = normal_domain(node.domain)
        key, name = f"{domain}:{node.op_type}" if domain else node.op_type, f"{where}{node.name or node.output[0]}"
        compute = operators().get(key)
        if compute is None:
            raise _unknown(name, key)
        inner = {
            holder: Subgraph(
                tuple(value.name for value in graph.input),
                tuple(value.name for value in graph.output),
                self._steps(graph, f"{name}/{holder}/"),
            )
            for holder, graph in subgraphs(node)
        }
        attributes = {k: v for k, v in attributes_of(node).items() if k not in inner}
        call = Call(
            key,
            name,
            self._versions.get(domain, 1),
            max((i + 1 for i, output in enumerate(node.output) if output), default=1),
            attributes,
            tuple(self.types.get(value) for value in node.input),
        )
        reads = frozenset(read_by(node)) - set(node.input)
        return Step(key, name, tuple(node.input), tuple(node.output), attributes, reads, call, compute, inner)

    def make_relu(self, name: str) -> None:
        """Make a node that clips, of the main graph, Relu."""

        def changed(step: Step) -> Step:
            if step.name != name:
                return step
            call = replace(step.call, key="Relu", attributes={}, types=step.call.types[:1])
            return replace(
                step, key="Relu", inputs=step.inputs[:1], attributes={}, call=call, compute=operators()["Relu"]
            )

        self.steps = tuple(map(changed, self.steps))
        self._plans.clear()

    def insert(self, node: onnx.NodeProto, readers: Sequence[str]) -> None:
        """Add a node to the main graph, whose output these nodes read as their first input."""
        (output,) = node.output
        steps = (replace(s, inputs=(output, *s.inputs[1:])) if s.name in readers else s for s in self.steps)
        self.steps = (*steps, self._step(node, ""))
        self._plans.clear()

    def tensors(self, feed: Feed) -> dict[str, Tensor]:
        """A feed in torch; images have their channels last in memory, by which convolutions take half the time.

        Raises:
            InputError: an input of the graph is not in it.

        """
        if missing := [name for name in self.inputs if name not in feed]:
            raise InputError(f"there is no {missing[0]} among the inputs {', '.join(sorted(feed)) or '(none)'}")
        given = {name: torch.from_numpy(np.array(feed[name])).to(self.device) for name in self.inputs}
        return {name: _laid_out(value) for name, value in given.items()}

    def between(self, given: Iterable[str], wanted: Sequence[str]) -> list[Step]:
        """The nodes that are computed for ``wanted`` where ``given`` is known, in order."""
        return [step for step, _ in self.plan(given, wanted)]

    def plan(self, given: Iterable[str], wanted: Sequence[str]) -> list[tuple[Step, tuple[str, ...]]]:
        """As :meth:`between`, each node with the values that nothing reads after it."""
        key = frozenset(given), tuple(wanted)
        if key not in self._plans:
            self._plans[key] = _schedule(self.steps, key[0] | self.constants.keys(), wanted)
        return self._plans[key]

    def run(
        self,
        given: Tensors,
        wanted: Sequence[str] | None = None,
        *,
        constants: Tensors | None = None,
        hooks: Hooks = _PLAIN,
    ) -> dict[str, Tensor]:
        """The values ``wanted``, by default the outputs, from those that are ``given``: inputs, or any others.

        ``constants`` stand in for constants of these names. A value is dropped when all that read it are done.

        Raises:
            InputError: a value that is needed is neither given nor made.

        """
        wanted = self.outputs if wanted is None else tuple(wanted)
        values: dict[str, Tensor] = {**given}
        if hooks.made is not None:
            values = {name: hooks.made(name, value) for name, value in values.items()}
        known = self.constants if constants is None else _over(constants, self.constants)
        for step, dead in self.plan(given, wanted):
            self._compute(step, values, known, hooks)
            for name in dead:
                del values[name]
        return {name: values[name] if name in values else known[name] for name in wanted}

    def batches(
        self, feeds: Iterable[Feed], wanted: Sequence[str] | None = None, hooks: Hooks = _PLAIN
    ) -> Iterator[dict[str, Tensor]]:
        """:meth:`run` of one feed after the other, without gradients."""
        for feed in feeds:
            with torch.no_grad():
                yield self.run(self.tensors(feed), wanted, hooks=hooks)

    def do(self, step: Step, values: dict[str, Tensor], constants: Tensors | None = None) -> None:
        """Compute one step, which reads from ``values`` and puts there what it makes."""
        known = self.constants if constants is None else _over(constants, self.constants)
        self._compute(step, values, known, _PLAIN)

    def _compute(self, step: Step, values: dict[str, Tensor], known: Tensors, hooks: Hooks) -> None:
        inputs: list[Tensor | None] = []
        for index, name in enumerate(step.inputs):
            value = None if not name else values[name] if name in values else known.get(name)
            if name and value is None:
                raise InputError(f"node {step.name} reads {name}, which is neither given nor made")
            if value is not None and hooks.read is not None:
                value = hooks.read(step, index, value)
            inputs.append(value)
        call = step.call
        if step.inner:
            call = replace(call, run=self._runner(step, values, known, hooks))
        for name, value in zip(step.outputs, _several(step.compute(call, *inputs)), strict=False):
            if name:
                if value is None:
                    raise InputError(f"node {step.name} ({step.key}) makes no {name} here")
                values[name] = value if hooks.made is None else hooks.made(name, value)

    def _runner(
        self, step: Step, values: dict[str, Tensor], known: Tensors, hooks: Hooks
    ) -> Callable[[str, Sequence[Tensor]], list[Tensor]]:
        """Computes a graph inside ``step``, which sees the values around it."""

        def run(holder: str, given: Sequence[Tensor]) -> list[Tensor]:
            graph = step.inner[holder]
            inside = {**values, **dict(zip(graph.inputs, given, strict=True))}
            for inner in graph.steps:
                self._compute(inner, inside, known, hooks)
            return [inside[name] if name in inside else known[name] for name in graph.outputs]

        return run


def _laid_out(value: Tensor) -> Tensor:
    is_image = value.dim() == 4 and value.is_floating_point()
    return value.contiguous(memory_format=torch.channels_last) if is_image else value


def _over(first: Tensors, then: Tensors) -> Tensors:
    """A mapping that looks into ``first`` before ``then``; what ``first`` makes when it is asked is made then."""
    return ChainMap({}, first, then)  # type: ignore[arg-type]  # nothing is written to it


def check_operators(model: onnx.ModelProto) -> None:
    """Refuse a model with an operator that is not computed here, before its weights are read.

    Raises:
        InputError: it has one; the message names the node.

    """
    for node in all_nodes(model.graph.node):
        domain = normal_domain(node.domain)
        key = f"{domain}:{node.op_type}" if domain else node.op_type
        if key != "Constant" and key not in operators():
            raise _unknown(node.name or node.output[0], key)


def _unknown(name: str, key: str) -> InputError:
    return InputError(
        f"node {name} is {key}, which cannot be computed in torch; leave out the methods that look at what the model "
        "computes, or write the node in other operators"
    )


def _several(result: Result) -> tuple[Tensor | None, ...]:
    return result if isinstance(result, tuple) else (result,)


def _schedule(
    steps: Sequence[Step], known: frozenset[str] | set[str], wanted: Sequence[str]
) -> list[tuple[Step, tuple[str, ...]]]:
    """The steps that make ``wanted`` of what is ``known``, each with the names that are dead after it."""
    makers = {name: step for step in steps for name in step.outputs if name}
    chosen: set[int] = set()
    waiting = [name for name in wanted if name not in known]
    while waiting:
        name = waiting.pop()
        step = makers.get(name)
        if step is None:
            raise InputError(f"{name} is neither given nor made by the graph; name a value of it, or give an input")
        if id(step) not in chosen:
            chosen.add(id(step))
            waiting += [one for one in (*step.inputs, *step.reads) if one and one not in known]
    order = _ordered([step for step in steps if id(step) in chosen], known)
    alive, plan = set(wanted), []
    for step in reversed(order):
        made = {name for name in step.outputs if name and name not in alive}
        read = {name for name in (*step.inputs, *step.reads) if name in makers and name not in known}
        dead = (read - alive) | made
        alive |= read
        plan.append((step, tuple(sorted(dead))))
    return plan[::-1]


def _ordered(steps: Sequence[Step], known: frozenset[str] | set[str]) -> list[Step]:
    """Steps so that each comes after what it reads; files need not be in order."""
    done, waiting, order = set(known), list(steps), []
    makes = {name for step in steps for name in step.outputs if name}
    while waiting:
        later = []
        for step in waiting:
            if all(name in done or name not in makes for name in (*step.inputs, *step.reads)):
                order.append(step)
                done.update(step.outputs)
            else:
                later.append(step)
        if len(later) == len(waiting):
            raise InputError(f"the graph has a cycle through node {later[0].name}")
        waiting = later
    return order


def arrays(values: Tensors) -> dict[str, NDArray[Any]]:
    """Values as numpy has them."""
    return {name: value.detach().cpu().numpy() for name, value in values.items()}
