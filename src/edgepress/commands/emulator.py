"""``edgepress emulator``: bundles and models on emulated processors."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime.measures.counting import BundleCost
    from edgepress.runtime.measures.emulated import BundleComparison
    from edgepress.targets.emulator import Agreement, Installation, ModelComparison, ModelCost

NAME = "emulator"
HELP = "run a bundle or any ONNX model on emulated processors and compare with this machine"
_CPU, _X86_CPU = "cortex-a76", "Haswell-noTSX"
_ACTIONS = {
    "setup": "fetch, verify and unpack the emulator, without root",
    "cpus": "list the processors that it has",
    "run": "run on emulated processors and compare with this machine",
    "python": "run this very Python on an emulated x86-64 processor, by default one with AVX2 and no VNNI",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    setup, cpus, run, python = (
        actions.add_parser(name, help=said, description=said, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for name, said in _ACTIONS.items()
    )
    for action in (setup, cpus, run, python):
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
    setup.add_argument(
        "--mirror", metavar="URL", help="a Debian mirror (default: the one that this machine's apt uses)"
    )
    setup.add_argument("--system", action="store_true", help="fetch what --count-instructions needs, too")
    setup.add_argument(
        "--x86-root", action="store_true", help="fetch what is brought to x86-64 devices without Python, too"
    )
    _add_run_arguments(run)
    python.add_argument("--cpu", default=_X86_CPU, metavar="NAME", help="processor")
    python.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="Python's arguments, after --")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a bundle directory, or MODEL.onnx with --inputs")
    parser.add_argument(
        "--cpu", action="append", metavar="NAME", help=f"processor; may be given several times (default: {_CPU})"
    )
    bundle = parser.add_argument_group("a bundle")
    bundle.add_argument("--prompt", metavar="TEXT", help="text to continue, always taking the most likely token")
    bundle.add_argument("--max-tokens", type=int, default=32, metavar="N", help="tokens to generate at most")
    bundle.add_argument(
        "--text", type=Path, metavar="FILE", help="compare bits per byte on this, too (.jsonl or plain)"
    )
    bundle.add_argument(
        "--graph", metavar="FILE", help="what emulated processors run of its graphs (default: what is for them)"
    )
    model = parser.add_argument_group("a model")
    model.add_argument("--inputs", type=Path, metavar="FILE.npz", help="an array for each input, by its name")
    model.add_argument("--batch", type=int, metavar="N", help="rows that go into one run (default: all of them)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="compute threads, here and there")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="the most that one processor may take")
    parser.add_argument("--require", choices=("bit-equal", "same-text"), help="exit 1 when it is not so")
    parser.add_argument("--min-sqnr", type=float, metavar="DB", help="exit 1 when logits or outputs agree less")
    count = parser.add_argument_group("counting instructions (needs `setup --system`)")
    count.add_argument("--count-instructions", action="store_true", help="boot a machine that counts them")
    count.add_argument(
        "--context", type=int, nargs="+", metavar="N", help="of a bundle: decode a token after so many tokens"
    )
    count.add_argument(
        "--prefill", type=int, nargs="+", metavar="N", help="of a bundle: so many tokens at once, after each --context"
    )
    count.add_argument("--by-operator", action="store_true", help="split each of these calls by operator")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the action."""
    return {"setup": _setup, "cpus": _cpus, "run": _run, "python": _python}[arguments.action](arguments)


def _setup(arguments: argparse.Namespace) -> int:
    from edgepress.targets.emulator import setup, setup_system
    from edgepress.terminal.progress import progress

    found = setup(mirror=arguments.mirror, progress=progress, say=say)
    print(f"{found.directory}: {', '.join(f'{name} {version}' for name, version in found.versions.items())}")
    if arguments.system:
        system = setup_system(mirror=arguments.mirror, progress=progress, say=say)
        print(f"{system.directory}: {', '.join(f'{name} {version}' for name, version in system.versions.items())}")
    if arguments.x86_root:
        from edgepress.targets.emulator.roots import setup_x86_root

        print(f"{setup_x86_root(mirror=arguments.mirror, progress=progress, say=say).system}: for x86-64 devices")
    return 0


def _cpus(_arguments: argparse.Namespace) -> int:
    from edgepress.targets.emulator import CPUS, find, processors

    for name in processors(find()):
        print(f"{name:18} {CPUS.get(name, '')}".rstrip())
    return 0


def _python(arguments: argparse.Namespace) -> int:
    """Processes that the program starts run on this machine itself."""
    import subprocess

    from edgepress.errors import InputError
    from edgepress.targets.emulator import find
    from edgepress.targets.emulator.machine import check_cpu, is_x86_cpu, x86_python

    installation = find()
    check_cpu(installation, arguments.cpu)
    if not is_x86_cpu(installation, arguments.cpu):
        raise InputError(f"{arguments.cpu} is no x86-64 processor: this Python and its libraries do not run there")
    words = arguments.words[arguments.words[:1] == ["--"] :]
    return subprocess.run([*x86_python(installation, arguments.cpu), *words], check=False).returncode


def _run(arguments: argparse.Namespace) -> int:
    import itertools
    import json

    from edgepress.targets.emulator import find

    is_bundle = _check_usage(arguments)
    installation, cpus = find(), arguments.cpu or [_CPU]
    compares = not is_bundle or arguments.prompt is not None
    found = (_run_bundle if is_bundle else _run_model)(arguments, installation, cpus) if compares else []
    costs = _count(arguments, installation, cpus, is_bundle) if arguments.count_instructions else []
    if arguments.json:
        entries = [comparison.to_json() for comparison in found] or [{"cpu": cpu} for cpu in cpus]
        if arguments.count_instructions:
            for entry, cost in itertools.zip_longest(entries, costs):
                entry["instructions"] = None if cost is None else cost.to_json()
        print(json.dumps(entries, indent=2))
    else:
        print("\n".join(result.describe() for result in [*found, *costs]))
    broken = [line for comparison in found for line in _broken(arguments, comparison)]
    for line in broken:
        say(f"edgepress: {line}")
    return 1 if broken else 0


def _check_usage(arguments: argparse.Namespace) -> bool:
    """Whether it is a bundle; InputError where options do not go together."""
    from edgepress.errors import InputError

    arguments.model = _graph_of(arguments.model)
    model: Path = arguments.model
    is_bundle, calls = model.is_dir(), bool(arguments.context or arguments.prefill)
    kind = "a bundle" if is_bundle else "an ONNX model"
    if not model.exists():
        raise InputError(f"{model} is not there; give a bundle directory or an ONNX file")
    for name in ("inputs", "batch") if is_bundle else ("prompt", "text", "graph", "context", "prefill"):
        if getattr(arguments, name) is not None:
            raise InputError(f"{model} is {kind}, which takes no --{name}")
    if calls and not arguments.count_instructions:
        raise InputError("--context and --prefill say what is counted; give --count-instructions with them")
    if arguments.by_operator and not calls:
        raise InputError("--by-operator splits the calls of --context and --prefill; give one of them")
    if is_bundle and arguments.prompt is None and not calls:
        raise InputError(f"{model} is {kind}, which needs --prompt")
    compared = (arguments.text, arguments.require, arguments.min_sqnr)
    if is_bundle and arguments.prompt is None and any(value is not None for value in compared):
        raise InputError("nothing is compared without --prompt, which --text, --require and --min-sqnr are about")
    if not is_bundle and arguments.inputs is None:
        raise InputError(f"{model} is {kind}, which needs --inputs")
    if arguments.require == "same-text" and not is_bundle:
        raise InputError(f"{model} is {kind}, which has no text; --require bit-equal")
    return is_bundle


def _graph_of(model: Path) -> Path:
    """The graph of a bundle that is no language model, which is run as any model is; all else as it is."""
    from edgepress.runtime.graph_file.first_use import verify_first
    from edgepress.runtime.loading import GRAPH, find_task_of

    task = find_task_of(model) if model.is_dir() else None
    if task is None or task.sequences is not None:
        return model
    verify_first(model)
    return model / GRAPH


def _run_bundle(
    arguments: argparse.Namespace, installation: "Installation", cpus: Sequence[str]
) -> "Sequence[BundleComparison]":
    from edgepress.runtime import read_documents
    from edgepress.runtime.measures.emulated import compare_bundles

    return compare_bundles(
        installation,
        [arguments.model],
        cpus,
        prompt=arguments.prompt,
        max_tokens=arguments.max_tokens,
        documents=[] if arguments.text is None else read_documents(arguments.text),
        threads=arguments.threads,
        graph=arguments.graph,
        timeout=arguments.timeout,
    )


def _run_model(
    arguments: argparse.Namespace, installation: "Installation", cpus: Sequence[str]
) -> "Sequence[ModelComparison]":
    from edgepress.targets.emulator import compare_model, read_inputs

    return compare_model(
        installation,
        arguments.model,
        read_inputs(arguments.inputs),
        cpus,
        batch=arguments.batch,
        threads=arguments.threads,
        timeout=arguments.timeout,
    )


def _count(
    arguments: argparse.Namespace, installation: "Installation", cpus: Sequence[str], is_bundle: bool
) -> "Sequence[BundleCost | ModelCost]":
    """Costs, one for each processor; none, and why on stderr, when what counts them is not set up."""
    from edgepress.errors import InputError
    from edgepress.runtime.measures.counting import count_bundles
    from edgepress.targets.emulator import count_model, find_system, read_inputs

    try:
        system = find_system()
    except InputError as error:
        if is_bundle and arguments.prompt is None:  # nothing else was asked for
            raise
        say(f"instructions are not counted: {error}")
        return []
    if not is_bundle:
        inputs = read_inputs(arguments.inputs)
        return count_model(installation, system, arguments.model, inputs, cpus, timeout=arguments.timeout)
    return count_bundles(
        installation,
        system,
        [arguments.model],
        cpus,
        prompt=arguments.prompt,
        max_tokens=arguments.max_tokens,
        prefill=arguments.prefill or (),
        contexts=arguments.context or (),
        by_operator=arguments.by_operator,
        graph=arguments.graph,
        timeout=arguments.timeout,
    )


def _broken(arguments: argparse.Namespace, comparison: "BundleComparison | ModelComparison") -> list[str]:
    """Requirements that do not hold, one line each."""
    lines = []
    if arguments.require == "same-text" and not getattr(comparison, "same_text", True):
        lines.append(f"{comparison.cpu}: another text than on this machine")
    agreements: dict[str, Agreement] = comparison.agreements
    for name, agreement in agreements.items():
        if arguments.require == "bit-equal" and not agreement.bit_equal:
            lines.append(f"{comparison.cpu}: {name} is not bit-equal: {agreement.describe()}")
        elif arguments.min_sqnr is not None and agreement.sqnr_db < arguments.min_sqnr:
            lines.append(f"{comparison.cpu}: {name} is below {arguments.min_sqnr:g} dB: {agreement.describe()}")
    return lines
