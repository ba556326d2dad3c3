"""Everything that an export decides before it rounds a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from edgepress.bundle.states import state_bytes
from edgepress.disk.workspace import Workspace
from edgepress.errors import InputError
from edgepress.exporter.decide.checks import (
    check_before_pruning,
    check_planned,
    check_prepared,
    say_unused_text,
)
from edgepress.exporter.decide.job import Opened, Prepared, Shrunk, plan_tensors
from edgepress.exporter.decide.keeping import kept_codes, with_orders
from edgepress.exporter.decide.opening import open_model
from edgepress.exporter.methods.kinds import (
    LayerMethod,
    Repair,
    describe_methods,
    load_kind,
    load_method,
    method_instead,
    method_options,
    start_method,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import first_token, read_decoder, read_mtp, refuse_longer
from edgepress.exporter.model.rope import key_rotations
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.terminal.progress import Progress, silent

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
    adapters: Sequence[str | Path] = (),
    adapter_slots: Sequence[str | Path] = (),
    workspace: Workspace | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Read headers and config of a language model only, and plan the export (what ``edgepress plan`` prints).

    Without a ``recipe`` it is the one that suits the targets (:func:`~edgepress.targets.default_recipe`).

    Raises:
        InputError: the model, recipe or target cannot be used; the message says which, why and what to do.

    """
    opened = open_model(
        model,
        target=target,
        recipe=recipe,
        socs=socs,
        context_length=context_length,
        calibration=calibration,
        revision=revision,
        adapters=adapters,
        adapter_slots=adapter_slots,
    )
    shrunk = shrink(opened, workspace, threads=threads, progress=progress)
    prepared = settle(shrunk, workspace, threads=threads, progress=progress)
    drafted = shrink_draft(shrunk, workspace, threads=threads, progress=progress)
    if drafted is None:
        return prepared
    return replace(prepared, drafted=settle(drafted, None, threads=threads, progress=progress))


def shrink(opened: Opened, workspace: Workspace | None, *, threads: int | None, progress: Progress) -> Shrunk:
    """Run the steps of a recipe that prunes: the stages after it plan the model that the steps write.

    They are kept in ``workspace``. When that is None only those that change sizes are run, in a temporary directory.

    Raises:
        InputError: a step, the text, or what is planned after the steps cannot be used.

    """
    checkpoint, asked = opened.checkpoint, opened.asked
    if not asked.prune:
        return Shrunk(**vars(opened))
    check_before_pruning(_without_steps(opened))

    from edgepress.exporter.learn.pruning.run import prune

    kept = None if workspace is None else workspace.part("pruning")
    pruned = prune(checkpoint, asked, opened.targets, folder=kept, threads=threads, progress=progress)
    return Shrunk(**{**vars(opened), "checkpoint": pruned.checkpoint, "pruned": pruned})


def shrink_draft(
    shrunk: Shrunk, workspace: Workspace | None, *, threads: int | None, progress: Progress
) -> Shrunk | None:
    """Run the steps that make a draft model of what :func:`shrink` left; None where the recipe asks for none.

    Raises:
        InputError: as :func:`shrink`.

    """
    if shrunk.draft is None:
        return None
    try:
        return shrink(shrunk.draft, workspace, threads=threads, progress=progress)
    except InputError as error:
        raise InputError(f"[draft]: {error}") from error


def _without_steps(opened: Opened) -> Prepared:
    """The plan of the model before the steps; overrides that match none of its tensors may be for those of steps."""
    checkpoint, asked = opened.checkpoint, opened.asked
    decoder = read_decoder(checkpoint)
    names = [weight.name for weight in decoder.weights()]
    known = tuple(entry for entry in asked.overrides if any(fnmatchcase(name, entry.match) for name in names))
    decisions = replace(find_left_out(decoder, asked), length=text_length(checkpoint, decoder, asked))
    recipe = decisions.applied(replace(asked, overrides=known))
    plan = plan_tensors(checkpoint, decoder, recipe, opened.targets)
    return Prepared(**vars(opened), decoder=decoder, recipe=recipe, plan=plan, decisions=decisions)


def settle(shrunk: Shrunk, workspace: Workspace | None, *, threads: int | None, progress: Progress) -> Prepared:
    """Decide what is left to decide, plan every tensor, and refuse what the rest of the export would.

    A recipe with a budget is planned in three steps, measure → solve → plan, the first of which runs the model: what it
    measures is kept in ``workspace``, nowhere when None.

    Raises:
        InputError: what is asked cannot be done; the message says what can.

    """
    refuse_mtp(shrunk)
    plain = read_decoder(shrunk.checkpoint)
    decisions = replace(
        find_left_out(plain, shrunk.asked),
        text=() if shrunk.pruned is None else shrunk.pruned.text,
        length=text_length(shrunk.checkpoint, plain, shrunk.asked),
        overrides=kept_codes(shrunk.checkpoint, plain, shrunk.asked),
    )
    plain = with_orders(shrunk.checkpoint, plain, decisions.overrides)
    prepared = _plan(shrunk, plain, replace(decisions, float16_graph=may_have_float16(shrunk)))
    if shrunk.asked.budget is None and not any(tensor.form == "half blocks" for tensor in prepared.plan.tensors):
        prepared = prepared.decided(decisions)  # nothing that such a graph would gain by
    if keeps_windows(prepared):
        prepared = prepared.decided(replace(prepared.decisions, windows=True))
    check_integer_cache(prepared)
    check_kept_text(prepared)
    check_prepared(prepared, plain)
    say_unused_text(prepared)
    if shrunk.asked.budget is not None:
        prepared = with_budget(prepared, plain, workspace, threads=threads, progress=progress)
        check_planned(prepared)
    return prepared


def may_have_float16(opened: Opened) -> bool:
    """Whether the bundle gets a graph in float16 beside the float32 one: where a target's processors may compute in it.

    Not where the recipe names a type, nor where an accelerator reads the float32 graph's weights.
    """
    if opened.asked.activations.is_written or any(target.form == "static" for target in opened.targets):
        return False
    return any(target.is_cpu and target.float16 for target in opened.targets)


def keeps_windows(prepared: Prepared) -> bool:
    """Whether layers whose attention sees a window keep the keys and values of that alone.

    They do where states at the default context take half the bytes by that, or less; not where a target has static
    graphs, which take a cache of the whole context. ``prepared`` is planned without them.

    Raises:
        InputError: the recipe asks for it, and there are no such layers or there is such a target.

    """
    asked, plan = prepared.asked.cache.windows, prepared.plan
    static = next((target.name for target in prepared.targets if target.form == "static"), None)
    states = prepared.decoder.states(windows_below=plan.context_length, in_integers=prepared.asked.cache.in_integers)
    if not asked:
        saves = 2 * state_bytes(states, plan.default_context) <= plan.cache_bytes_at(plan.default_context)
        return asked is None and static is None and saves
    if not any(state.kind == "window" for state in states):
        raise InputError(
            "the recipe has [cache] windows = true, and no layer of this model has a window below its context of "
            f"{plan.context_length:,} tokens with keys and values that no other layer reads; leave it out"
        )
    if static is not None:
        raise InputError(
            f"the recipe has [cache] windows = true, and the static graphs of {static} take a cache of the whole "
            "context; leave it out, or export for that target apart"
        )
    return True


def check_integer_cache(prepared: Prepared) -> None:
    """Refuse keys and values as integers where nothing has them.

    Raises:
        InputError: the model has none that are kept for tokens, or a target has static graphs.

    """
    bits = prepared.asked.cache.bits
    if bits is None:
        return
    if not prepared.plan.integer_states:
        raise InputError(
            f"the recipe has [cache] bits = {bits}, and no layer of this model keeps keys and values of tokens; leave "
            "it out"
        )
    static = next((target.name for target in prepared.targets if target.form == "static"), None)
    if static is not None:
        raise InputError(
            f"the recipe has [cache] bits = {bits}, and the static graphs of {static} have caches of their own; leave "
            "it out, or export for that target apart"
        )


def check_kept_text(prepared: Prepared) -> None:
    """Refuse to keep a part of a text where what stays could not be moved to where it stands then.

    Raises:
        InputError: the model has no more tokens, its keys are bound to their positions, a window would see what is
            forgotten, or a target has static graphs.

    """
    kept = prepared.asked.cache.kept
    if kept is None:
        return
    longest = max((state.window for state in prepared.plan.states if state.window is not None), default=0)
    static = next((target.name for target in prepared.targets if target.form == "static"), None)
    why = (
        f"the model's context has {prepared.plan.context_length:,} tokens; keep fewer"
        if kept.tokens > prepared.plan.context_length
        else "its keys are bound to the positions at which they were computed, so what stays cannot be moved; leave it "
        "out, and forget with `run --forget`, which computes what stays again"
        if key_rotations(prepared.decoder) is None
        else f"a window of {longest:,} tokens, of which {kept.recent:,} would stay behind the first; keep more, or all "
        "keys and values of such layers with [cache] windows = false"
        if longest > kept.recent
        else f"the static graphs of {static} have caches of their own; leave it out, or export for that target apart"
        if static is not None
        else ""
    )
    if why:
        raise InputError(f"the recipe has [cache] keep = {kept.tokens}, and {why}")


def refuse_mtp(shrunk: Shrunk) -> None:
    """Refuse what predicts a token further beside what it cannot be made with.

    Raises:
        InputError: the recipe prunes, or asks for ranges from calibration, or a target has a form of its own.

    """
    asked = shrunk.asked
    if not asked.mtp:
        return
    form = next((target.name for target in shrunk.targets if target.form is not None), None)
    why = (
        f"prunes ({', '.join(asked.prune)}), and the layer that predicts a token further reads the model as it was"
        if asked.prune
        else f"takes ranges from calibration ({asked.activations.ranges}), which runs no text through that layer"
        if asked.activations.is_calibrated
        else f"is for {form}, whose files hold the model alone"
        if form is not None
        else ""
    )
    if why:
        raise InputError(f"the recipe has mtp = true and {why}; leave one of the two out")


def _plan(shrunk: Shrunk, plain: Decoder, decisions: Decisions) -> Prepared:
    """Plan with what is decided so far; ``plain`` is the decoder before any method."""
    recipe = decisions.applied(shrunk.asked)
    decoder = describe_methods(plain, recipe)
    if shrunk.asked.mtp:
        decoder = replace(decoder, mtp=read_mtp(shrunk.checkpoint, plain))
    plan = plan_tensors(shrunk.checkpoint, decoder, recipe, shrunk.targets, shrunk.adapter_slots)
    return Prepared(**vars(shrunk), decoder=decoder, recipe=recipe, plan=plan, decisions=decisions)


def text_length(checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe) -> int | None:
    """The length of calibration sequences where the context is shorter than what is asked, else None.

    Raises:
        InputError: the context is longer than the model's, or than a bundle can hold.

    """
    context = recipe.context_length or decoder.context_length
    refuse_longer(checkpoint, decoder, context)
    if context > MOST_POSITIONS:
        raise InputError(f"the context is {context} tokens, and a bundle can hold {MOST_POSITIONS}; give --context")
    return context if context < recipe.calibration.length else None


def with_budget(
    prepared: Prepared, plain: Decoder, workspace: Workspace | None, *, threads: int | None, progress: Progress
) -> Prepared:
    """Measure and solve the recipe's budget; see :func:`settle`. ``plain`` is the decoder before any method."""
    from edgepress.exporter.learn.budget.measure import meet_budget

    bos = first_token(prepared.checkpoint, prepared.decoder)
    with TemporaryDirectory(prefix="edgepress-") as temporary:
        folder = Path(temporary) if workspace is None else workspace.part("prices")
        chosen, summary = meet_budget(prepared, plain, folder, bos=bos, threads=threads, progress=progress)
    decisions = replace(prepared.decisions, overrides=chosen.overrides)
    return replace(prepared.decided(decisions), budget=summary)


def find_left_out(decoder: Decoder, recipe: Recipe) -> Decisions:
    """Methods of the recipe that are left out for this model, and what is used instead.

    Instead of a repair that may be a layer method, which starts with the recipe's own rounding; instead of a layer
    method it is what that starts with.
    """
    reasons: dict[str, str] = {}
    instead: dict[str, str] = {}
    rounded_by: dict[str, str] = {}
    for repair in (load_kind(name, Repair, "after") for name in recipe.after):
        if reason := repair.why_left_out(decoder, method_options(repair, recipe)):
            reasons[repair.name] = reason
            if (learned := method_instead(repair, recipe)) is not None:
                instead[repair.name] = learned.name
                rounded_by[start_method(learned.name, recipe).name] = learned.name
    for name in dict.fromkeys(rounded_by.get(storage.method, storage.method) for storage in recipe.storages):
        method = load_method(name)
        if not isinstance(method, LayerMethod):
            continue
        if reason := method.why_left_out(decoder, method_options(method, recipe)):
            start = start_method(name, recipe).name
            reasons[name] = f"{reason}; {start} rounds in its place"
            rounded_by = {key: value for key, value in rounded_by.items() if value != name} | {name: start}
    for name, other in instead.items():
        if other in rounded_by.values():
            reasons[name] += f"; {other} learns layers in its place"
    return Decisions(left_out=reasons, rounded_by=rounded_by)
