"""``edgepress bench``: measure a bundle on this machine."""

import argparse
import os
from pathlib import Path

from edgepress.commands.common.opening import add_loading_arguments, add_place_arguments

NAME = "bench"
HELP = "measure a bundle on this machine: load, prefill, decode, memory, energy; of an ONNX file's: load, run, memory"

_DEFAULTS = {"decode_tokens": 64, "repetitions": 5, "warmup": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    add_place_arguments(parser)
    parser.add_argument(
        "--prompt-lengths", type=int, nargs="+", metavar="N", help="tokens to prefill (default: 64 256, if they fit)"
    )
    parser.add_argument(
        "--decode-tokens",
        type=int,
        default=_DEFAULTS["decode_tokens"],
        metavar="N",
        help="tokens to decode in each turn",
    )
    parser.add_argument(
        "--repetitions", type=int, default=_DEFAULTS["repetitions"], metavar="N", help="turns of each measurement"
    )
    parser.add_argument(
        "--warmup", type=int, default=_DEFAULTS["warmup"], metavar="N", help="turns before them, kept apart"
    )
    parser.add_argument("--prefill-chunk", type=int, metavar="N", help="prompt tokens computed at once")
    parser.add_argument("--energy", nargs="+", metavar="SOURCE", help="energy counters (default: all that are here)")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="of a bundle that is no language model: an .npz file with an array for each input (default: made up)",
    )
    parser.add_argument("--json", action="store_true", help="print every sample, host and version as JSON")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="",
        metavar="FILE",
        help="show in the place of averages where the time goes, by operator and layer, and what this machine's "
        "memory and cores reach alone; with FILE as pictures, too (a page of HTML)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, then print averages or, with ``--json``, everything."""
    import json

    from edgepress.commands.prepare import prepare_first
    from edgepress.errors import InputError
    from edgepress.runtime.measures.bench import (
        bench,
        bench_turns,
        default_prompt_lengths,
        format_measurement,
    )
    from edgepress.runtime.measures.bench_graph import is_language_model
    from edgepress.terminal.progress import progress

    if arguments.profile is not None:
        return _run_profile(arguments)
    if not is_language_model(arguments.bundle):
        return _run_graph(arguments)
    if arguments.inputs is not None:
        raise InputError(f"{arguments.bundle} is a language model, so there is nothing for --inputs; leave it out")
    place = {"on": arguments.on, "soc": arguments.soc, "graph": arguments.graph}
    prepare_first(arguments.bundle, not arguments.no_prepare and arguments.on in (None, "cpu"), arguments.graph)
    lengths = arguments.prompt_lengths
    if lengths is None:
        lengths = default_prompt_lengths(arguments.bundle, arguments.decode_tokens, **place)
    with progress(bench_turns(lengths, arguments.repetitions, arguments.warmup), "measuring", " turns") as advance:
        measurement = bench(
            arguments.bundle,
            prompt_lengths=lengths,
            decode_tokens=arguments.decode_tokens,
            repetitions=arguments.repetitions,
            warmup=arguments.warmup,
            threads=arguments.threads,
            prefill_chunk=arguments.prefill_chunk,
            prepared=not arguments.no_prepare,
            energy=arguments.energy,
            progress=advance,
            **place,
        )
    print(json.dumps(measurement.to_json(), indent=2) if arguments.json else format_measurement(measurement))
    return 0


def _run_profile(arguments: argparse.Namespace) -> int:
    """Show where the time goes."""
    from edgepress.errors import InputError
    from edgepress.runtime.profile.breakdown import break_down
    from edgepress.terminal.stdio import say

    given = [name for name in ("on", "soc", "energy", "inputs", "json") if getattr(arguments, name)]
    given += [] if arguments.prefill_chunk is None else ["prefill_chunk"]
    given += [name for name, default in _DEFAULTS.items() if getattr(arguments, name) != default]
    if given:
        option = given[0].replace("_", "-")
        raise InputError(f"--{option} is nothing for bench --profile; `edgepress profile` measures everything")
    html = Path(arguments.profile) if arguments.profile else None
    if html is not None and html.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"--profile writes a page of HTML, and {html} does not end with .html; name it so")
    if html is not None and not os.access(html.parent, os.W_OK):
        raise InputError(f"--profile cannot write {html}: {html.parent} is no folder that you may write into")
    found = break_down(
        arguments.bundle,
        threads=arguments.threads,
        prompt_lengths=arguments.prompt_lengths,
        graph=arguments.graph,
        prepared=not arguments.no_prepare,
        html=html,
        told=say,
    )
    print(found)
    if html is not None:
        say(f"{html}: written")
    return 0


def _run_graph(arguments: argparse.Namespace) -> int:
    """Measure a bundle that is no language model."""
    import json

    from edgepress.errors import InputError
    from edgepress.runtime.graph_file.first_use import verify_first
    from edgepress.runtime.loading import find_task_of
    from edgepress.runtime.measures.bench_graph import bench_graph, format_graph_measurement
    from edgepress.terminal.progress import progress

    task = find_task_of(arguments.bundle)
    if task is not None and task.sequences is not None:
        return _run_sequences(arguments)
    names = ("graph", "prompt_lengths", "prefill_chunk", "energy")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]:
        raise InputError(f"{arguments.bundle} is no language model, so there is nothing for {given[0]}; leave it out")
    verify_first(arguments.bundle, progress)
    found = bench_graph(
        arguments.bundle,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        threads=arguments.threads,
        inputs=arguments.inputs,
        prepared=not arguments.no_prepare,
        on=arguments.on,
        soc=arguments.soc,
    )
    print(json.dumps(found.to_json(), indent=2) if arguments.json else format_graph_measurement(found))
    return 0


def _run_sequences(arguments: argparse.Namespace) -> int:
    """Measure a bundle of an encoder and a decoder: ``--prompt-lengths`` is that of the source."""
    import json

    from edgepress.errors import InputError
    from edgepress.runtime.graph_file.first_use import verify_first
    from edgepress.runtime.sequences.bench import bench_sequences, format_sequence_measurement
    from edgepress.terminal.progress import progress

    names = ("graph", "prefill_chunk", "energy")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]:
        raise InputError(f"{arguments.bundle} has an encoder and a decoder, and nothing for {given[0]}; leave it out")
    lengths = arguments.prompt_lengths or [None]
    if len(lengths) > 1:
        raise InputError(f"--prompt-lengths is one length here, that of a source, and there are {len(lengths)}")
    verify_first(arguments.bundle, progress)
    found = bench_sequences(
        arguments.bundle,
        source=lengths[0],
        tokens=arguments.decode_tokens,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        threads=arguments.threads,
        on=arguments.on,
        soc=arguments.soc,
    )
    print(json.dumps(found.to_json(), indent=2) if arguments.json else format_sequence_measurement(found))
    return 0
