"""What verbs that open a bundle share: where it runs, and opening it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.cores import usable_cores
from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime.model import Model
    from edgepress.runtime.tasks.kinds import TaskModel


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
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="compute threads (default: of a language model what `edgepress prepare` measured, else one for each "
        "usable core)",
    )
    parser.add_argument(
        "--no-prepare",
        action="store_true",
        help="start from the bundle itself: neither use nor write its prepared form",
    )


def open_language_model(arguments: argparse.Namespace) -> "Model":
    """The bundle as the arguments say, verified and prepared first, with bars."""
    from edgepress.commands.prepare import prepare_first
    from edgepress.runtime.model import load

    if arguments.threads is not None and arguments.threads > (cores := usable_cores()):
        say(f"{arguments.threads} threads wait for each other here: {cores} cores are usable; give as many threads")
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


def open_task(arguments: argparse.Namespace) -> "TaskModel":
    """A bundle that is no language model, as the arguments say."""
    from edgepress.runtime.loading import load_task

    return load_task(
        arguments.bundle,
        threads=arguments.threads,
        prepared=not arguments.no_prepare,
        on=arguments.on,
        soc=arguments.soc,
    )
