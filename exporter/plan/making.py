"""Decide what happens to every tensor before any weight is read: its scheme or why it is kept, and where it goes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from math import prod

from edgepress.bundle.states import State, state_bytes
from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Method, Transform, load_method
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.forms import product_form, static_form, with_scales
from edgepress.exporter.plan.layout import FLOAT, Layout
from edgepress.exporter.plan.plan import Plan, PlannedTable, PlannedTensor
from edgepress.exporter.plan.schemes import choose_scheme
from edgepress.exporter.recipe.recipe import Recipe

_SHORTEST_DEFAULT = 4096  # tokens: a conversation, or a document of some pages


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
    further = subject.mtp.weights() if isinstance(subject, Decoder) and subject.mtp is not None else []
    weights = [*subject.weights(), *further]
    _check_overrides(recipe, weights)
    layout, own = Layout(), recipe.with_methods(lambda _: "rtn")
    tensors = tuple(_plan_tensor(weight, subject, recipe, itemsize, layout) for weight in subject.weights())
    tensors += tuple(_plan_tensor(weight, subject, own, itemsize, layout) for weight in further)
    if isinstance(subject, Decoder):
        tensors = _note_what_is_left(tensors, subject, recipe)
    tables: tuple[PlannedTable, ...] = ()
    if subject.rotation is not None:
        orders = {"left": subject.rotation.left, "right": subject.rotation.right}
        tables = tuple(
            PlannedTable(f"rotation.{side}", (order, order), layout.place(order * order * FLOAT))
            for side, order in orders.items()
        )
    states = _states(subject, recipe, context)
    default = context if recipe.context_length is not None else _default_context(context, states, layout.end, recipe)
    default = default if recipe.cache.keep is None else min(recipe.cache.keep, context)
    plan = Plan(tensors, tables, layout.end, context, recipe.accuracy_level, states, default_context=default)
    if recipe.activations.type == "float16" and isinstance(subject, Decoder):
        return in_float16(plan, subject, recipe.activations.kept_layers)
    return plan


def in_pairs(plan: Plan, faster: frozenset[str]) -> Plan:
    """The plan with int8 weights in integer products, if these are ``faster`` (:data:`edgepress.targets.FASTER`).

    Codes of a model that is quantized already, which a recipe keeps, stay what they are: some might have to change.
    """
    if "int8 weights" not in faster:
        return plan
    return replace(
        plan,
        tensors=tuple(
            replace(tensor, form="dynamic pairs", reason=f"{tensor.reason}; int8 whose pairs fit into 16 bits")
            if tensor.form == "dynamic" and not _is_kept_as_stored(tensor)
            else tensor
            for tensor in plan.tensors
        ),
    )


def _is_kept_as_stored(tensor: PlannedTensor) -> bool:
    """Whether a tensor's codes are the source's own."""
    method = None if tensor.scheme is None else load_method(tensor.scheme.method)
    return isinstance(method, Method) and method.keeping is not None


def _states(subject: Description, recipe: Recipe, context: int) -> tuple[State, ...]:
    """What the graph carries; keys and values of windows that are shorter than the context, where they are so kept."""
    if not isinstance(subject, Decoder):
        for key, asked in (("bits", recipe.cache.bits), ("keep", recipe.cache.keep)):
            if asked is not None:
                raise InputError(f"the recipe has [cache] {key} = {asked}, which is for language models; leave it out")
        return subject.states()
    below = context if recipe.cache.windows else 0
    return subject.states(windows_below=below, in_integers=recipe.cache.in_integers)


def _default_context(longest: int, states: Sequence[State], data_bytes: int, recipe: Recipe) -> int:
    """4,096 tokens, doubled as long as their states take no more memory than the weights, or the model's longest.

    With a budget in memory, as long as they take no more than what the weights leave of that.
    """
    length, budget = _shortest_default(states), recipe.budget
    room = data_bytes
    if budget is not None and budget.memory_mb is not None and budget.most_bytes is not None:
        room = budget.most_bytes - data_bytes
    while length < longest and state_bytes(states, 2 * length) <= room:
        length *= 2
    return min(length, longest)


def _shortest_default(states: Sequence[State]) -> int:
    """The fewest tokens that a text has by default: as many as any window, as onnxruntime-genai takes no fewer."""
    return max(_SHORTEST_DEFAULT, *(state.window or 0 for state in states), 0)


def bytes_beside(plan: Plan, recipe: Recipe) -> int:
    """What a budget in memory has to hold beside the data file: the states of the shortest context that will do.

    That is what the recipe asks for, or the fewest tokens that a text has by default.
    """
    shortest = plan.context_length if recipe.context_length is not None else _shortest_default(plan.states)
    shortest = shortest if recipe.cache.keep is None else recipe.cache.keep
    return plan.cache_bytes_at(min(shortest, plan.context_length))


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
    layout: Layout,
) -> PlannedTensor:
    columns = prod(weight.shape[1:])
    before = round(sum((part.stop - part.start) * columns * itemsize(part.tensor) for part in weight.parts))
    scheme, reason = choose_scheme(weight, subject, recipe)
    find_form = product_form if weight.static is None else static_form
    form, why = find_form(weight, scheme, reason, recipe)
    form, scales = with_scales(weight, form, recipe)
    regions = layout.regions(weight, scheme, form)
    return PlannedTensor(weight, scheme, f"{reason}{why}{scales}", before, regions, form)
