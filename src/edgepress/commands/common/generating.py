"""What verbs that generate text share: how tokens are drawn, and what form an answer has."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime import Beams, Constraint, Sampling, Speculation
    from edgepress.runtime.generation.forgetting import Forgetting
    from edgepress.runtime.model import Model


FILTERS = ("top_k", "top_p", "min_p", "typical_p")
"""Settings that have a say where tokens are drawn, not at temperature 0."""


def add_prefix_argument(parser: argparse.ArgumentParser) -> None:
    """Add what keeps the beginning of conversations in a file."""
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="FILE",
        help="keep what the model makes of the system prompt and the tools in this file, or go on from it",
    )


def add_forgetting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a text goes on when the context is full."""
    parser.add_argument(
        "--forget",
        type=float,
        metavar="SHARE",
        help="go on when the context is full: forget this share of it at a time, such as 0.125, and keep its first "
        "tokens and the last (default: as the bundle's recipe says)",
    )
    parser.add_argument(
        "--no-forget", action="store_true", help="end when the context is full, whatever the recipe says"
    )
    parser.add_argument(
        "--forget-first", type=int, metavar="N", help="with --forget: the first tokens that always stay (default: 4)"
    )
    parser.add_argument(
        "--forget-by",
        choices=("moving", "computing"),
        help="move the keys and values of what stays, or compute it again (default: move them where they can be)",
    )


def chosen_forgetting(arguments: argparse.Namespace) -> "Forgetting | Literal[False] | None":
    """How a text goes on when the context is full, as it was asked for; None leaves it to the bundle.

    Raises:
        InputError: it is said how, and not that it does; or both that it does and that it does not.

    """
    from edgepress.errors import InputError
    from edgepress.runtime.generation.forgetting import Forgetting

    if arguments.forget is None:
        if arguments.forget_by is not None or arguments.forget_first is not None:
            raise InputError("--forget-by and --forget-first say how; give --forget SHARE, too")
        return False if arguments.no_forget else None
    if arguments.no_forget:
        raise InputError("--forget goes on when the context is full, and --no-forget ends there; leave one of them out")
    first = Forgetting.first if arguments.forget_first is None else arguments.forget_first
    return Forgetting(first, arguments.forget, arguments.forget_by)


def add_thinking_argument(parser: argparse.ArgumentParser) -> None:
    """Add that a model that thinks before it answers does not."""
    parser.add_argument(
        "--no-think", action="store_true", help="set enable_thinking to false, for chat templates that know it"
    )


def template_variables(arguments: argparse.Namespace) -> dict[str, object]:
    """What the chat template is given beside the conversation."""
    return {"enable_thinking": False} if arguments.no_think else {}


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how tokens are drawn: in conversations each as the model's makers say unless it is given."""
    parser.add_argument("--temperature", type=float, help="0 takes the most likely token (chats: as the model says)")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K most likely; 0 is off")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that sum to P")
    parser.add_argument("--min-p", type=float, metavar="P", help="drop below P times the likeliest")
    parser.add_argument("--typical-p", type=float, metavar="P", help="keep the most typical ones that sum to P")
    parser.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 repeats less")
    parser.add_argument(
        "--no-repeat-ngram", type=int, metavar="N", help="say no sequence of N tokens twice, the prompt's included"
    )
    parser.add_argument(
        "--bias",
        action="append",
        metavar="TOKEN=NUMBER",
        help="add a number to a token's logit, -inf forbids it; a token is its number or a text that is one token; may "
        "be given several times",
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")


def add_speculation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many tokens a step may give."""
    parser.add_argument(
        "--speculate",
        default="off",
        metavar="DRAFTER",
        help="compute several tokens in a step where a drafter's proposals turn out right: ngram proposes what "
        "followed the same words before, draft what a smaller model says that the bundle or --draft has, mtp what the "
        "model's own layer for that says, in bundles of a recipe with mtp = true (default: off)",
    )
    parser.add_argument(
        "--draft", type=Path, metavar="DIR", help="speculate with this smaller bundle, which has the same tokenizer"
    )
    parser.add_argument(
        "--inexact",
        action="store_true",
        help="with --speculate: in as many tokens a step as pay, not only in so many as give the same bits; where two "
        "tokens are as good as equal, the other may be chosen",
    )


def add_beam_arguments(parser: argparse.ArgumentParser) -> None:
    """Add that the likeliest answer is looked for."""
    beams = parser.add_argument_group("the likeliest answer")
    beams.add_argument(
        "--beams", type=int, metavar="N", help="follow the N likeliest ways to go on, and print the likeliest answer"
    )
    beams.add_argument(
        "--length-penalty",
        type=float,
        metavar="P",
        help="an answer's score is its log-probability / length^P: the larger, the longer the answers (default: 1)",
    )
    beams.add_argument(
        "--early-stopping",
        choices=["no", "yes", "never"],
        help="end when no open way is better than a finished one as it is (no), when N have ended (yes), or when none "
        "could become better (never; default: no)",
    )


def beam_settings(arguments: argparse.Namespace) -> dict[str, int | float | str]:
    """What was said of beams, by its name."""
    from edgepress.errors import InputError

    names = ("beams", "length_penalty", "early_stopping")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if given and "beams" not in given:
        raise InputError(f"--{min(given).replace('_', '-')} is for several beams; give --beams N, too")
    return given


def chosen_beams(arguments: argparse.Namespace) -> "Beams | None":
    """What was asked for; None for one token after the other."""
    from edgepress.runtime.generation.several.beams import Beams

    given = beam_settings(arguments)
    return Beams(given.pop("beams"), **given) if given else None  # type: ignore[arg-type] # argparse knows the types


def chosen_speculation(arguments: argparse.Namespace) -> "Speculation | None":
    """What was asked for; None for one token a step."""
    from edgepress.errors import InputError
    from edgepress.runtime.generation.speculation.kinds import Speculation

    if arguments.draft is not None:
        drafter = "draft" if arguments.speculate == "off" else arguments.speculate
        return Speculation(drafter, exact=not arguments.inexact, bundle=arguments.draft)
    if arguments.speculate != "off":
        return Speculation(arguments.speculate, exact=not arguments.inexact)
    if arguments.inexact:
        raise InputError("--inexact says how to speculate; give --speculate ngram, too")
    return None


def chosen_sampling(arguments: argparse.Namespace, model: "Model", defaults: "Sampling") -> "Sampling":
    """The model's settings, with those in their place that were given."""
    given = {field.name: getattr(arguments, field.name) for field in fields(defaults)}
    if given["bias"] is not None:
        given["bias"] = dict(_bias(text, model) for text in given["bias"])
    chosen = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    if chosen.temperature == 0 and (idle := [name for name in FILTERS if given[name] is not None]):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        say(f"at temperature 0 the most likely token is taken, whatever {named} says; give --temperature, too")
    return chosen


def _bias(text: str, model: "Model") -> tuple[int, float]:
    """A token and what is added to its logit, of ``TOKEN=NUMBER``."""
    from edgepress.errors import InputError

    token, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        raise InputError(f"--bias {text!r} is not TOKEN=NUMBER, such as 42=-5 or ' the'=-inf") from None
    if token.isdecimal():
        return int(token), value
    found = model.tokenizer.library.encode(token, add_special_tokens=False).ids
    if len(found) != 1:
        raise InputError(f"--bias {text!r}: {token!r} is {len(found)} tokens, {found}; give one by its number")
    return found[0], value


def chosen_form(arguments: argparse.Namespace) -> "Constraint | None":
    """What form the answer has to have; None where nothing was said."""
    from edgepress.runtime.generation.constraints import Constraint
    from edgepress.text.documents import read_text

    if arguments.json_schema is not None:
        return Constraint.json_schema(read_text(arguments.json_schema))
    if arguments.regex is not None:
        return Constraint.regex(arguments.regex)
    if arguments.grammar is not None:
        return Constraint.lark(read_text(arguments.grammar))
    return None if arguments.choice is None else Constraint.choice(arguments.choice)
