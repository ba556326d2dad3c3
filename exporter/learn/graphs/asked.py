"""What a recipe asks of a graph: which methods look at it, what cannot be done, what a plan goes by."""

from dataclasses import replace

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import (
    GraphMethod,
    LinearMethod,
    Method,
    Place,
    find_graph_method,
    graph_method_names,
    load_graph_method,
    load_method,
    method_names,
    method_options,
)
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import Recipe, Storage


def check_graph_methods(recipe: Recipe, form: str) -> None:
    """Refuse what ``recipe`` asks of a graph whose weights ship in ``form`` and cannot have.

    Raises:
        InputError: a method is for language models, stands in the wrong place, cannot do this form, or has options that
            cannot be used.

    """
    if recipe.draft is not None:
        raise InputError("the recipe has a [draft], and this is no language model, which drafts are for; leave it out")
    for place, names in named(recipe):
        for name in names:
            method = load_graph_method(name, place, form)
            method_options(method, recipe)
            if isinstance(method, Method) and method.keeping is not None:
                raise InputError(
                    f"{name} keeps the codes of a language model that is quantized already, and this graph is of "
                    "floats; take int8, int4 or another recipe"
                )
            if isinstance(method, GraphMethod) and form not in method.forms:
                these = "blocks of codes" if form == "blocks" else "integers everywhere"
                raise InputError(f"{name} does nothing to {these}; leave it out, or take another recipe")
            if isinstance(method, LinearMethod) and form == "channels":
                raise InputError(
                    f"{name} rounds blocks of codes, and this recipe computes in integers with a scale a channel; "
                    "name rtn or adaround"
                )
            if isinstance(method, GraphMethod) and place == "weights":
                start_of(method, recipe)


def suited(recipe: Recipe) -> tuple[Recipe, dict[str, str]]:
    """``recipe`` as a graph can have it, so that presets serve every model; and what of it is left out, and why.

    A repair that trains a whole language model by its logits names by its option ``instead`` what learns where it is
    left out; on a graph that learns the products. Options of methods that only language models have go as well.
    """
    left_out: dict[str, str] = {}
    for name in recipe.after:
        instead = str(recipe.options.get(name, {}).get("instead", ""))
        if name in graph_method_names() or instead not in graph_method_names():
            continue
        left_out[name] = f"it trains language models by their logits; {instead} learns each product in its place"
        learned = {str(recipe.options.get(instead, {}).get("start", "gptq")): instead}
        recipe = Decisions(rounded_by=learned).applied(recipe)
    options = {
        name: {option: value for option, value in asked.items() if not _of_decoders_alone(name, option)}
        for name, asked in recipe.options.items()
        if name not in left_out
    }
    after = tuple(name for name in recipe.after if name not in left_out)
    budget = recipe.budget
    if budget is not None and left_out:
        budget = replace(budget, measure="every")  # each candidate, as graphs have it: a preset's one is an estimate
    return replace(recipe, after=after, options=options, budget=budget), left_out


def _of_decoders_alone(method: str, option: str) -> bool:
    """Whether a method that is there for both has an option for language models alone."""
    if method not in graph_method_names() or method not in method_names():
        return False
    return option in load_method(method).declared and option not in find_graph_method(method).declared


def looks(recipe: Recipe) -> tuple[str, ...]:
    """The methods of ``recipe`` that look at what a graph computes, for which samples are needed."""
    found = [(name, load_graph_method(name, place)) for place, names in named(recipe) for name in names]
    return tuple(name for name, method in found if isinstance(method, GraphMethod | LinearMethod))


def planned_recipe(recipe: Recipe) -> Recipe:
    """What a plan goes by: the same without methods that only graphs have, weights as these begin to round them."""

    def storage(asked: Storage) -> Storage:
        method = load_graph_method(asked.method, "weights")
        if not isinstance(method, GraphMethod) or "blocks" in method.forms:  # which decoders have under the same name
            return asked
        return replace(asked, method=start_of(method, recipe))

    return replace(
        recipe,
        weights=storage(recipe.weights),
        embedding=storage(recipe.embedding),
        head=storage(recipe.head),
        overrides=tuple(replace(entry, storage=storage(entry.storage)) for entry in recipe.overrides),
        before=(),
        after=(),
        options={name: asked for name, asked in recipe.options.items() if name not in graph_method_names()},
    )


def named(recipe: Recipe) -> list[tuple[Place, list[str]]]:
    """What a recipe names in each place."""
    methods = dict.fromkeys(storage.method for storage in recipe.storages)
    return [("before", list(recipe.before)), ("weights", list(methods)), ("after", list(recipe.after))]


def start_of(method: GraphMethod, recipe: Recipe) -> str:
    """The method that rounds each weight before ``method`` learns.

    Raises:
        InputError: its option ``start`` names none that does.

    """
    name = str(method_options(method, recipe)["start"])
    if not isinstance(load_graph_method(name, "weights"), Method | LinearMethod):
        raise InputError(f"[options.{method.name}] start = {name!r}: it must be a method that rounds one weight")
    return name
