"""``edgepress run``: continue a prompt, or answer what a bundle with another task takes."""

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.stdio import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgepress.runtime import Constraint, Generation, Sampling, Speculation
    from edgepress.runtime.model import Model
    from edgepress.runtime.sequences.speech import SpeechModel
    from edgepress.runtime.tasks.kinds import TaskModel

_OF_SPEECH = ["language", "translate", "times", "fallback"]
_OF_TASKS = ["labels", *_OF_SPEECH]
NAME = "run"
HELP = "continue a prompt with a bundle, or answer images, sounds and texts by its task"


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every verb has that can run a bundle on its accelerator."""
    parser.add_argument(
        "--on",
        metavar="TARGET",
        help="run the bundle's graphs for this target (qnn-htp), simulated where this machine is not one; or cpu "
        "(default: an accelerator that is here, else the CPU)",
    )
    parser.add_argument("--soc", metavar="CHIP", help="with --on: the chip to run as, such as sm8650")
    add_graph_argument(parser)


def add_graph_argument(parser: argparse.ArgumentParser) -> None:
    """Add what chooses among a bundle's graphs."""
    parser.add_argument(
        "--graph",
        metavar="FILE",
        help="which of the bundle's graphs the CPU runs, such as model.onnx (default: the first that suits the "
        "processor; `edgepress inspect` names them)",
    )


def add_adapter_argument(parser: argparse.ArgumentParser) -> None:
    """Add what applies an adapter."""
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="apply an adapter, a file that `edgepress adapter` wrote"
    )


def add_prefix_argument(parser: argparse.ArgumentParser) -> None:
    """Add what keeps the beginning of conversations in a file."""
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="FILE",
        help="keep what the model makes of the system prompt and the tools in this file, or go on from it",
    )


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every verb that opens a bundle has."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--threads", type=int, metavar="N", help="compute threads (default: one for each usable core)")
    parser.add_argument(
        "--no-prepare",
        action="store_true",
        help="start from the bundle itself: neither use nor write its prepared form",
    )


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
        "followed the same words before (default: off)",
    )
    parser.add_argument(
        "--inexact",
        action="store_true",
        help="with --speculate: in as many tokens a step as pay, not only in so many as give the same bits; where two "
        "tokens are as good as equal, the other may be chosen",
    )


def chosen_speculation(arguments: argparse.Namespace) -> "Speculation | None":
    """What was asked for; None for one token a step."""
    from edgepress.errors import InputError
    from edgepress.runtime.generation.speculation.kinds import Speculation

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
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


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


def open_language_model(arguments: argparse.Namespace) -> "Model":
    """The bundle as the arguments say, verified and prepared first, with bars."""
    from edgepress.commands.prepare import prepare_first
    from edgepress.runtime.model import load

    prepare_first(arguments.bundle, not arguments.no_prepare and arguments.on in (None, "cpu"), arguments.graph)
    model = load(
        arguments.bundle,
        threads=arguments.threads,
        context=arguments.context,
        prepared=not arguments.no_prepare,
        on=arguments.on,
        soc=arguments.soc,
        graph=arguments.graph,
    )
    return model if arguments.adapter is None else model.with_adapter(arguments.adapter)


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


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what bundles of one task or another are told beside the files."""
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="what an image may be, in words, where the bundle takes any",
    )
    parser.add_argument("--language", metavar="CODE", help="of speech: what is spoken, such as de (default: found)")
    parser.add_argument("--translate", action="store_true", help="of speech: into English, where the model can")
    parser.add_argument("--times", choices=["segments", "words"], help="of speech: say when each is said")
    parser.add_argument(
        "--fallback",
        action="store_true",
        help="of speech: draw a window again where its text repeats itself or is unlikely, and leave out silence",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="what a bundle with a task takes: images, WAV files, texts or .npz"
    )
    add_place_arguments(parser)
    add_adapter_argument(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue, or to answer; - reads it from stdin")
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
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="tokens to generate at most (default: until it ends)"
    )
    add_sampling_arguments(parser)
    add_speculation_arguments(parser)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text or special token; may be given several times",
    )
    parser.add_argument(
        "--forget",
        type=float,
        metavar="SHARE",
        help="go on when the context is full: forget this share of it at a time, such as 0.5, and keep its first "
        "tokens and the last",
    )
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
        default="likelihood",
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


def run(arguments: argparse.Namespace) -> int:
    """Print the text as it comes on stdout, then what it cost on stderr."""
    from edgepress.errors import InputError
    from edgepress.manifest import read_manifest
    from edgepress.runtime.generation.contrast import Contrast
    from edgepress.runtime.generation.forgetting import Forgetting
    from edgepress.runtime.generation.sampling import Sampling
    from edgepress.runtime.loading import find_task_of
    from edgepress.runtime.model import load
    from edgepress.runtime.turns.compression import compress
    from edgepress.text.documents import read_standard_input

    if find_task_of(arguments.bundle) is not None:
        return _run_task(arguments)
    if arguments.prompt is None or arguments.files:
        read_manifest(arguments.bundle)  # where there is no bundle, that is what is wrong
        raise InputError(f"{arguments.bundle} is a language model; give --prompt TEXT and no files")
    if given := [name for name in _OF_TASKS if getattr(arguments, name)]:
        raise InputError(f"{arguments.bundle} is a language model, so there is nothing for --{given[0]}; leave it out")
    model = open_language_model(arguments)
    prompt = read_standard_input() if arguments.prompt == "-" else arguments.prompt.removeprefix("\ufeff")
    if arguments.compress_prompt is not None:
        shorter = compress(model, prompt, arguments.compress_prompt)
        prompt = shorter.text
        say(f"prompt compressed from {shorter.tokens_before} tokens to {shorter.tokens_after}")
    drawn = chosen_sampling(arguments, model, model.sampling_defaults if arguments.chat else Sampling())
    longest, stop, special = arguments.max_tokens, arguments.stop, arguments.special
    form, ahead = chosen_form(arguments), chosen_speculation(arguments)
    if arguments.contrast is not None and (arguments.chat or ahead is not None):
        raise InputError("--contrast is for texts, one token a step; leave out --chat and --speculate")
    if arguments.forget is not None and arguments.chat:
        raise InputError("--forget is for texts; a conversation that is too long is cut by leaving out its messages")
    if not arguments.chat and (arguments.system is not None or arguments.prefix is not None):
        what = "--prefix" if arguments.system is None else "--system"
        raise InputError(f"{what} is for conversations; give --chat, too")
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    messages = [*system, {"role": "user", "content": prompt}]
    if arguments.prefix is not None:
        model.prefix(arguments.prefix, system)

    contrast = None
    if arguments.contrast is not None:
        contrast = Contrast(load(arguments.contrast, threads=arguments.threads, context=model.context))

    def generate(settings: "Sampling") -> "Generation":
        if arguments.chat:
            return model.chat(
                messages,
                max_tokens=longest,
                sampling=settings,
                stop=stop,
                special=special,
                constraint=form,
                speculate=ahead,
            )
        return model.generate(
            prompt,
            max_tokens=longest,
            stop=stop,
            special=special,
            constraint=form,
            speculate=ahead,
            contrast=contrast,
            forgetting=None if arguments.forget is None else Forgetting(share=arguments.forget),
            **asdict(settings),
        )

    if arguments.best_of is not None:
        return _best_of(arguments, lambda seed: generate(replace(drawn, seed=seed)))
    generation = generate(drawn)
    for piece in generation:
        print(piece, end="", flush=True)
    print(flush=True)
    say(generation.statistics())
    return 0


def _best_of(arguments: argparse.Namespace, generate: "Callable[[int], Generation]") -> int:
    """Answer several times and print the one that is chosen."""
    from edgepress.runtime.generation.several.best_of import best_of
    from edgepress.runtime.generation.several.budget import Budget
    from edgepress.runtime.generation.several.kinds import find_chooser

    budget = Budget(arguments.within_tokens, arguments.within_seconds, arguments.within_joules)
    choose, seed = find_chooser(arguments.choose, arguments.answer), arguments.seed
    found = best_of(generate, arguments.best_of, choose, budget=budget, **({} if seed is None else {"seed": seed}))
    print(found.text)
    say(found.statistics())
    return 0


def _run_task(arguments: argparse.Namespace) -> int:
    """Run a bundle that is no language model: on arrays, on files that its task takes, or on a text."""
    from edgepress.errors import InputError
    from edgepress.runtime.loading import load_task
    from edgepress.runtime.sequences.model import SequenceModel
    from edgepress.runtime.sequences.speech import SpeechModel
    from edgepress.runtime.tasks.zero_shot_image_classification import ZeroShotClassifier

    model = load_task(
        arguments.bundle,
        threads=arguments.threads,
        prepared=not arguments.no_prepare,
        on=arguments.on,
        soc=arguments.soc,
    )
    names = ["adapter", "graph", "context", "stop"]
    names += [] if model.task.sequences is not None else ["max_tokens"]
    names += [] if model.feeder.takes == "text" else ["prompt"]
    names += [] if isinstance(model, SpeechModel) else _OF_SPEECH
    names += [] if isinstance(model, ZeroShotClassifier) else ["labels"]
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]:
        raise InputError(
            f"{arguments.bundle} is for {model.task.name}, so there is nothing for {given[0]}; leave it out, and give "
            f"{model.takes}"
        )
    if isinstance(model, SpeechModel):
        _ask(model, arguments)
    if arguments.inputs is not None:
        return _run_arrays(model, arguments)
    samples = _samples(model, arguments)
    if not samples:
        raise InputError(f"{arguments.bundle} is for {model.task.name}; give {model.takes}, or --inputs FILE.npz")
    if isinstance(model, SequenceModel) and arguments.max_tokens is not None:
        model.settings["max_tokens"] = arguments.max_tokens
    return _answer(model, samples, as_json=arguments.json)


def _ask(model: "SpeechModel", arguments: argparse.Namespace) -> None:
    """Have the model asked of each sound what the arguments say."""
    from edgepress.runtime.sequences.fallback import Fallback
    from edgepress.runtime.sequences.speech import TRANSCRIBE, Asked

    model.asked = Asked(
        language=arguments.language,
        purpose="translate" if arguments.translate else TRANSCRIBE,
        timestamps=arguments.times == "segments",
        words=arguments.times == "words",
        fallback=Fallback() if arguments.fallback else None,
    )


def _run_arrays(model: "TaskModel", arguments: argparse.Namespace) -> int:
    """Compute arrays; print or write what comes out."""
    import numpy as np

    from edgepress.files import atomic_file
    from edgepress.processing.arrays import read_arrays

    outputs = model.run(read_arrays(arguments.inputs))
    if arguments.outputs is not None:
        with atomic_file(arguments.outputs, replace=True) as work, work.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
    for name, array in outputs.items():
        with np.printoptions(threshold=20, precision=6, suppress=True):
            print(f"{name} {array.dtype} {array.shape}\n{array}")
    return 0


def _samples(model: "TaskModel", arguments: argparse.Namespace) -> list[tuple[str, object]]:
    """What is answered, by its name: files; of a task that takes texts their content, and the prompt."""
    from edgepress.schema import read_bytes
    from edgepress.text.documents import decode, read_standard_input

    files = [Path(name) for name in arguments.files]
    if model.feeder.takes != "text":
        labels = arguments.labels
        return [(str(file), file if labels is None else (file, labels)) for file in files]
    remedy = "name a file of text, or give the text as --prompt"
    texts: list[tuple[str, object]] = [(str(file), decode(read_bytes(file, remedy), file).strip()) for file in files]
    if arguments.prompt is not None:
        texts.append(("prompt", read_standard_input().strip() if arguments.prompt == "-" else arguments.prompt))
    return texts


def _answer(model: "TaskModel", samples: list[tuple[str, object]], *, as_json: bool) -> int:
    """Print each answer as it comes; as JSON a line each."""
    import json

    from edgepress.runtime.tasks.common.shown import to_json, to_text

    for number, (name, sample) in enumerate(samples):
        answer = model.answer(sample)
        if as_json:
            print(json.dumps({"file": name, "answer": to_json(answer)}, ensure_ascii=False), flush=True)
        else:
            title = f"{name}\n" if len(samples) > 1 else ""
            print(f"{chr(10) if number else ''}{title}{to_text(answer)}", flush=True)
    return 0
