"""Compression methods: one file each, ``methods/<what it does>/<method>.py``, ending in a typed constant ``METHOD``.

The file's name is the method's key. What kind of method it is, its type says:

- :class:`Method` rounds rows, from the weights alone: the checkpoint streams through it.
- :class:`LinearMethod` rounds one projection, from what calibration text sends into it.
- :class:`LayerMethod` rounds the projections of a layer together, from the layer's inputs and outputs.
- :class:`Transform` prepares the weights for rounding without changing what the model computes (recipe: ``before``).
- :class:`Repair` repairs what rounding did, after each layer or at the end (recipe: ``after``).
- :class:`Pruning` makes another, smaller checkpoint before anything is rounded (recipe: ``prune``).
- :class:`GraphPruning` makes another, smaller ONNX graph (recipe: ``prune``); a :class:`Pruning` may have one too.
- :class:`GraphMethod` does to the graph of any model what the three before do to a decoder. It stands in
  ``methods/on_graphs``, where a name may be one that has another file for decoders.

Each declares its options and what they may be (:mod:`.options`), and has a ``check`` of the model: both are asked
before a weight is read. What methods share is beside their folders: :mod:`.folding` (scales moved between weights),
:mod:`.sparsity` (which weights become 0), :mod:`.smaller` (checkpoints made of others).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.options import Option, Options, read_options
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.recipe.recipe import Recipe, Storage
from edgepress.exporter.source.packed import Codes as StoredCodes
from edgepress.exporter.source.packed import Grid
from edgepress.exporter.source.removed import REMOVED, why_removed
from edgepress.modules import modules_in

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.arrays.codes import Codes
    from edgepress.exporter.arrays.moments import Moments
    from edgepress.exporter.methods.narrower.task import GraphTask
    from edgepress.exporter.methods.smaller.task import PruneTask
    from edgepress.exporter.methods.tasks import LayerTask, ModelTask, Schemes
    from edgepress.exporter.streams.shipping import Form
    from edgepress.exporter.streams.shipping_task import ShippingTask

Place = Literal["before", "after", "weights"]
"""Where a recipe names a method."""
Size = Literal["layers", "widths", "heads", "hidden", "vocabulary", "experts"]
"""What a pruning step may change of a model; ``widths`` are those of the MLPs."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What all methods have: ``declared`` says what each option may be."""

    declared: Mapping[str, Option] = field(default_factory=dict)

    @property
    def options(self) -> Options:
        """The options where a recipe sets none."""
        return {key: option.default for key, option in self.declared.items()}


@dataclass(frozen=True, kw_only=True)
class _Planned(_Kind):
    """A method whose work the plan lists, weight by weight.

    ``check(decoder, schemes, options)`` refuses what it cannot do (InputError), from the model's description and the
    schemes of its weights alone.
    """

    check: Callable[[Decoder, Schemes, Options], None] = lambda *_: None


@dataclass(frozen=True)
class Keeping:
    """How a method stores integers that are stored already.

    ``storage_of(grid)`` says in what storage that changes no weight, or why in none: the end of a sentence.
    ``as_stored(codes, grid, scheme)`` is such rows in that storage's scheme.
    """

    storage_of: Callable[[Grid], Storage | str]
    as_stored: Callable[[StoredCodes, Grid, Scheme], Quantized]


@dataclass(frozen=True)
class Method(_Planned):
    """How rows become codes and scales, from the weights alone.

    ``quantize(rows, scheme, importance)``: ``rows`` is finite float32 (rows, columns); ``importance`` ≥ 0, float32
    (columns,), weighs the squared error of each column, None being all alike. Rows are independent of each other: the
    result may not depend on how a tensor was cut into calls.

    With ``keeping`` it takes the integers that a checkpoint stores, where it can hold them.
    """

    name: str
    quantize: Callable[[NDArray[np.float32], Scheme, NDArray[np.float32] | None], Quantized]
    keeping: Keeping | None = None


@dataclass(frozen=True)
class LinearMethod(_Planned):
    """How one projection is rounded when it is known what goes into it.

    ``quantize(weight, scheme, moments, options)``: ``weight`` is float32 (rows, columns); ``moments`` are first and
    second moments of the inputs that the quantized layers before it produce. ``zeros(options)`` says which weights it
    makes 0 on purpose, such as ``2:4 zeros``, and refuses options that leave none (InputError): methods that train
    afterwards keep these zeros.
    """

    name: str
    quantize: Callable[[Tensor, Scheme, Moments, Options], Codes]
    zeros: Callable[[Options], str] = lambda _: ""


@dataclass(frozen=True)
class LayerMethod(_Planned):
    """How all projections of one layer are rounded together: ``tune(task, options)`` changes ``task.codes``.

    Its option ``start`` names the method that rounded them before, one by one; ``tokens`` says how much of the text the
    layers see, 0 being as much as what trains the whole model does. ``why_left_out(decoder, options)`` says
    why it is not done to this model, which that method then rounds alone; "" where it is.
    """

    name: str
    tune: Callable[[LayerTask, Options], None]
    why_left_out: Callable[[Decoder, Options], str] = lambda *_: ""


@dataclass(frozen=True)
class Transform(_Planned):
    """Changes weights so that rounding costs less, while the model computes the same.

    ``describe(decoder, recipe)`` returns the decoder with what the transform adds to it. ``fold(task, options)``
    changes ``task.weights`` of one layer before it is rounded.
    ``leaves(decoder)`` names the weights that it has to leave as they are, with the reason, for the plan.
    ``needs_inputs`` says that ``fold`` uses the layer's inputs; one that does not can be repeated from the checkpoint
    alone.
    """

    name: str
    describe: Callable[[Decoder, Recipe], Decoder]
    fold: Callable[[LayerTask, Options], None]
    leaves: Callable[[Decoder], Mapping[str, str]] = lambda _: {}
    needs_inputs: bool = True


@dataclass(frozen=True)
class Repair(_Planned):
    """Repairs what rounding did: ``layer`` after each layer is rounded, ``model`` once after the last.

    ``describe(decoder, recipe)`` returns the decoder with what the repair adds to it.
    ``why_left_out(decoder, options)`` says why it is not done to this model, "" where it is. Its option ``instead``, if
    it has one, names the layer method that is done then.
    """

    name: str
    describe: Callable[[Decoder, Recipe], Decoder]
    why_left_out: Callable[[Decoder, Options], str] = lambda *_: ""
    layer: Callable[[LayerTask, Options], None] | None = None
    model: Callable[[ModelTask, Options], None] | None = None


@dataclass(frozen=True)
class GraphPruning(_Kind):
    """Turns an ONNX graph into a smaller one: ``run(task, options)`` sets ``task.made``.

    ``trains`` says that sizes stay and weights are trained, so that a plan need not run it. ``check(task, options)``
    refuses what cannot be done to the graph of ``task`` (InputError), before the first step where it is the first.
    """

    name: str
    run: Callable[[GraphTask, Options], None]
    trains: bool = False
    check: Callable[[GraphTask, Options], None] = lambda *_: None


@dataclass(frozen=True)
class Pruning(_Kind):
    """Turns a checkpoint into another one, before any weight is rounded: ``run(task, options)`` calls ``task.write``.

    ``keeps_shapes`` says that the sizes stay (the weights are trained), so that a plan need not run it; ``needs_text``
    that it needs the user's text and cannot use text that the model generates.

    ``check(task, options)`` refuses, from config and tokenizer alone, what cannot be done to the model of ``task``
    (InputError). Before the first step runs it is asked of the original, unless an earlier step ``changes`` one of the
    sizes that it ``looks_at``; ``run`` asks it again. ``check_order(changed, options)`` refuses, before the first step,
    to come after steps that change these sizes (InputError).

    ``on_graphs`` is the step of this name for models that are ONNX graphs, with options of its own.
    """

    name: str
    run: Callable[[PruneTask, Options], None]
    keeps_shapes: bool = False
    needs_text: bool = False
    check: Callable[[PruneTask, Options], None] = lambda *_: None
    looks_at: frozenset[Size] = frozenset()
    changes: frozenset[Size] = frozenset()
    check_order: Callable[[Set[Size], Options], None] = lambda *_: None
    on_graphs: GraphPruning | None = None


@dataclass(frozen=True, kw_only=True)
class GraphMethod(_Kind):
    """Works on the float graph of any model, or on what ships of it: ``run(task, options)`` changes ``task``.

    ``place`` is where a recipe names it, ``forms`` are those of what ships that it can do. The option ``start`` of one
    that rounds weights names the method that rounds them before, one by one.
    """

    name: str
    place: Place
    run: Callable[[ShippingTask, Options], None]
    forms: frozenset[Form] = frozenset({"channels", "blocks"})


AnyMethod = Method | LinearMethod | LayerMethod | Transform | Repair | Pruning | GraphPruning
Rounding = Method | LinearMethod | LayerMethod
Kind = TypeVar("Kind", Transform, Repair, Pruning)

FOLDERS: Mapping[str, tuple[type[AnyMethod], ...]] = {
    "round": (Method, LinearMethod, LayerMethod),
    "transform": (Transform,),
    "repair": (Repair,),
    "shrink": (Pruning, GraphPruning),
}
"""The kinds of method that each folder is for; a file elsewhere is no method."""


def place_of(method: AnyMethod) -> str:
    """Where a recipe names a method of this kind, as error messages say it."""
    place = {Transform: "`before`", Repair: "`after`", Pruning: "`prune`", GraphPruning: "`prune`"}
    return f"{method.name} belongs into {place.get(type(method), '[weights]')}"


def unchanged(decoder: Decoder, recipe: Recipe) -> Decoder:  # noqa: ARG001 - the signature of `describe`
    """``describe`` of a method that adds nothing to the decoder."""
    return decoder


def method_names() -> list[str]:
    """Names of the methods found on disk, none of them imported."""
    return sorted(_files())


@cache
def _files() -> dict[str, str]:
    """The folder of each method on disk, by the method's name."""
    here = Path(__file__).parent
    return {module.name: folder for folder in FOLDERS for module in modules_in([str(here / folder)])}


def load_method(name: str) -> AnyMethod:
    """Import the method's file; an error in it is raised as it is.

    Raises:
        InputError: no file has that name, or the method was removed.

    """
    files = _files()
    if name in REMOVED:
        raise InputError(why_removed(name))
    if name not in files:
        known = sorted(files)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown compression method {name!r}; {hint}known: {', '.join(known)}")
    module, kinds = f"{__package__}.{files[name]}.{name}", FOLDERS[files[name]]
    method: AnyMethod = importlib.import_module(module).METHOD
    if not isinstance(method, kinds) or method.name != name:
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{module}.METHOD must be a {allowed} named {name!r}, not {method!r}")
    return method


_ON_GRAPHS = "on_graphs"
_PLACES = {"before": "`before`", "after": "`after`", "weights": "[weights]"}


def graph_method_names() -> list[str]:
    """Names of the methods that work on graphs, none of them imported."""
    return sorted(module.name for module in modules_in([str(Path(__file__).parent / _ON_GRAPHS)]))


def find_graph_method(name: str) -> GraphMethod:
    """The method of that name, one of :func:`graph_method_names`."""
    found: GraphMethod = importlib.import_module(f"{__package__}.{_ON_GRAPHS}.{name}").METHOD
    if not isinstance(found, GraphMethod) or found.name != name:
        raise TypeError(f"{_ON_GRAPHS}.{name}.METHOD must be a GraphMethod named {name!r}, not {found!r}")
    return found


def load_graph_method(name: str, place: Place, form: str | None = None) -> GraphMethod | Method | LinearMethod:
    """The method that a recipe for a model that is no decoder names in ``place``: before, after or weights.

    Methods that round one weight, by itself or by what goes into it, are the same for all models. An error names those
    that do something to weights that ship in ``form``.

    Raises:
        InputError: no method of that name does anything to a graph, or it does in another place.

    """
    if name in graph_method_names():
        found = find_graph_method(name)
        if found.place != place:
            raise InputError(f"{_PLACES[place]} names {name}, which belongs into {_PLACES[found.place]}")
        return found
    method = load_method(name)
    if isinstance(method, Method | LinearMethod) and place == "weights":
        return method
    known = ", ".join(one for one in graph_method_names() if form is None or form in find_graph_method(one).forms)
    raise InputError(
        f"{name} in {_PLACES[place]} is for language models; what works on the graph of another model: {known}; and "
        "methods that round one weight, such as rtn or gptq"
    )


def method_options(method: AnyMethod | GraphMethod, recipe: Recipe) -> Options:
    """The method's options with the recipe's values.

    Raises:
        InputError: the recipe sets an option that the method does not have, or gives one what it may not be.

    """
    return read_options(method.name, method.declared, recipe.options.get(method.name, {}))


def load_kind(name: str, kind: type[Kind], place: str) -> Kind:
    """The method that a recipe names under ``place``, which is for this kind.

    Raises:
        InputError: there is no such method, or it is of another kind; the message says where it belongs.

    """
    method = load_method(name)
    if not isinstance(method, kind):
        if isinstance(method, GraphPruning) and kind is Pruning:
            raise InputError(
                f"{place} = [{name!r}]: {name} prunes models that are ONNX graphs; for the checkpoint of a "
                "language model take depth, mlp_width, heads, hidden, experts or vocabulary"
            )
        what = {
            Pruning: "does not make a smaller model",
            Transform: "is not a transform",
            Repair: "is not a repair",
        }
        raise InputError(f"{place} = [{name!r}]: {name} {what[kind]}; {place_of(method)}")
    return method


def graph_pruning(name: str) -> GraphPruning:
    """The step of a recipe's ``prune`` for a model that is an ONNX graph.

    Raises:
        InputError: there is no such method, or it does not prune graphs; the message says which do.

    """
    method = load_method(name)
    found = method.on_graphs if isinstance(method, Pruning) else method
    if isinstance(found, GraphPruning):
        return found
    if not isinstance(method, Pruning):
        load_kind(name, Pruning, "prune")
    raise InputError(
        f"prune = [{name!r}]: {name} prunes checkpoints of language models; of an ONNX graph take "
        f"{', '.join(graph_prunings())}"
    )


def graph_prunings() -> list[str]:
    """Names of the steps that prune ONNX graphs."""
    shrinking = [name for name, folder in _files().items() if folder == "shrink"]
    methods = {name: load_method(name) for name in sorted(shrinking)}
    return [
        name
        for name, method in methods.items()
        if isinstance(method, GraphPruning) or (isinstance(method, Pruning) and method.on_graphs is not None)
    ]


def start_method(name: str, recipe: Recipe) -> Method | LinearMethod:
    """What rounds a weight by itself: the method ``name``, or the one that a layer method starts with.

    Raises:
        InputError: there is no such method, or it rounds no weights.

    """
    method = load_method(name)
    if isinstance(method, LayerMethod):
        start = str(method_options(method, recipe)["start"])
        method = load_method(start)
        if not isinstance(method, Method | LinearMethod):
            raise InputError(
                f"[options.{name}] start = {start!r}: it must be a method that rounds one weight, as rtn or gptq"
            )
    if not isinstance(method, Method | LinearMethod):
        raise InputError(f"method = {name!r} does not round; {place_of(method)}")
    return method


def method_instead(repair: Repair, recipe: Recipe) -> LayerMethod | None:
    """What learns the layers where ``repair`` is left out, by its option ``instead``; None where that names nothing.

    Raises:
        InputError: it is no method that learns layers, or no tensor of the recipe is rounded by what that starts with.

    """
    name = str(method_options(repair, recipe).get("instead", ""))
    if not name:
        return None
    method, asked = load_method(name), f"[options.{repair.name}] instead = {name!r}"
    if not isinstance(method, LayerMethod):
        raise InputError(f"{asked}: it must be a method that learns layers, as autoround")
    start = start_method(name, recipe).name
    methods = dict.fromkeys(storage.method for storage in recipe.storages)
    if start not in methods:
        raise InputError(
            f"{asked}: that starts with {start}, and the recipe rounds by {', '.join(methods)}; set "
            f"[options.{name}] start to one of them, or leave `instead` out"
        )
    return method


def round_rows(weight: Weight, rows: NDArray[np.float32], scheme: Scheme) -> Quantized:
    """Rows of ``weight`` rounded from the weights alone, as ``scheme`` says.

    Raises:
        InputError: the scheme's method needs the inputs of the weight.

    """
    method = load_method(scheme.method)
    if not isinstance(method, Method):
        raise InputError(
            f"{scheme.method} cannot round {weight.name}, whose inputs calibration does not collect; name a method "
            "that rounds rows from the weights alone, such as rtn"
        )
    return method.quantize(rows, scheme, None)


def zeros_asked(name: str, recipe: Recipe) -> str:
    """Which weights the method ``name`` makes 0 on purpose, or the one that a layer method starts with; "" for none.

    Raises:
        InputError: there is no such method, or its options cannot be used.

    """
    method = load_method(name)
    if isinstance(method, LayerMethod):
        method = load_method(str(method_options(method, recipe)["start"]))
    return method.zeros(method_options(method, recipe)) if isinstance(method, LinearMethod) else ""


def describe_methods(decoder: Decoder, recipe: Recipe) -> Decoder:
    """Add to the decoder what the recipe's methods add to it: biases, a rotation."""
    for name in (*recipe.before, *recipe.after):
        method = load_method(name)
        if isinstance(method, Transform | Repair):
            decoder = method.describe(decoder, recipe)
    return decoder
