"""Everything that an export decides before it reads a weight; the first half of its story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from edgepress.errors import InputError
from edgepress.exporter.decide.checks import (
    check_before_pruning,
    check_prepared,
    check_recipe,
    refuse_forms,
    say_unused_text,
)
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.methods.kinds import Recovery, describe_methods, load_method, method_options
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import find_model, first_token, read_decoder, refuse_longer
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.plan import Plan, make_plan
from edgepress.exporter.recipe.recipe import Recipe, read_recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import check_tokenizer
from edgepress.progress import Progress, silent
from edgepress.targets import (
    Soc,
    Target,
    default_recipe,
    find_soc,
    find_target,
    target_names,
)
from edgepress.whole import whole_number
from edgepress.workspace import Workspace

MOST_POSITIONS = 1 << 24  # as many as the runtime takes


def decide(
    model: str | Path,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
    revision: str | None = None,
    workspace: Workspace | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Read headers and config only, and plan the export (what ``edgepress plan`` prints).

    Without a ``recipe`` it is the one that suits the targets (:func:`~edgepress.targets.default_recipe`).

    A recipe that prunes is planned for the model that its steps leave: they are run, and kept in ``workspace``. When
    that is None only those that change sizes are run, in a temporary directory.

    A recipe with a budget is planned in three steps, measure → solve → plan, the first of which runs the model. What
    it measures is kept in ``workspace``, nowhere when None. One with float16 activations runs the model too, to find
    the layers that overflow.

    Raises:
        InputError: the model, recipe or target cannot be used; the message says which, why and what to do.

    """
    targets, chips = find_targets(target, socs)
    name, why = choose_recipe(recipe, target)
    asked = ask_recipe(name, context_length, calibration)
    check_recipe(asked)
    directory, origin = find_model(str(model), revision)
    checkpoint, pruned = Checkpoint.open(directory), None
    check_tokenizer(checkpoint)
    if asked.prune:
        original = read_decoder(checkpoint)
        names = [weight.name for weight in original.weights()]
        known = tuple(entry for entry in asked.overrides if any(fnmatchcase(name, entry.match) for name in names))
        after = tuple(name for name in asked.after if name not in declined(original, asked))
        # other overrides may be for what steps make
        whole = fit_length(checkpoint, original, replace(asked, overrides=known, after=after))
        plan = plan_tensors(checkpoint, original, whole)
        check_before_pruning(
            Prepared(checkpoint=checkpoint, decoder=original, recipe=whole, targets=targets, plan=plan, socs=chips)
        )

        from edgepress.exporter.learn.pruning.run import prune

        kept = None if workspace is None else workspace.part("pruning")
        pruned = prune(checkpoint, asked, targets, folder=kept, threads=threads, progress=progress)
        checkpoint, text = pruned.checkpoint, replace(asked.calibration, text=pruned.text)
        asked = replace(asked, calibration=text)
    plain = read_decoder(checkpoint)
    left_out = declined(plain, asked)
    after = tuple(name for name in asked.after if name not in left_out)
    asked = fit_length(checkpoint, plain, replace(asked, after=after))

    def planned(recipe: Recipe) -> Prepared:
        decoder = describe_methods(plain, recipe)
        return Prepared(
            checkpoint=checkpoint,
            decoder=decoder,
            recipe=recipe,
            targets=targets,
            plan=plan_tensors(checkpoint, decoder, recipe),
            left_out=left_out,
            socs=chips,
            origin=origin,
            pruned=pruned,
            why_recipe=why,
        )

    prepared = planned(asked)
    check_prepared(prepared, plain)
    say_unused_text(prepared)
    if asked.activations.type == "float16":
        prepared = planned(keep_what_overflows(checkpoint, plain, asked, threads=threads, progress=progress))
    if asked.budget is not None:
        prepared = spend(prepared, plain, workspace, threads=threads, progress=progress)
        refuse_forms(prepared)
    return prepared


def fit_length(checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe) -> Recipe:
    """The recipe with sequences of text no longer than its context.

    Raises:
        InputError: the context is longer than the model's, or than a bundle can hold.

    """
    context = recipe.context_length or decoder.context_length
    refuse_longer(checkpoint, decoder, context)
    if context > MOST_POSITIONS:
        raise InputError(f"the context is {context} tokens, and a bundle can hold {MOST_POSITIONS}; give --context")
    length = min(recipe.calibration.length, context)
    return replace(recipe, calibration=replace(recipe.calibration, length=length))


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
    """The recipe, with the context length and the text that whoever called gave in the place of its own."""
    found = read_recipe(recipe)
    if context_length is not None:
        whole_number("the context", context_length)
        found = replace(found, context_length=context_length)
    if calibration:
        found = replace(found, calibration=replace(found.calibration, text=tuple(map(str, calibration))))
    return found


def plan_tensors(checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe) -> Plan:
    """The plan of a checkpoint's tensors, which knows how wide their elements are stored."""
    return make_plan(decoder, recipe, lambda name: checkpoint.tensors[name].itemsize)


def spend(
    prepared: Prepared, plain: Decoder, workspace: Workspace | None, *, threads: int | None, progress: Progress
) -> Prepared:
    """Measure and solve the recipe's budget; see :func:`decide`. ``plain`` is the decoder before any method."""
    from edgepress.exporter.learn.budget.measure import spend_budget

    bos = first_token(prepared.checkpoint, prepared.decoder)
    with TemporaryDirectory(prefix="edgepress-") as temporary:
        folder = Path(temporary) if workspace is None else workspace.part("prices")
        spent, summary = spend_budget(prepared, plain, folder, bos=bos, threads=threads, progress=progress)
    plan = plan_tensors(prepared.checkpoint, prepared.decoder, spent.recipe)
    return replace(prepared, recipe=spent.recipe, plan=plan, budget=summary)


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


def keep_what_overflows(
    checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe, *, threads: int | None, progress: Progress
) -> Recipe:
    """The recipe with the layers that cannot compute in float16, by running its calibration text or built-in prose.

    Raises:
        InputError: the text cannot be used.

    """
    from edgepress.exporter.bundle.parity import prose_tokens
    from edgepress.exporter.learn.calibration.overflow import layers_in_float32
    from edgepress.exporter.learn.calibration.run import read_tokens, use_threads

    check_tokenizer(checkpoint)
    context = recipe.context_length or decoder.context_length
    if recipe.calibration.text:
        bos = first_token(checkpoint, decoder)
        tokens, text = read_tokens(checkpoint, decoder, recipe.calibration, bos, context).tokens, "the calibration text"
    else:
        tokens, text = prose_tokens(checkpoint, decoder, context)[None], "built-in prose"
    label = "looking for layers that overflow float16"
    with use_threads(decoder, threads), progress(len(decoder.layers), label, " layers") as advance:
        kept = layers_in_float32(decoder, lambda weight: read_weight(checkpoint, weight), tokens, text, advance)
    return replace(recipe, activations=replace(recipe.activations, kept_layers=kept))


def declined(decoder: Decoder, recipe: Recipe) -> dict[str, str]:
    """Recoveries of the recipe that leave this model alone, by name, and why."""
    reasons: dict[str, str] = {}
    for name in recipe.after:
        method = load_method(name)
        if isinstance(method, Recovery) and (reason := method.declines(decoder, method_options(method, recipe))):
            reasons[name] = reason
    return reasons
