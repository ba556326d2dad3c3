"""What an export would refuse after its work, asked before a weight is read: what a plan accepts, an export does."""

from __future__ import annotations

import logging
from dataclasses import replace

from edgepress.errors import InputError
from edgepress.exporter.bundle.forms import form_of
from edgepress.exporter.bundle.genai_config import make_genai_config
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.methods.kinds import (
    GraphPruning,
    LayerMethod,
    Method,
    Pruning,
    Repair,
    Transform,
    graph_pruning,
    load_kind,
    load_method,
    method_instead,
    method_options,
    start_method,
    zeros_asked,
)
from edgepress.exporter.methods.options import read_options
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import GENERATION, first_token
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import Recipe

_log = logging.getLogger("edgepress.export")


def check_recipe(recipe: Recipe, *, graphs: bool = False) -> None:
    """Refuse methods of the wrong kind for their place, and options that are out of range or have no effect.

    Options of a method that is not named are allowed, as another method may start with it. With ``graphs`` the recipe
    is for a model that is an ONNX graph, of which steps of ``prune`` have options of their own.

    Raises:
        InputError: there are such methods or options; the message says where they belong, or what is right.

    """
    budget = recipe.budget
    if budget is not None and not graphs and budget.kl is None and (budget.most_lost is not None or budget.metric):
        raise InputError(
            "[budget] error, metric_loss, changed and metric are for models that are no language models; take kl, or a "
            "limit in bytes or time"
        )
    if recipe.mtp and graphs:
        raise InputError("mtp = true ships what a language model has to predict a token further; leave it out")
    if recipe.activations.kept and not graphs:
        raise InputError(
            "[activations] kept names nodes of a graph, and this is a language model, whose tensors are kept by "
            "[[override]] bits = 32"
        )
    for name, asked in recipe.options.items():
        in_graphs = graphs and name in recipe.prune
        read_options(name, (graph_pruning(name) if in_graphs else load_method(name)).declared, asked)
    for name in recipe.prune:
        _ = graph_pruning(name) if graphs else load_kind(name, Pruning, "prune")
    for name in recipe.before:
        method_options(load_kind(name, Transform, "before"), recipe)
    for name in recipe.after:
        method_instead(load_kind(name, Repair, "after"), recipe)
    for storage in recipe.storages:
        start_method(storage.method, recipe)
        zeros_asked(storage.method, recipe)
    for name in recipe.options:
        method = load_method(name)
        if isinstance(method, Pruning | GraphPruning) and name not in recipe.prune:
            steps = ", ".join(recipe.prune) or "no step"
            raise InputError(
                f"[options.{name}] is for {name}, and `prune` has {steps}; add {name} there, or leave its options out"
            )


def check_before_pruning(prepared: Prepared) -> None:
    """Refuse what no pruning step can change; ``prepared`` is planned for the model as it is, before its steps.

    Sizes are not checked, as steps change them; nor are tensors that a step may make or remove.
    """
    _check_ids(prepared)
    _check_text(prepared, prepared.recipe)
    refuse_forms(replace(prepared, plan=replace(prepared.plan, data_bytes=0)))


def check_prepared(prepared: Prepared, plain: Decoder) -> None:
    """Refuse all that is known of an export before its first weight is read.

    ``prepared`` is planned without what is measured yet, the budget. ``plain`` is the decoder before any method.

    Raises:
        InputError: token ids outside the vocabulary, a graph that the CPU cannot run, text that cannot be used or is
            too little to learn from, a budget that no choice can meet or whose candidates cannot be stored.

    """
    for name in (*prepared.recipe.before, *prepared.plan.methods, *prepared.recipe.after):
        method = load_method(name)
        if not isinstance(method, Pruning | GraphPruning):
            method.check(prepared.decoder, prepared.plan.schemes, method_options(method, prepared.recipe))
    _check_ids(prepared)
    _check_heads(prepared)
    prepared.make_graphs()
    if prepared.recipe.budget is None:
        refuse_forms(prepared)
    else:
        _check_budget(prepared, plain)
    measured = prepared.asked.cache.keep is not None and bool(prepared.recipe.calibration.text)
    if prepared.recipe.budget is not None or prepared.needs_calibration or prepared.plan.integer_states or measured:
        _check_text(prepared, prepared.recipe)


def say_unused_text(prepared: Prepared) -> None:
    """Warn when text is given that no part of the export uses; InputError when a file of it cannot be used."""
    recipe = prepared.recipe
    looks = prepared.needs_calibration or recipe.budget is not None or prepared.pruned is not None
    looks |= bool(prepared.plan.integer_states) or prepared.asked.draft is not None
    looks |= prepared.asked.cache.keep is not None
    looks |= recipe.activations.type == "float16" or any(target.form == "static" for target in prepared.targets)
    if looks or not recipe.calibration.text:
        return

    from edgepress.exporter.streams.text import check_files

    check_files(recipe.calibration.text)
    _log.warning("calibration text is given and not used: no method of this recipe needs text")


def check_planned(prepared: Prepared) -> None:
    """Refuse a graph or a form that cannot be made, once the plan has what was measured by running the model."""
    prepared.make_graphs()
    refuse_forms(prepared)


def refuse_forms(prepared: Prepared) -> None:
    """Raise InputError when a target's form cannot hold what is planned."""
    for target in prepared.targets:
        if (form := form_of(target, decoder=True)) is not None:
            form.refuse(prepared, target, prepared.socs)


def _check_ids(prepared: Prepared) -> None:
    checkpoint = prepared.checkpoint
    make_genai_config(prepared.decoder, prepared.plan, checkpoint.config, checkpoint.json(GENERATION))


def _check_heads(prepared: Prepared) -> None:
    """An untied head is in no layer, so that no layer method trains it: the method that it starts with is used."""
    head, recipe = prepared.decoder.head.weight, prepared.recipe
    scheme = None if prepared.decoder.tied else prepared.plan.of(head).scheme
    if scheme is not None and isinstance(load_method(scheme.method), LayerMethod):
        start = start_method(scheme.method, recipe)
        if isinstance(start, Method):
            raise InputError(
                f"[head] method = {scheme.method!r} learns layers, and the head is in none: name {start.name!r} for "
                '[head], which it starts with, or "gptq"'
            )


def _check_text(prepared: Prepared, recipe: Recipe) -> None:
    """Read the text, and check that it has enough sequences for the methods that train."""
    from edgepress.exporter.learn.calibration.run import given_tokens, layers_text, wanted_text
    from edgepress.exporter.streams.learned import split
    from edgepress.exporter.streams.text import sequences_asked

    settings = wanted_text(prepared)
    given = given_tokens(prepared, settings, first_token(prepared.checkpoint, prepared.decoder))
    count = sequences_asked(settings) if given is None else len(given.tokens)
    for name in (*recipe.after, *sorted(prepared.plan.methods)):
        method = load_method(name)
        if isinstance(method, Repair) and method.model is not None:
            split(count, recipe.calibration.seed, name)
        elif isinstance(method, LayerMethod):
            seen = min(count, sequences_asked(layers_text(prepared)))
            own = {"asked_by": f"[options.{name}] tokens"} if method_options(method, recipe)["tokens"] else {}
            split(seen, recipe.calibration.seed, name, **own)


def _check_budget(prepared: Prepared, plain: Decoder) -> None:
    """Plan every candidate for all tensors: each must be storable, and the smallest within a limit of bytes."""
    from edgepress.exporter.learn.budget.schemes import refuse_impossible
    from edgepress.exporter.learn.budget.sensitivity import tensor_groups, with_choice

    recipe, budget = prepared.recipe, prepared.recipe.budget
    if budget is None:
        return

    groups = tensor_groups(plain, recipe, budget)
    for number in range(max((len(group.candidates) for group in groups), default=0)):
        chosen = [min(number, len(group.candidates) - 1) for group in groups]
        made = with_choice(recipe, groups, chosen)
        try:
            plan = make_plan(prepared.decoder, made, prepared.checkpoint.itemsize)
            refuse_forms(replace(prepared, recipe=made, plan=plan))
        except InputError as error:
            labels = sorted({group.candidates[option].label for group, option in zip(groups, chosen, strict=True)})
            raise InputError(f"[budget] candidates: {', '.join(labels)} cannot be chosen: {error}") from error
    refuse_impossible(prepared.decoder, recipe, itemsize=prepared.checkpoint.itemsize, groups=groups)
