"""``edgepress run`` of a bundle that is no language model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.commands.common.generating import beam_settings
from edgepress.commands.common.opening import open_task

if TYPE_CHECKING:
    from edgepress.runtime.sequences.speech import SpeechModel
    from edgepress.runtime.tasks.kinds import TaskModel

OF_SPEECH = ["language", "translate", "times", "fallback"]
OF_TASKS = ["labels", *OF_SPEECH, "json", "inputs", "outputs"]


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


def run_task(arguments: argparse.Namespace) -> int:
    """Run a bundle that is no language model: on arrays, on files that its task takes, or on a text."""
    from edgepress.errors import InputError
    from edgepress.runtime.sequences.model import SequenceModel
    from edgepress.runtime.sequences.speech import SpeechModel
    from edgepress.runtime.tasks.zero_shot_image_classification import ZeroShotClassifier

    model = open_task(arguments)
    names = ["adapter", "graph", "context", "stop", "prompts"]
    names += [] if model.task.sequences is not None else ["max_tokens", "beams"]
    names += [] if model.feeder.takes == "text" else ["prompt"]
    names += [] if isinstance(model, SpeechModel) else OF_SPEECH
    names += [] if isinstance(model, ZeroShotClassifier) else ["labels"]
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]:
        raise InputError(
            f"{arguments.bundle} is for {model.task.name}, so there is nothing for {given[0]}; leave it out, and give "
            f"{model.takes}"
        )
    _check_arrays(arguments)
    beams = beam_settings(arguments)
    if isinstance(model, SpeechModel):
        _ask(model, arguments)
    if arguments.inputs is not None:
        return _run_arrays(model, arguments)
    samples = _samples(model, arguments)
    if not samples:
        raise InputError(f"{arguments.bundle} is for {model.task.name}; give {model.takes}, or --inputs FILE.npz")
    if isinstance(model, SequenceModel):
        longest = {} if arguments.max_tokens is None else {"max_tokens": arguments.max_tokens}
        model.settings.update({**longest, **beams})  # type: ignore[typeddict-item] # its own names
    return _answer(model, samples, as_json=arguments.json)


def _check_arrays(arguments: argparse.Namespace) -> None:
    """Raise InputError for what does not go with arrays: they go into the graph and come out as they are."""
    from edgepress.errors import InputError

    if arguments.inputs is None:
        if arguments.outputs is not None:
            raise InputError("--outputs is for what arrays give; give them by --inputs FILE.npz, or leave it out")
        return
    if arguments.json:
        raise InputError("--json is for answers, and --inputs gives arrays; --outputs FILE.npz has them whole")
    others = ("files", "prompt", "labels", *OF_SPEECH, "max_tokens", "beams")
    if given := [name for name in others if getattr(arguments, name)]:
        what = "files" if given[0] == "files" else f"--{given[0].replace('_', '-')}"
        raise InputError(f"--inputs are arrays for the graph, and there is nothing for {what}; give one of the two")


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

    from edgepress.disk.files import atomic_file
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
