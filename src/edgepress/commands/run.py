"""``edgepress run``: continue a prompt, or answer what a bundle with another task takes."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.commands.common.generating import (
    FILTERS,
    add_beam_arguments,
    add_forgetting_arguments,
    add_prefix_argument,
    add_sampling_arguments,
    add_speculation_arguments,
    add_thinking_argument,
    chosen_beams,
    chosen_forgetting,
    chosen_form,
    chosen_sampling,
    chosen_speculation,
    template_variables,
)
from edgepress.commands.common.opening import (
    add_adapter_argument,
    add_loading_arguments,
    add_place_arguments,
    open_language_model,
)
from edgepress.commands.common.prompts import add_prompts_arguments, answer_prompts, read_prompts
from edgepress.commands.common.tasks import OF_TASKS, add_task_arguments, run_task
from edgepress.terminal.counts import counted
from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgepress.chat.template import Message
    from edgepress.runtime import Generation, Model, Sampling

NAME = "run"
HELP = "continue a prompt with a bundle, or answer images, sounds and texts by its task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="what a bundle with a task takes: images, WAV files, texts or .npz"
    )
    add_place_arguments(parser)
    add_adapter_argument(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue, or to answer; - reads it from stdin")
    add_prompts_arguments(parser)
    add_task_arguments(parser)
    parser.add_argument("--json", action="store_true", help="of a bundle with a task: an answer a line, as JSON")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="an .npz file with an array for each input of a bundle that is no language model",
    )
    parser.add_argument(
        "--outputs", type=Path, metavar="FILE", help="with --inputs: write the outputs to this .npz file"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="answer the prompt as a user's message, by the model's chat template; `edgepress chat` takes several",
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: what the model is told before all else")
    add_prefix_argument(parser)
    add_thinking_argument(parser)
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="tokens to generate at most (default: until it ends)"
    )
    add_sampling_arguments(parser)
    add_speculation_arguments(parser)
    add_beam_arguments(parser)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text or special token; may be given several times",
    )
    add_forgetting_arguments(parser)
    parser.add_argument(
        "--compress-prompt",
        type=float,
        metavar="SHARE",
        help="keep this share of the prompt's tokens, such as 0.7: the words that tell the model least are left out",
    )
    parser.add_argument(
        "--contrast",
        type=Path,
        metavar="DIR",
        help="a bundle of a worse model with the same tokens: take what this one likes more than that one does",
    )
    several = parser.add_argument_group("several answers")
    several.add_argument("--best-of", type=int, metavar="N", help="answer N times, and print the answer that is chosen")
    several.add_argument(
        "--choose",
        metavar="HOW",
        help="by likelihood, as the model's own probabilities say; by majority; or by package.module:callable, a "
        "function of yours from the text to a number (default: likelihood)",
    )
    several.add_argument("--answer", metavar="EXPRESSION", help="what the majority compares: what this finds last")
    several.add_argument("--within-tokens", type=int, metavar="N", help="tokens of all answers together at most")
    several.add_argument("--within-seconds", type=float, metavar="S", help="seconds of all answers at most")
    several.add_argument("--within-joules", type=float, metavar="J", help="joules, where there is an energy counter")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json-schema", type=Path, metavar="FILE", help="the answer is JSON that this schema allows")
    form.add_argument("--regex", metavar="EXPRESSION", help="the whole answer matches this expression")
    form.add_argument("--grammar", type=Path, metavar="FILE", help="the answer is of this grammar, in Lark's notation")
    form.add_argument(
        "--choice", action="append", metavar="TEXT", help="the answer is one of these; given once for each"
    )
    parser.add_argument(
        "--special", action="store_true", help="show special tokens, such as those around a tool's call"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer (default: the bundle's)")


_OF_SEVERAL = ("choose", "answer", "within_tokens", "within_seconds", "within_joules")
OF_LANGUAGE_MODELS = (
    *("chat", "system", "prefix", "no_think", "json_schema", "regex", "grammar", "choice", "special", "at_once"),
    *("temperature", *FILTERS, "repetition_penalty", "no_repeat_ngram", "bias", "seed", "speculate", "draft"),
    *("inexact", "contrast", "compress_prompt", "forget", "forget_first", "forget_by", "best_of", *_OF_SEVERAL),
)
"""Options that a bundle with another task has no use for."""


def run(arguments: argparse.Namespace) -> int:
    """Print the text as it comes on stdout, then what it cost on stderr."""
    from edgepress.bundle.manifest import read_manifest
    from edgepress.errors import InputError
    from edgepress.runtime.generation.sampling import Sampling
    from edgepress.runtime.generation.several.text_beams import BeamSearch
    from edgepress.runtime.loading import find_task_of
    from edgepress.text.documents import read_standard_input

    if (task := find_task_of(arguments.bundle)) is not None:
        if given := [name for name in OF_LANGUAGE_MODELS if _is_given(arguments, name)]:
            option = given[0].replace("_", "-")
            raise InputError(f"{arguments.bundle} is for {task.name} and no language model; leave out --{option}")
        return run_task(arguments)
    if (arguments.prompt is None) == (arguments.prompts is None) or arguments.files:
        read_manifest(arguments.bundle)  # where there is no bundle, that is what is wrong
        raise InputError(
            f"{arguments.bundle} is a language model; give --prompt TEXT or --prompts FILE, one of them, and no files"
        )
    if given := [name for name in OF_TASKS if getattr(arguments, name)]:
        raise InputError(f"{arguments.bundle} is a language model, so there is nothing for --{given[0]}; leave it out")
    _check_together(arguments)
    prompts = None if arguments.prompts is None else read_prompts(arguments.prompts)
    model = open_language_model(arguments)
    defaults = model.sampling_defaults if arguments.chat else Sampling()
    if arguments.beams is not None:
        defaults = replace(defaults, temperature=0.0)
    drawn = chosen_sampling(arguments, model, defaults)
    generate = _generator(arguments, model)
    if prompts is not None:
        alone = any((arguments.beams, arguments.contrast, chosen_speculation(arguments)))
        return answer_prompts(
            model,
            prompts,
            lambda one, prompt: generate(one, prompt, drawn),
            arguments.at_once,
            begin=lambda one: _begin(arguments, one),
            alone=alone or model.session.ran_on.target != "cpu",
        )
    _begin(arguments, model)
    prompt = read_standard_input() if arguments.prompt == "-" else arguments.prompt.removeprefix("\ufeff")
    if arguments.best_of is not None:
        return _best_of(arguments, lambda seed: generate(model, prompt, replace(drawn, seed=seed)))
    generation = generate(model, prompt, drawn)
    if isinstance(generation.search, BeamSearch):
        megabytes = generation.search.most_bytes(generation) / 1e6
        most = generation.search.most_tokens(generation)
        kept = f"{counted(arguments.beams, 'beam')} {'keeps' if arguments.beams == 1 else 'keep'} {megabytes:.1f} MB"
        say(f"{kept} at most, for {counted(most, 'token')} of prompt and answer")
    for piece in generation:
        print(piece, end="", flush=True)
    print(flush=True)
    say(generation.statistics())
    return 0


def _is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Whether an option was typed, be its value 0."""
    value = getattr(arguments, name)
    return value is not None and value is not False and value != "off"


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together, before a model is opened."""
    from edgepress.errors import InputError

    ahead = chosen_speculation(arguments)
    if arguments.contrast is not None and (arguments.chat or ahead is not None):
        raise InputError("--contrast is for texts, one token a step; leave out --chat and --speculate")
    chosen_forgetting(arguments)
    of_chats = {"system": arguments.system, "prefix": arguments.prefix, "no-think": arguments.no_think or None}
    if not arguments.chat and (given := [name for name, value in of_chats.items() if value is not None]):
        raise InputError(f"--{given[0]} is for conversations; give --chat, too")
    if chosen_beams(arguments) is not None and arguments.best_of is not None:
        raise InputError("--beams finds the likeliest answer, and --best-of draws several; leave one of them out")
    if arguments.best_of is None and (given := [name for name in _OF_SEVERAL if _is_given(arguments, name)]):
        raise InputError(f"--{given[0].replace('_', '-')} is for several answers; give --best-of N, too")
    if arguments.prompts is not None and arguments.best_of is not None:
        raise InputError("--best-of is for one prompt; give --prompt TEXT in the place of --prompts")
    if arguments.prompts is None and arguments.at_once is not None:
        raise InputError("--at-once is for several prompts; give --prompts FILE")


def _generator(arguments: argparse.Namespace, model: "Model") -> "Callable[[Model, str, Sampling], Generation]":
    """What answers a prompt with an open model as the arguments say."""
    from edgepress.errors import InputError
    from edgepress.runtime.config import read_config
    from edgepress.runtime.generation.contrast import Contrast
    from edgepress.runtime.model import load
    from edgepress.runtime.turns.compression import compress

    longest, stop, special = arguments.max_tokens, arguments.stop, arguments.special
    form, ahead, beams = chosen_form(arguments), chosen_speculation(arguments), chosen_beams(arguments)
    contrast = None
    if arguments.contrast is not None:
        holds = read_config(arguments.contrast).context_length
        if holds < model.context:
            raise InputError(
                f"{arguments.contrast} holds a text of {holds} tokens at most, and this one may have {model.context}; "
                f"give --context {holds}"
            )
        contrast = Contrast(load(arguments.contrast, threads=arguments.threads, context=model.context))

    def generate(opened: "Model", prompt: str, settings: "Sampling") -> "Generation":
        if arguments.compress_prompt is not None:
            shorter = compress(opened, prompt, arguments.compress_prompt)
            prompt = shorter.text
            say(f"prompt compressed from {shorter.tokens_before} tokens to {shorter.tokens_after}")
        if arguments.chat:
            return opened.chat(
                [*_system(arguments), {"role": "user", "content": prompt}],
                max_tokens=longest,
                sampling=settings,
                stop=stop,
                special=special,
                constraint=form,
                speculate=ahead,
                beams=beams,
                forgetting=chosen_forgetting(arguments),
                variables=template_variables(arguments),
            )
        return opened.generate(
            prompt,
            max_tokens=longest,
            stop=stop,
            special=special,
            constraint=form,
            speculate=ahead,
            contrast=contrast,
            beams=beams,
            forgetting=chosen_forgetting(arguments),
            **asdict(settings),
        )

    return generate


def _system(arguments: argparse.Namespace) -> "list[Message]":
    """What a conversation begins with."""
    return [] if arguments.system is None else [{"role": "system", "content": arguments.system}]


def _begin(arguments: argparse.Namespace, model: "Model") -> None:
    """Let conversations with a model begin from a file, where one is named."""
    if arguments.prefix is not None:
        model.prefix(arguments.prefix, _system(arguments))


def _best_of(arguments: argparse.Namespace, generate: "Callable[[int], Generation]") -> int:
    """Answer several times and print the one that is chosen."""
    from edgepress.runtime.generation.several.best_of import best_of
    from edgepress.runtime.generation.several.budget import Budget
    from edgepress.runtime.generation.several.kinds import find_chooser

    budget = Budget(arguments.within_tokens, arguments.within_seconds, arguments.within_joules)
    choose, seed = find_chooser(arguments.choose or "likelihood", arguments.answer), arguments.seed
    found = best_of(generate, arguments.best_of, choose, budget=budget, **({} if seed is None else {"seed": seed}))
    print(found.text)
    say(found.statistics())
    return 0
