"""Which products of a model get a slot for adapters that are swapped at run time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from edgepress.bundle.adapter_slots import MOST_RANK, AdapterSlots, Slot, SlotPart
from edgepress.errors import InputError
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.adapters import last_words, read_adapter
from edgepress.targets import Target

_ASKED = re.compile(r"(?P<rank>[0-9]{1,9})(:(?P<targets>[\w.,-]+))?")
_FORMS = "give RANK, RANK:PROJECTION,PROJECTION (such as 16:q_proj,v_proj) or the folder of an adapter that peft saved"


def find_slots(
    decoder: Decoder, asked: Sequence[str | Path], recipe: Recipe, targets: Sequence[Target]
) -> AdapterSlots:
    """The slots that are asked for, those of every one of ``asked`` together.

    Each is a rank, for every projection of the layers; a rank and the ends of names, as peft's ``target_modules`` has
    them; or the folder of an adapter, for what that one changes.

    Raises:
        InputError: one is none of these, the model has no such projection, or the recipe or a target allows no slots.

    """
    _refuse(recipe, targets)
    weights = [linear.weight for linear in (*every(Linear, decoder.layers), decoder.head)]
    weights = [weight for weight in weights if _takes_one(weight, decoder)]
    rank, tensors = 0, set[str]()
    for one in map(str, asked):
        wanted, names = _read(one, weights)
        rank, tensors = max(rank, wanted), tensors | names
    if not 1 <= rank <= MOST_RANK:
        raise InputError(f"--adapter-slots: the rank is {rank}, and adapters have 1 to {MOST_RANK}")
    slots = tuple(slot for weight in dict.fromkeys(weights) if (slot := _slot(weight, tensors)) is not None)
    return AdapterSlots(rank, slots)


def _refuse(recipe: Recipe, targets: Sequence[Target]) -> None:
    """An adapter is of the model as it was published: it does not follow where sizes or a basis change."""
    if changes := (*recipe.prune, *recipe.before):
        raise InputError(
            f"--adapter-slots with {changes[0]} (recipe {recipe.name}): that changes what goes into products, which "
            "adapters were trained on; merge one with --adapter, or take a recipe without it"
        )
    fixed = next((target for target in targets if target.form == "static"), None)
    if fixed is not None:
        raise InputError(
            f"--adapter-slots with target {fixed.name}: its graphs are compiled with their weights; merge an adapter "
            "with --adapter, or choose a CPU"
        )


def _takes_one(weight: Weight, decoder: Decoder) -> bool:
    """Not experts, which an operator of their own reads as one tensor, nor a tied head, which peft has no tensor of."""
    return weight.stack is None and (weight.kind == "linear" or (weight.kind == "head" and not decoder.tied))


def _read(asked: str, weights: Sequence[Weight]) -> tuple[int, set[str]]:
    """The rank and the checkpoint's tensors that one of the arguments asks for."""
    able = {part.tensor for weight in weights for part in weight.parts}
    form = _ASKED.fullmatch(asked)
    if form is None:
        if not Path(asked).is_dir():
            raise InputError(f"--adapter-slots {asked}: {_FORMS}")
        factors = read_adapter(Path(asked)).factors(able)
        return max(one.rank for one in factors.values()), set(factors)
    if form["targets"] is None:
        return int(form["rank"]), {part.tensor for one in weights if one.kind == "linear" for part in one.parts}
    found: set[str] = set()
    for word in form["targets"].split(","):
        named = {tensor for tensor in able if f".{tensor.removesuffix('.weight')}".endswith(f".{word}")}
        if not named:
            raise InputError(
                f"--adapter-slots {asked}: no projection is called {word!r}; there are {last_words(sorted(able))}"
            )
        found |= named
    return int(form["rank"]), found


def _slot(weight: Weight, tensors: Collection[str]) -> Slot | None:
    """The slot of a weight, for those of its parts that come from ``tensors``; None where none does."""
    parts, first = [], 0
    for index, part in enumerate(weight.parts):
        begin, step = (index, len(weight.parts)) if weight.interleaved else (first, 1)
        if part.tensor in tensors:
            parts.append(SlotPart(part.tensor, part.start, part.stop, begin, step))
        first += part.stop - part.start
    rows, columns = weight.shape
    return Slot(weight.name, columns, rows, tuple(parts)) if parts else None
