"""Decide what happens to every tensor before any weight is read: its scheme or why it is kept, and where it goes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd, prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_slots import AdapterSlots, Slot
from edgepress.bundle.states import State, state_bytes
from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import BLOCK_SIZES, FEWEST_TOKENS, Scheme
from edgepress.exporter.methods.kinds import Method, Transform, load_method, zeros_asked
from edgepress.exporter.model.description import Decoder, Stack, Weight
from edgepress.exporter.model.subject import Description
from edgepress.exporter.recipe.recipe import HALF_BITS, KEPT_BITS, Recipe, Storage

PAGE = 4096  # bytes: the ONNX external-data recommendation, so that a region can be mapped on its own
_CACHE_LINE = 64  # bytes: enough for the kernels, and all that a region far smaller than its padding deserves
_SHORTEST_DEFAULT = 4096  # tokens: a conversation, or a document of some pages
_SMALL = 16 * PAGE  # bytes: below this a region is aligned to a cache line only
_FLOAT = 4  # bytes of a float32
_HALF = 2  # bytes of a float16
_INDEX = 4  # bytes of the number of a column
INT8_LEVEL = 4  # the accuracy_level at which products round activations to 8 bits
Form = Literal[
    "float",
    "blocks",
    "folded",
    "dynamic",
    "dynamic pairs",
    "uint8",
    "uint16",
    "half",
    "half blocks",
    "signed",
    "uint8 value",
    "uint16 value",
]
# Of MatMulNBits' 2-bit kernels, for accuracy_level 4 only (onnxruntime 1.31: AVX-512, its pull request 29064; ARM64
# with dot products, 29466). Other blocks and levels are unpacked at each call: one row of a 2048 × 2048 product took
# 22 to 59 ms with blocks of 16 and 256, 0.10 to 0.15 ms with those between.
_BLOCKS_2_BITS = (32, 128)
_FEW = f"; rtn for an expert to which fewer than {FEWEST_TOKENS} tokens of the text come"
_NO_RANGE = "; MatMulNBits, as an expert to which no token comes has no range of activations"
_FEW_ZEROS = f"; by the weights alone for an expert to which fewer than {FEWEST_TOKENS} tokens of the text come"
_KEPT = {
    "norm": "gains are of the type that the norm computes in, float32",
    "bias": "biases are of the type that is added up in, float32",
    "activation": "kept: two numbers",
    "kernel": "kept: a convolution has few weights, and its kernel computes in float32",
    "recurrence": "kept: a few numbers, on which every later token depends",
    "projection": "kept: what it gives is the residual stream, where an error reaches every layer, or logits",
    "positions": "kept: added to the residual stream, where an error reaches every layer",
    "router": "kept: an error there chooses other experts",
    "copies": "kept: a few numbers, by which the copies of the residual stream are mixed",
    "constant": "kept: read by nodes that are not known to take weights",
}


@dataclass(frozen=True)
class Region:
    """A run of bytes in the bundle's data file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """One weight, how it is stored and where.

    ``regions`` has ``values`` (uint8 codes), ``scales`` (float32) and, unless the scheme is symmetric, ``zero_points``
    (uint8) when there is a scheme, else ``data`` (float32). Columns in another order have ``order`` (int32) beside.
    ``reason`` says why the tensor is kept in float32, or which recipe entry chose the scheme. ``form`` is how the
    graph computes with it: ``float``; ``half`` (stored in float16); ``blocks`` (MatMulNBits, GatherBlockQuantized);
    ``half blocks`` (the same with ``scales`` in float16, which a graph in float32 casts when it is opened); ``folded``
    (stored as blocks, of which the graph makes floats when it is opened); or in integers, then ``values`` is uint8
    (columns, rows) and ``scales`` (rows,), and the activations have ranges that are ``dynamic``, or are ``uint8`` or
    ``uint16`` with ``input_scale`` (float32) and ``input_zero_point`` (of that type)
    from calibration. ``dynamic pairs`` is ``dynamic`` with int8 codes that fit into sums of 16 bits pair by pair. In a
    graph of which every value is an integer, ``signed`` is ``values`` (int8, or int4 two to a byte, in the graph's own
    order) and ``scales`` (rows,), and ``uint8 value`` and ``uint16 value`` are ``values`` of that type, whose one scale
    is in the graph.
    """

    weight: Weight
    scheme: Scheme | None
    reason: str
    bytes_before: int
    regions: dict[str, Region] = field(default_factory=dict)
    form: Form = "float"

    @property
    def stored_as(self) -> str:
        """The storage in words, as plans print it."""
        if self.scheme is None:
            return {"half": "float16", "float": "float32"}.get(
                self.form, f"{self.form.removesuffix(' value')}, one scale"
            )
        if not self.is_integer and self.form != "signed":
            return str(self.scheme)
        zeros = f", {self.scheme.zeros}" if self.scheme.zeros else ""
        return f"{self.scheme.method} {self.scheme.bits} bits, per channel{zeros}"

    @property
    def is_integer(self) -> bool:
        """Whether products with this weight are computed in integers."""
        return self.form in {"dynamic", "dynamic pairs", "uint8", "uint16"}

    @property
    def has_ranges(self) -> bool:
        """Whether calibration finds the range of the inputs of this weight's products."""
        return self.form in {"uint8", "uint16"}

    @property
    def bytes_after(self) -> int:
        """Bytes in the bundle, alignment apart."""
        return sum(region.nbytes for region in self.regions.values())


@dataclass(frozen=True)
class PlannedTable:
    """A float32 constant that is computed, not read: a factor of the rotation, (order, order)."""

    name: str
    shape: tuple[int, int]
    region: Region


@dataclass(frozen=True)
class Plan:
    """What will be done to each tensor, in the order in which the data file holds them."""

    tensors: tuple[PlannedTensor, ...]
    tables: tuple[PlannedTable, ...]
    data_bytes: int
    context_length: int
    accuracy_level: int
    states: tuple[State, ...]  # what the graph carries from one call to the next
    half_layers: tuple[int, ...] = ()  # layers that compute in float16 what the target has float16 kernels for
    default_context: int = 0  # tokens that a text may have unless more is asked for when the bundle is opened
    adapter_slots: AdapterSlots | None = None  # where the graph takes an adapter
    # By the name of a state that is integers: what each channel's are multiplied by, (1, heads, 1, channels). Empty
    # until the weights are written, which some text is run through.
    cache_scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, weight: Weight) -> PlannedTensor:
        """Return the planned tensor of ``weight`` (KeyError when the plan has none)."""
        return self._by_name[weight.name]

    def state(self, name: str) -> State:
        """Return the state called ``name`` (KeyError when the plan has none)."""
        return self._states[name]

    def slot(self, name: str) -> Slot | None:
        """Return the adapter's slot beside the product of the weight called ``name``; None where it has none."""
        return self._slots.get(name)

    def table(self, name: str) -> PlannedTable:
        """Return the planned table called ``name`` (KeyError when the plan has none)."""
        return next(table for table in self.tables if table.name == name)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the states at the full context."""
        return self.cache_bytes_at(self.context_length)

    def cache_bytes_at(self, length: int) -> int:
        """Bytes of the states of a text of ``length`` tokens."""
        return state_bytes(self.states, length)

    @property
    def integer_states(self) -> tuple[State, ...]:
        """Keys and values that are kept as integers."""
        return tuple(state for state in self.states if state.type == "int8")

    @cached_property
    def schemes(self) -> Mapping[str, Scheme | None]:
        """How each weight is stored, by its name; None where it is kept as floats."""
        return {tensor.weight.name: tensor.scheme for tensor in self.tensors}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that round its weights, each once."""
        return tuple(dict.fromkeys(tensor.scheme.method for tensor in self.tensors if tensor.scheme is not None))

    @cached_property
    def _by_name(self) -> dict[str, PlannedTensor]:
        return {tensor.weight.name: tensor for tensor in self.tensors}

    @cached_property
    def _slots(self) -> dict[str, Slot]:
        return {} if self.adapter_slots is None else {slot.name: slot for slot in self.adapter_slots.slots}

    @cached_property
    def _states(self) -> dict[str, State]:
        return {state.name: state for state in self.states}

    @property
    def parameters(self) -> int:
        """Elements of all weights, those once that are used twice: tied ones, keys that are values too."""
        return sum(_elements(tensor.weight) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for an element on average: codes, scales, zero points and padding, and what stays float32."""
        return 8 * sum(tensor.bytes_after for tensor in self.tensors) / max(1, self.parameters)

    @property
    def bytes_before(self) -> int:
        """Bytes that the planned weights take in the checkpoint."""
        return sum(tensor.bytes_before for tensor in self.tensors)


class _Layout:
    """Hands out aligned regions of the data file, in order."""

    def __init__(self) -> None:
        self.end = 0
        self._stacks: dict[tuple[str, str], PlannedTensor] = {}  # the first weight of each, by name and kind
        self._nodes: dict[str, PlannedTensor] = {}  # the first weight of those that one node reads

    def regions(self, weight: Weight, scheme: Scheme | None, form: Form) -> dict[str, Region]:
        """Where the parts of a weight lie: after those of the one before it where it is one of a stack.

        Raises:
            InputError: the weights of a stack, or of the stacks of one node, are to be stored in different ways.

        """
        sizes, stack = region_bytes(weight.shape, scheme, form), weight.stack
        if weight.ordered:
            sizes["order"] = _INDEX * weight.shape[1]
        if stack is None:
            return {part: self.place(nbytes) for part, nbytes in sizes.items()}
        key = (stack.name, weight.kind)
        if key not in self._stacks:
            regions = {part: self.place(nbytes * stack.count) for part, nbytes in sizes.items()}
            self._stacks[key] = PlannedTensor(weight, scheme, "", 0, regions, form)
        first = self._stacks[key]
        if (first.scheme, first.form) != (scheme, form):
            raise _apart(first, weight, scheme, form, "all experts of a layer are read as one tensor")
        if weight.kind == "linear":
            other = self._nodes.setdefault(stack.node, first)
            if _grid(other.scheme) != _grid(scheme):
                raise _apart(other, weight, scheme, form, "QMoE has one number of bits and one size of blocks")
        return {
            part: Region(first.regions[part].offset + stack.index * nbytes, nbytes) for part, nbytes in sizes.items()
        }

    def place(self, nbytes: int) -> Region:
        alignment = PAGE if nbytes >= _SMALL else _CACHE_LINE
        offset = -(-self.end // alignment) * alignment
        self.end = offset + nbytes
        return Region(offset, nbytes)


def _grid(scheme: Scheme | None) -> tuple[int, int, bool] | None:
    return None if scheme is None else (scheme.bits, scheme.block_size, scheme.symmetric)


def _apart(first: PlannedTensor, weight: Weight, scheme: Scheme | None, form: Form, why: str) -> InputError:
    here = PlannedTensor(weight, scheme, "", 0, form=form).stored_as
    return InputError(
        f"{first.weight.name} is to be stored as {first.stored_as}, and {weight.name} as {here}: {why}; ask for the "
        f'same, as with [[override]] match = "*.experts.*"'
    )


def make_plan(subject: Description, recipe: Recipe, itemsize: Callable[[str], float]) -> Plan:
    """Plan every tensor of ``subject``.

    ``itemsize`` gives the bytes of one element of a checkpoint tensor, from the checkpoint's header.

    Raises:
        InputError: the recipe asks for a longer context than the model has, or an override matches no tensor.

    """
    context = recipe.context_length or subject.context_length
    if context > subject.context_length:
        raise InputError(
            f"context_length {context} is more than the model's {subject.context_length}; ask for that or less"
        )
    weights = subject.weights()
    _check_overrides(recipe, weights)
    layout = _Layout()
    tensors = tuple(_plan_tensor(weight, subject, recipe, itemsize, layout) for weight in weights)
    if isinstance(subject, Decoder):
        tensors = _note_what_is_left(tensors, subject, recipe)
    tables: tuple[PlannedTable, ...] = ()
    if subject.rotation is not None:
        orders = {"left": subject.rotation.left, "right": subject.rotation.right}
        tables = tuple(
            PlannedTable(f"rotation.{side}", (order, order), layout.place(order * order * _FLOAT))
            for side, order in orders.items()
        )
    states = _states(subject, recipe, context)
    default = context if recipe.context_length is not None else _default_context(context, states, layout.end)
    plan = Plan(tensors, tables, layout.end, context, recipe.accuracy_level, states, default_context=default)
    if recipe.activations.type == "float16" and isinstance(subject, Decoder):
        return in_float16(plan, subject, recipe.activations.kept_layers)
    return plan


def _states(subject: Description, recipe: Recipe, context: int) -> tuple[State, ...]:
    """What the graph carries; keys and values of windows that are shorter than the context, where they are so kept."""
    if not isinstance(subject, Decoder):
        if recipe.cache.bits is not None:
            raise InputError(
                f"the recipe has [cache] bits = {recipe.cache.bits}, which is for language models; leave it out"
            )
        return subject.states()
    below = context if recipe.cache.windows else 0
    return subject.states(windows_below=below, in_integers=recipe.cache.in_integers)


def _elements(weight: Weight) -> int:
    """Elements of a weight, rows that it has twice counted once."""
    rows = sum(part.stop - part.start for part in dict.fromkeys(weight.parts))
    return prod((rows, *weight.shape[1:])) if weight.parts else prod(weight.shape)


def _default_context(longest: int, states: Sequence[State], data_bytes: int) -> int:
    """4,096 tokens, doubled as long as their states take no more memory than the weights, or the model's longest.

    More where a cache keeps a longer window: onnxruntime-genai takes no shorter texts.
    """
    length = max(_SHORTEST_DEFAULT, *(state.window or 0 for state in states), 0)
    while length < longest and state_bytes(states, 2 * length) <= data_bytes:
        length *= 2
    return min(length, longest)


def in_float16(plan: Plan, decoder: Decoder, kept: Collection[str] = (), *, whole: bool = True) -> Plan:
    """The plan of a graph that computes the same bytes in float16.

    ``kept`` names what computes in float32 all the same: layers, such as ``layers.1``, and mixers with states, such as
    ``layers.1.attention``. What is outside the layers does too: logits are of that type. Without ``whole`` these mixers
    alone compute in float16: on ARM norms and products take more instructions in it, and attention fewer.
    """
    layers = tuple(index for index in range(len(decoder.layers)) if whole and f"layers.{index}" not in kept)
    below = plan.context_length if any(state.kind == "window" for state in plan.states) else 0
    states = decoder.states(lambda mixer: mixer not in kept, windows_below=below)
    integers = {state.name: state for state in plan.integer_states}
    return replace(plan, half_layers=layers, states=tuple(integers.get(state.name, state) for state in states))


def _note_what_is_left(
    tensors: tuple[PlannedTensor, ...], decoder: Decoder, recipe: Recipe
) -> tuple[PlannedTensor, ...]:
    """Add to the reasons which transforms leave a tensor as it is, and why."""
    for name in recipe.before:
        method = load_method(name)
        left = method.leaves(decoder) if isinstance(method, Transform) else {}
        tensors = tuple(
            replace(t, reason=f"{t.reason}; {name} leaves it: {left[t.weight.name]}") if t.weight.name in left else t
            for t in tensors
        )
    return tensors


def _check_overrides(recipe: Recipe, weights: list[Weight]) -> None:
    for override in recipe.overrides:
        used = Recipe(recipe.name, recipe.weights, recipe.embedding, recipe.head, (override,))
        if not any(used.override(weight.name) for weight in weights):
            names = ", ".join(weight.name for weight in weights[:6])
            raise InputError(f"override {override.match!r} matches no tensor; the first ones are: {names}, …")


def _plan_tensor(
    weight: Weight,
    subject: Description,
    recipe: Recipe,
    itemsize: Callable[[str], float],
    layout: _Layout,
) -> PlannedTensor:
    columns = prod(weight.shape[1:])
    before = round(sum((part.stop - part.start) * columns * itemsize(part.tensor) for part in weight.parts))
    scheme, reason = _choose(weight, subject, recipe)
    find_form = _form if weight.static is None else _static_form
    form, why = find_form(weight, scheme, reason, recipe)
    form, scales = _with_scales(weight, form, recipe)
    regions = layout.regions(weight, scheme, form)
    return PlannedTensor(weight, scheme, f"{reason}{why}{scales}", before, regions, form)


def is_kept(weight: Weight) -> bool:
    """Whether ``weight`` is kept in float32 whatever the recipe says."""
    return weight.kind in _KEPT


def region_bytes(shape: tuple[int, ...], scheme: Scheme | None, form: Form = "blocks") -> dict[str, int]:
    """Bytes of each region of a weight: see :class:`PlannedTensor`."""
    if scheme is None and form.endswith("value"):
        return {"values": prod(shape) * (_HALF if form == "uint16 value" else 1)}
    if scheme is None:
        return {"data": prod(shape) * (_HALF if form == "half" else _FLOAT)}
    rows, columns = shape
    if form == "signed":
        return {"values": -(-rows * columns * scheme.bits // 8), "scales": rows * _FLOAT}
    if form not in {"blocks", "half blocks", "folded"}:
        parts = {"values": rows * columns, "scales": rows * _FLOAT}
        width = {"uint8": 1, "uint16": 2}.get(form)
        return parts if width is None else parts | {"input_scale": _FLOAT, "input_zero_point": width}
    parts = {
        "values": prod(scheme.values_shape(rows, columns)),
        "scales": prod(scheme.scales_shape(rows, columns)) * (_HALF if form == "half blocks" else _FLOAT),
    }
    return parts if scheme.symmetric else parts | {"zero_points": prod(scheme.zero_points_shape(rows, columns))}


def _form(weight: Weight, scheme: Scheme | None, asked: str, recipe: Recipe) -> tuple[Form, str]:
    """How the graph computes with a weight, and what the plan adds to its reason for that.

    Integer products need 8-bit weights with one scale a row; a head that is stored otherwise stays MatMulNBits.
    """
    activations = recipe.activations
    if scheme is None:
        half = not is_kept(weight) and recipe.storage(weight.name, weight.kind)[0].bits == HALF_BITS
        return ("half", "; computed in float32") if half else ("float", "")
    if weight.expert or weight.stack is not None:
        few = "" if isinstance(load_method(scheme.method), Method) else _FEW_ZEROS if scheme.zeros else _FEW
        return "blocks", few + _why_not_float(weight, scheme, recipe)
    if weight.in_float or not activations.is_integer or weight.kind == "embedding":
        return ("folded", "; computed in float32") if weight.in_float else ("blocks", "")
    if weight.kind == "head" and activations.is_calibrated:
        return "blocks", "; float32 activations, as logits are"
    if scheme.bits == 8 and scheme.per_channel and scheme.symmetric:
        form: Form = (
            "dynamic" if not activations.is_calibrated else "uint8" if activations.type == "uint8" else "uint16"
        )
        return form, f"; {activations.type} activations, {activations.ranges} ranges by [activations]"
    if weight.kind == "head":
        return "blocks", "; float32 activations, as its weights have scales in blocks"
    raise InputError(
        f'[activations] type = "{activations.type}" needs bits = 8, block_size = "channel" and symmetric = true, or '
        f"bits = 16 or 32; {weight.name} has {scheme.bits} bits, "
        f"{'one scale a row' if scheme.per_channel else f'block {scheme.block_size}'}"
        f"{'' if scheme.symmetric else ' and zero points'} by {asked}"
    )


def _static_form(weight: Weight, scheme: Scheme | None, asked: str, recipe: Recipe) -> tuple[Form, str]:
    """As :func:`_form`, in a graph of which every value is an integer."""
    why = f"; {recipe.activations.type} activations, {recipe.activations.ranges} ranges by [activations]"
    if weight.static == "value":
        return ("uint8 value" if recipe.activations.type == "uint8" else "uint16 value"), why
    if scheme is None:
        if recipe.storage(weight.name, weight.kind)[0].bits == KEPT_BITS:
            return "float", "; its node computes in float32"
    elif scheme.bits in {4, 8} and scheme.per_channel and scheme.symmetric:
        return "signed", why
    raise InputError(
        f'[activations] type = "{recipe.activations.type}" with ranges = "{recipe.activations.ranges}" needs bits = 8 '
        f'or 4, block_size = "channel" and symmetric = true, or bits = 32; {weight.name} has another storage by {asked}'
    )


def _why_not_float(weight: Weight, scheme: Scheme, recipe: Recipe) -> str:
    """What the plan adds to the reason of an expert's weights: what their product makes of the activations."""
    if weight.stack is None:
        return _NO_RANGE if recipe.activations.is_integer else ""
    if recipe.activations.is_integer:
        return "; QMoE, which rounds activations to 8 bits by blocks"
    if scheme.bits == 8 and recipe.accuracy_level != INT8_LEVEL:
        return f"; slow: accuracy_level {recipe.accuracy_level} dequantizes 8 bits of experts at each call"
    return ""


def block_form(recipe: Recipe) -> Form:
    """How blocks are stored: with scales in float16 where a graph of the bundle computes in it."""
    return "half blocks" if recipe.activations.in_float16 else "blocks"


def _with_scales(weight: Weight, form: Form, recipe: Recipe) -> tuple[Form, str]:
    """The form of a weight by :func:`block_form`, unless float16 cannot hold its scales; and what the plan adds."""
    if form != "blocks" or block_form(recipe) == form:
        return form, ""
    lost = recipe.activations.float32_scales.get(weight.name)
    if weight.kind == "embedding" and weight.name != "embedding":  # a table of inputs by layer
        lost = "others are cast when a session is opened, and would be held in memory for all rows"
    return (block_form(recipe), "") if lost is None else (form, f"; float32 scales: {lost}")


def _choose(weight: Weight, subject: Description, recipe: Recipe) -> tuple[Scheme | None, str]:
    if weight.static == "value":
        return None, "rounded as what is computed"
    if is_kept(weight):
        return None, _KEPT[weight.kind]
    storage, why = recipe.storage(weight.name, weight.kind)
    if weight.kind == "embedding" and not isinstance(load_method(storage.method), Method):
        why += f"; rtn, as {storage.method} looks at what goes into a projection, and a table is only read"
        storage = replace(storage, method="rtn")
    in_head = subject.tied and weight.name == "embedding"
    if in_head:
        why += ", stored once for embedding and head"
        if recipe.head != recipe.embedding:
            why += " ([head] is not used: the model ties the two)"
    widths = weight.shape[1:] if weight.stack is None else weight.stack.columns
    scheme = fit_scheme(storage, weight.shape[1], () if weight.stack is None else widths)
    zeros = zeros_asked(storage.method, recipe)
    _refuse_zeros(weight, storage, recipe, why, zeros)
    if scheme is None and storage.bits not in {HALF_BITS, KEPT_BITS}:
        return None, f"kept: no block of {BLOCK_SIZES[0]} or more columns divides {' and '.join(map(str, widths))}"
    if scheme is None:
        return None, f"kept in float{storage.bits} by {why}"
    scheme = replace(scheme, zeros=zeros)
    why += _why_block(storage, scheme, weight.shape[1], weight.stack)
    if scheme.bits == 2 and recipe.accuracy_level != 4 and (in_head or weight.kind != "embedding"):
        why += f"; slow: accuracy_level {recipe.accuracy_level} unpacks 2 bits at each call"
    return scheme, why


def _why_block(storage: Storage, scheme: Scheme, columns: int, stack: Stack | None) -> str:
    """What a plan adds where a tensor gets another block than the recipe names, or than the first that it names."""
    named = storage.block_size if isinstance(storage.block_size, tuple) else (storage.block_size,)
    if named in {(0,), (scheme.block_size,)} or named[0] == scheme.block_size:
        return ""
    if stack is not None:
        cause = f"blocks of experts divide {' and '.join(map(str, stack.columns))}"
    elif named[0] > scheme.block_size >= columns:
        cause = f"a row has {columns} columns"
    elif len(named) > 1 and scheme.block_size in named:
        cause = f"that takes the fewest bytes for {columns} columns"
    else:
        cause = "onnxruntime has no fast 2-bit kernel for that"
    return f"; block {named[0]} → {scheme.block_size}, as {cause}"


def _refuse_zeros(weight: Weight, storage: Storage, recipe: Recipe, asked: str, zeros: str) -> None:
    """Zeros are codes, so there are none where [weights] keeps floats; and a budget measures tensors without them."""
    if not zeros:
        return
    if recipe.budget is not None:
        raise InputError(
            f"{weight.name}: {storage.method} makes {zeros}, and [budget] measures what tensors lose without them; "
            "leave the budget out, or take a method without zeros, such as gptq"
        )
    if storage.bits in {HALF_BITS, KEPT_BITS} and asked == "[weights]":
        raise InputError(
            f"{weight.name}: {storage.method} makes {zeros} among codes, and {asked} asks for bits = {storage.bits}, "
            'which are floats; ask for 2, 4 or 8 bits, or for method = "rtn" to keep all weights'
        )


def fit_scheme(storage: Storage, columns: int, divided: tuple[int, ...] = ()) -> Scheme | None:
    """The scheme of a tensor with so many columns: no block is larger than it needs to be. None is float32.

    Where blocks must divide some numbers, those ``divided``, a block that is allowed stands for all smaller ones, and
    there is none where the smallest block does not divide them.

    Nor is a 2-bit block one that onnxruntime has no kernel for: it computes those hundreds of times slower. Of several
    blocks that are allowed (all are where a row has one scale) it is the one that takes the fewest bytes, of these the
    largest: rows are padded to whole blocks, so that 128 takes more than 64 where a row has 192 columns.
    """
    if storage.bits in {HALF_BITS, KEPT_BITS}:
        return None
    widest = next((size for size in BLOCK_SIZES if size >= columns), BLOCK_SIZES[-1])
    per_channel = storage.block_size == 0
    named = storage.block_size if isinstance(storage.block_size, tuple) else (storage.block_size,)
    sizes = {min(size, widest) for size in (BLOCK_SIZES if per_channel else named)}
    if storage.bits == 2:
        sizes = {min(max(size, _BLOCKS_2_BITS[0]), _BLOCKS_2_BITS[1]) for size in sizes}
    if divided:
        sizes = {
            max(legal) for size in sizes if (legal := [n for n in BLOCK_SIZES if n <= size and not gcd(*divided) % n])
        }
    if not sizes:
        return None
    schemes = [
        Scheme(storage.method, storage.bits, size, storage.symmetric, per_channel)
        for size in sorted(sizes, reverse=True)
    ]
    return min(schemes, key=lambda scheme: sum(region_bytes((1, columns), scheme).values()))
