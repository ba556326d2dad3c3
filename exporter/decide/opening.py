"""The first stage: find the model, read what is asked, and refuse what can be refused by these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.decide.adapter_slots import find_slots
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.decide.job import Opened
from edgepress.exporter.model.reading import find_model, read_decoder
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import check_tokenizer
from edgepress.targets import Soc, Target, default_recipe, find_soc, find_target, target_names
from edgepress.whole import whole_number


def refuse_task(model: str | Path, task: str | None) -> None:
    """Raise InputError where a language model is asked for another task than to write texts."""
    if task not in (None, "text-generation"):
        raise InputError(
            f"{model} is a language model, for which --task {task} has no effect; leave it out, or name a function "
            "that returns the module for that task, as package.module:callable"
        )


def open_model(
    model: str | Path,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
    revision: str | None = None,
    adapters: Sequence[str | Path] = (),
    adapter_slots: Sequence[str | Path] = (),
) -> Opened:
    """Open the checkpoint and read the recipe; arguments are those of :func:`~edgepress.exporter.export.export`.

    Raises:
        InputError: the model, recipe or target cannot be used; the message says which, why and what to do.

    """
    targets, chips = find_targets(target, socs)
    name, why = choose_recipe(recipe, target)
    asked = ask_recipe(name, context_length, calibration)
    check_recipe(asked)
    if asked.draft is not None:
        check_recipe(asked.draft.recipe)
    directory, origin = find_model(str(model), revision)
    checkpoint = Checkpoint.open(directory).with_adapters([Path(adapter) for adapter in adapters])
    check_tokenizer(checkpoint)
    slots = find_slots(read_decoder(checkpoint), adapter_slots, asked, targets) if adapter_slots else None
    return Opened(
        checkpoint=checkpoint,
        asked=asked,
        targets=targets,
        socs=chips,
        why_recipe=why,
        origin=origin,
        adapter_slots=slots,
    )


def find_targets(target: str | Sequence[str], socs: Sequence[str]) -> tuple[tuple[Target, ...], tuple[Soc, ...]]:
    """The targets of these names, each once, and the chips of the one among them that has some.

    Raises:
        InputError: a name is unknown, there is none, or chips are named and no target has any.

    """
    names = [target] if isinstance(target, str) else list(dict.fromkeys(target))
    if not names:
        raise InputError(f"name at least one target: {', '.join(target_names())}")
    targets = tuple(find_target(name) for name in names)
    owner = next((one for one in targets if one.socs), targets[0])
    return targets, tuple(find_soc(owner, name) for name in dict.fromkeys(socs))


def choose_recipe(recipe: str | Path | None, target: str | Sequence[str]) -> tuple[str | Path, str]:
    """The recipe that is named, or the one that suits the targets of these names and why ("" for one that is named).

    Raises:
        InputError: a target is unknown, or no one recipe suits them all.

    """
    if recipe is not None:
        return recipe, ""
    targets, _ = find_targets(target, ())
    return default_recipe(targets)


def ask_recipe(recipe: str | Path, context_length: int | None, calibration: Sequence[str | Path]) -> Recipe:
    """The recipe, with the caller's context length and text instead of its own where they are given."""
    found = read_recipe(recipe)
    if context_length is not None:
        whole_number("the context", context_length)
        found = replace(found, context_length=context_length)
    if calibration:
        found = replace(found, calibration=replace(found.calibration, text=tuple(map(str, calibration))))
    if found.draft is not None:
        found = replace(found, draft=replace(found.draft, recipe=_for_draft(found, found.draft.recipe)))
    return found


def refuse_unheeded(recipe: Recipe, why: str, *, is_static: bool) -> None:
    """Refuse what a recipe says of texts where there are none: ``why`` says what the model is.

    On accelerators, which take fixed shapes (``is_static``), a context is as long as texts are.

    Raises:
        InputError: the recipe says how long a context is, or names files of texts.

    """
    if recipe.context_length is not None and not is_static:
        raise InputError(
            f"recipe {recipe.name} has context_length = {recipe.context_length}, and {why}, for which that has no "
            "effect on CPUs; leave it out"
        )
    if recipe.calibration.text:
        raise InputError(
            f"recipe {recipe.name} has [calibration] text, and {why}; leave it out, and give what it takes by "
            "--calibration"
        )


def _for_draft(recipe: Recipe, draft: Recipe) -> Recipe:
    """The recipe of a draft, with the context of the model's, and its text where it names none itself."""
    text = draft.calibration.text or recipe.calibration.text
    calibration = replace(draft.calibration, text=text)
    return replace(draft, context_length=recipe.context_length, calibration=calibration)
