"""``edgepress run``: continue a prompt."""

import argparse
from pathlib import Path

from edgepress.stdio import say

NAME = "run"
HELP = "continue a prompt with a bundle, as a stream of text on stdout"


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


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every verb that opens a bundle has."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--threads", type=int, metavar="N", help="compute threads (default: one for each usable core)")
    parser.add_argument(
        "--no-prepare",
        action="store_true",
        help="start from the bundle itself: neither use nor write its prepared form",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    add_place_arguments(parser)
    add_adapter_argument(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue; - reads it from stdin")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="tokens to generate at most (default: until it ends)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="choose among the K most likely; 0 is off")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="choose among the likeliest that sum to P"
    )
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="drop below P times the likeliest")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1 repeats less")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer (default: the bundle's)")


def run(arguments: argparse.Namespace) -> int:
    """Print the text as it comes on stdout, then what it cost on stderr."""
    from edgepress.commands.prepare import prepare_first
    from edgepress.runtime import load
    from edgepress.text.documents import read_standard_input

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
    if arguments.adapter is not None:
        model = model.with_adapter(arguments.adapter)
    generation = model.generate(
        read_standard_input() if arguments.prompt == "-" else arguments.prompt.removeprefix("\ufeff"),
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop=arguments.stop,
    )
    for piece in generation:
        print(piece, end="", flush=True)
    print(flush=True)
    say(generation.statistics())
    return 0
