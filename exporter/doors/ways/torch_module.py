"""A torch module of the user's own: ``package.module:callable``.

The callable takes no arguments and returns a module with example inputs::

    def classifier():
        module = Classifier().eval()
        module.load_state_dict(safetensors.torch.load_file("classifier.safetensors"))
        return {
            "module": module,
            "inputs": {"image": torch.rand(1, 3, 96, 96)},  # by the names of forward's arguments, or a tuple
            "axes": {"image": {0: "batch"}},                # what is not named here is fixed; ("height", 32): multiples
            "task": "classifier.json",                      # a file of entries, these themselves, a name; or left out
        }

``module, inputs`` or ``module, inputs, axes`` as a tuple is short for that. This runs the user's code, which is what is
asked for; the folder in which edgepress was started is searched for it, as ``python -m`` does.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.exporter.doors.bounds import bounded
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.modules.attention import FAST_PATH, pads_with_zeros
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.tracing import Tracing, feeds, trace, user_line
from edgepress.tasks.task import TENSORS, Axis

if TYPE_CHECKING:
    import torch

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_KEYS = ("module", "inputs", "axes", "task")
_SHORT = _KEYS[:3]
_RETURNS = "return (module, example inputs) or a dictionary with module, inputs, axes and task"


def is_callable(reference: str) -> bool:
    """Whether ``reference`` has the form ``package.module:callable``."""
    return _REFERENCE.fullmatch(reference) is not None


def open_callable(reference: str, options: Options, workspace: Path) -> Traced:
    """Import and call what ``reference`` names, and trace the module that it returns.

    Raises:
        InputError: it cannot be imported or called, returns something else, keeps something from call to call, or
            cannot be written as ONNX.
        CheckFailed: the graph does not compute what the module computes.

    """
    if options.revision is not None:
        raise InputError(f"--revision is of a model on the hub, and {reference} is a function; leave it out")
    called, file = _find(reference)
    try:
        with _importing_from_here():
            returned = called()
    except Exception as error:
        raise InputError(f"{reference} failed at {user_line(error)}: {type(error).__name__}: {error}") from error
    module, inputs, axes, task = _taken_apart(reference, returned)
    tracing = Tracing(module=module.eval(), inputs=inputs, where=reference, axes=axes)
    with _unchanged(reference, module):
        graph = trace(tracing, TENSORS, workspace)
    edges, examples = bounded(graph, tracing.compute, feeds(tracing), reference)
    named = task_of(options.task or task, edges.inputs, edges.outputs, workspace, said_by=reference)
    traced = Traced(
        file=graph.file,
        model_type=type(module).__name__,
        task=replace(named.task, axes=edges.axes),
        texts=named.texts,
        examples=examples,
        compute=tracing.compute,
        exact=tracing.exact,
        notes=named.notes,
        source={} if file is None else {file.name: sha256_file(file)},
    )
    found = check_agreement(traced)
    within = f"within {found.share:.1e} of the module's outputs, as a share of the largest"
    return found.of(traced, within, *([FAST_PATH] if pads_with_zeros(module) else []))


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Modules in the folder in which edgepress was started can be imported, as ``python -m`` has it."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


@contextmanager
def _unchanged(reference: str, module: torch.nn.Module) -> Iterator[None]:
    """Raise an InputError that names the buffers which calls of the module in between have given other values."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    changed = [name for name, buffer in module.named_buffers() if name in before and _differ(buffer, before[name])]
    if changed:
        raise InputError(
            f"{reference}: a call changes {', '.join(changed)} of the module, and a graph keeps nothing from call to "
            "call; make it an input, and what it becomes an output"
        )


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape != other.shape or not bool(((one == other) | (one.isnan() & other.isnan())).all())


def _find(reference: str) -> tuple[Callable[[], object], Path | None]:
    """The callable, and the file in which it is."""
    name, _, path = reference.partition(":")
    try:
        with _importing_from_here():
            found: object = importlib.import_module(name)
    except Exception as error:
        at = user_line(error)
        raise InputError(
            f"{name} cannot be imported{f' ({at})' if at else ''}: {type(error).__name__}: {error}; name it as it is "
            f"imported from {Path.cwd()}, or install it"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{name} has no {path}; {_RETURNS} from a function of that name")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{reference} is no function, but {type(found).__name__}; {_RETURNS} from one")
    file = inspect.getsourcefile(inspect.unwrap(found)) if inspect.isroutine(found) else None
    return found, None if file is None else Path(file)


def _taken_apart(
    reference: str, returned: object
) -> tuple[torch.nn.Module, dict[str, torch.Tensor], dict[str, dict[int, Axis]], str | Mapping[str, object]]:
    """Module, inputs by name, free axes and task of what the callable returned."""
    import torch

    if isinstance(returned, tuple) and 2 <= len(returned) <= len(_SHORT):
        returned = dict(zip(_SHORT, returned, strict=False))
    if not isinstance(returned, Mapping):
        raise InputError(f"{reference} returned {type(returned).__name__}; {_RETURNS}")
    unknown = [str(key) for key in returned if key not in _KEYS]
    if unknown or not {*_SHORT[:2]} <= {*returned}:
        raise InputError(f"{reference} returned the keys {', '.join(map(str, returned))}; {_RETURNS}")
    module, inputs, task = returned["module"], returned["inputs"], returned.get("task", TENSORS)
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{reference} returned {type(module).__name__} as module; {_RETURNS}")
    if not isinstance(task, str | Mapping) or not task:
        raise InputError(
            f"{reference} returned the task {task!r}; give its name, a JSON file of its entries, these as a "
            "dictionary, or leave it out"
        )
    named = _named_inputs(reference, module, inputs)
    return _float32(module), named, _named_axes(reference, named, returned.get("axes", {})), task


def _float32(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float32: what a graph is before anything is rounded."""
    return module.float()


def _named_inputs(reference: str, module: torch.nn.Module, inputs: object) -> dict[str, torch.Tensor]:
    import torch

    taken = list(inspect.signature(module.forward).parameters)
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        if len(inputs) > len(taken):
            raise InputError(f"{reference} returned {len(inputs)} inputs, and forward takes {len(taken)}")
        inputs = dict(zip(taken, inputs, strict=False))
    if not isinstance(inputs, Mapping) or not inputs:
        raise InputError(
            f"{reference} returned {type(inputs).__name__} as inputs; give a tuple or dictionary of tensors"
        )
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{reference}: the input {name} is {type(value).__name__}, no tensor; what is no tensor belongs into "
                "the module"
            )
        if not value.numel():
            raise InputError(f"{reference}: the input {name} has the shape {tuple(value.shape)}, and is empty")
    return {str(name): _plain(value) for name, value in inputs.items()}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """An input in a type that graphs in float32 take, on the CPU and without gradients."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _named_axes(reference: str, inputs: Mapping[str, torch.Tensor], axes: object) -> dict[str, dict[int, Axis]]:
    if not isinstance(axes, Mapping):
        raise InputError(f"{reference} returned {type(axes).__name__} as axes; give {{input: {{axis: name}}}}")
    found: dict[str, dict[int, Axis]] = {}
    for name, named in axes.items():
        if name not in inputs:
            raise InputError(f"{reference}: axes name the input {name}, and there are {', '.join(inputs)}")
        if not isinstance(named, Mapping):
            raise InputError(f"{reference}: the axes of {name} are {named!r}; give {{axis: name}}")
        found[name] = {}
        for index, said in named.items():
            axis = _axis(said)
            size = inputs[name].shape[index] if isinstance(index, int) and 0 <= index < inputs[name].ndim else None
            if axis is None or size is None or size % axis.multiple:
                raise InputError(
                    f"{reference}: axis {index!r} of {name} is {said!r}, and the example has the shape "
                    f"{tuple(inputs[name].shape)}; give a name, or (NAME, MULTIPLE) where every size is a multiple"
                )
            found[name][index] = axis
    return found


def _axis(said: object) -> Axis | None:
    name, multiple = said if isinstance(said, tuple) and len(said) == 2 else (said, 1)
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(multiple, int) or multiple < 1:
        return None
    return Axis(name, multiple)


DOOR = Door(
    "torch-module", "a function package.module:callable that returns a torch module", is_callable, open_callable
)
