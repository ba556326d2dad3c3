"""A Hugging Face checkpoint of any task but generating text: the class that its config names, as a float32 graph.

Weights are read from safetensors alone, and no code of the checkpoint is run. The task is the one whose classes have
the model's (see :mod:`edgepress.exporter.doors.heads`), or the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.exporter.doors.bounds import AxesFixedError, ValuesDecideError, bounded
from edgepress.exporter.doors.comparing.agreement import check_agreement
from edgepress.exporter.doors.feeds import Feeds
from edgepress.exporter.doors.heads import Head, class_named, find_head, head_of, without_head
from edgepress.exporter.doors.inputs import BY_HAND, Given, feeds_of, given_inputs, ways
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.pooling import MODULES, embedder, transformer_folder
from edgepress.exporter.doors.processing import entries as named
from edgepress.exporter.doors.processing.read import Processed, read_processing
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.doors.tracing import Tracing, trace
from edgepress.exporter.source.hub import find_whole, read_config
from edgepress.exporter.source.layout import CONFIG, INDEX, SINGLE
from edgepress.schema import read_config_object
from edgepress.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

EMBEDDINGS = "sentence-similarity"
_COPY = "copy it again from where the checkpoint came from"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
_POOLER = "pooler"  # what a model without a head is often stored without
_GENERATES = (  # ends of the names of classes that make text, sound or images a step at a time
    "ForCausalLM",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForConditionalGeneration",
    "ForPreTraining",
    "ForSpeechSeq2Seq",
    "ForSpeechToText",
    "ForTextToSpeech",
    "ForTextToText",
    "ForTextToWaveform",
    "ForImageTextToText",
    "MTModel",
)
_GUESSES = "WithLMHeadModel"  # XLM's and Flaubert's head, for words that are masked


def _traced(
    head: Head, called: torch.nn.Module, inputs: Mapping[str, Given], folder: Path, workspace: Path
) -> tuple[Tracing, Path, Task, Feeds]:
    """The graph of a model with these inputs, what it was made from, and feeds of sizes that it may have."""
    feeds = feeds_of(inputs)
    tracing = Tracing(
        module=called,
        inputs=_tensors(next(feeds(0))),
        where=f"{folder} ({type(called).__name__})",
        axes={name: given.axes for name, given in inputs.items()},
        outputs=_kept(head, type(called).__name__),
        inner="model." if head.name == EMBEDDINGS else "",
    )
    graph = trace(tracing, head.name, workspace)
    return tracing, graph.file, *bounded(graph, tracing.compute, feeds, tracing.where)


def _traced_somehow(
    head: Head, called: torch.nn.Module, inputs: Mapping[str, Given], folder: Path, workspace: Path
) -> tuple[tuple[Tracing, Path, Task, Feeds], str]:
    """The graph with as many free axes as the model's code allows, and what is said of those that it does not.

    Raises:
        InputError: it has none even where no axis is free, and why.

    """
    *free, (fixed, how_fixed) = ways(inputs)
    for given, how in free:
        with suppress(AxesFixedError, ValuesDecideError):
            return _traced(head, called, given, folder, workspace), how
    return _traced(head, called, fixed, folder, workspace), how_fixed


def recognizes(reference: str) -> bool:
    """Whether a folder or repository is named whose config names a class of a task, and none that generates text.

    A folder with what sentence-transformers does after a model is one too, whatever the model.
    """
    config = read_config(reference, None)
    if config is None:
        return False
    named = class_named(config)
    if (Path(reference) / MODULES).is_file():
        return True
    generates = named.endswith(_GENERATES) and not named.endswith(_GUESSES)
    if named == "" or generates or (_has_decoder(config) and named.endswith("Model")):
        return False
    if config.get("vision_config") is None and config.get("audio_config") is None:
        return True
    head = head_of(config)  # of language models that see, none that looks at texts and images for another task
    return head is not None and head.name != "feature-extraction"


def _has_decoder(config: Mapping[str, object]) -> bool:
    """Whether a model without a head writes a sequence; EncoderModel does not, and a detector's decoder has queries."""
    detects = any(find_head("object-detection").classes(str(config.get("model_type"))))
    return config.get("is_encoder_decoder") is True and not detects and not class_named(config).endswith("EncoderModel")


def open_checkpoint(reference: str, options: Options, workspace: Path) -> Traced:
    """The model for a task, the one asked for or that which its config's class has, as a graph in ``workspace``.

    Raises:
        InputError: no task has its class, a file is missing or damaged, weights are not those of the class, or it
            cannot be written as ONNX.
        CheckFailed: the graph does not compute what the model computes.

    """
    folder, origin = find_whole(reference, options.revision)
    config = read_config_object(folder / CONFIG, _COPY)
    entries = options.task if options.task is not None and options.task.lower().endswith(".json") else None
    head, why = task_of(folder, config, options.task if entries is None else None)
    _refuse_without_its_head(folder, config, head)
    own = transformer_folder(folder) if head.name == EMBEDDINGS else folder
    module, notes = _load(own, config if own == folder else read_config_object(own / CONFIG, _COPY), head)
    if head.name == "feature-extraction":
        head = without_head(str(module.main_input_name))
    inputs = given_inputs(head, module, folder)
    called = embedder(module, folder) if head.name == EMBEDDINGS else module
    (tracing, path, task, examples), how = _traced_somehow(head, called, inputs, folder, workspace)
    notes += filter(None, (how,))
    processed = (
        _processed(folder, task) if entries is None else named.task_of(entries, task.inputs, task.outputs, folder)
    )
    traced = Traced(
        file=path,
        model_type=str(config["model_type"]),
        task=processed.task,
        examples=examples,
        compute=tracing.compute,
        exact=tracing.exact,
        texts=processed.texts,
        source={file.name: sha256_file(file) for file in _files(own)},
        notes=(
            *(() if origin is None else (f"{origin.repository} at commit {origin.commit}",)),
            f"read as {type(module).__name__} for {head.name}, {why}",
            *notes,
            *processed.notes,
        ),
    )
    return check_agreement(traced).of(traced)


def task_of(folder: Path, config: Mapping[str, object], task: str | None) -> tuple[Head, str]:
    """The task of a checkpoint, and why it is that one.

    Raises:
        InputError: the task that is asked for is not known, or none has the class that the config names.

    """
    if task is not None:
        return find_head(task, config), "as asked"
    if (folder / MODULES).is_file():
        return find_head(EMBEDDINGS), f"as {MODULES} is that of an embedding model"
    named = class_named(config)
    head = head_of(config)
    if head is None:
        raise InputError(
            f"{folder}: no task is known for {named or 'a config without architectures'} of the type "
            f"{config.get('model_type')}; name one with --task"
        )
    return head, f"as {CONFIG} names {named}"


def _refuse_without_its_head(folder: Path, config: Mapping[str, object], head: Head) -> None:
    """Refuse features of a class that has a task of its own, as one that looks at texts and images together has."""
    name, own = class_named(config), head_of(config)
    if not head.name.endswith("feature-extraction") or own is None or own.name.endswith("feature-extraction"):
        return
    if name in head.classes(str(config.get("model_type"))):
        raise InputError(
            f"{folder}: {name} is for {own.name}, and has no outputs for {head.name}; name --task {own.name}, whose "
            f"outputs are {', '.join(own.outputs)} where the class has them"
        )


def _load(folder: Path, config: Mapping[str, object], head: Head) -> tuple[torch.nn.Module, list[str]]:
    """The model in float32 with its weights, and what is to be said of them."""
    import transformers

    if "auto_map" in config and config.get("model_type") not in _known_types():
        raise InputError(
            f"{folder}: its config names Python code of its own (auto_map), which is not run; where you trust it, "
            f"{BY_HAND}"
        )
    name = head.class_name(config)
    kind: Any = None if name is None else getattr(transformers, name, None)
    if kind is None:
        raise InputError(
            f"{folder}: transformers {transformers.__version__} has no class of the type {config.get('model_type')} "
            f"for {head.name}; take another task, or {BY_HAND}"
        )
    if not (folder / SINGLE).is_file() and not (folder / INDEX).is_file():
        if graph := min((*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")), default=None):
            raise InputError(
                f"{folder} has no {SINGLE}, and it has {graph.relative_to(folder)}: `edgepress export {graph} "
                f"--task {head.name}` takes that"
            )
        raise InputError(
            f"{folder} has no {SINGLE}; weights in other formats run code when they are read: convert them with "
            "safetensors (model.save_pretrained does, in a place that you trust)"
        )
    try:
        with _quiet():
            model, found = kind.from_pretrained(
                str(folder),
                dtype="float32",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **_traceable(kind),
            )
    except Exception as error:  # what transformers raises on a checkpoint that it does not understand is of any kind
        raise InputError(f"{folder} cannot be opened as {name}: {type(error).__name__}: {error}") from error
    return _without_new_weights(folder, model.eval(), found, head)


def _traceable(kind: Any) -> dict[str, str]:
    """What has the class compute experts in operators that ONNX has: their weights gathered for each token."""
    return {"experts_implementation": "batched_mm"} if kind._can_set_experts_implementation() else {}


def _without_new_weights(
    folder: Path, model: Any, found: Mapping[str, Any], head: Head
) -> tuple[torch.nn.Module, list[str]]:
    """Refuse weights that the checkpoint has not: transformers makes them up. A pooler is left out instead."""
    missing = sorted(str(name) for name in found["missing_keys"])
    notes = []
    if missing and all(_POOLER in name.split(".") for name in missing):
        model.pooler = None
        notes.append("its pooler has no weights in the checkpoint, and is left out")
    elif missing:
        raise InputError(
            f"{folder} has no {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which "
            f"{type(model).__name__} needs for {head.name}; name the task that it was trained for with --task"
        )
    wrong = found["mismatched_keys"]
    if wrong:
        raise InputError(f"{folder}: {sorted(map(str, wrong))[0]} is of another shape than its config says; {_COPY}")
    unused = sorted(str(name) for name in found["unexpected_keys"])
    if unused:
        notes.append(f"{len(unused)} weights are not used for {head.name}, {unused[0]} among them")
    return model, notes


def _known_types() -> Mapping[str, object]:
    import transformers

    known: Mapping[str, object] = transformers.CONFIG_MAPPING
    return known


def _kept(head: Head, name: str) -> Callable[[object], Mapping[str, torch.Tensor]]:
    """The outputs of a model that its task is after, by name."""

    def outputs(result: Any) -> Mapping[str, torch.Tensor]:
        found = {one: result[one] for one in head.outputs if result.get(one) is not None}
        if not found and len(head.outputs) == len(result) == 1:  # under another name, as some classes have logits
            found = {head.outputs[0]: next(iter(result.values()))}
        if not found:
            raise InputError(
                f"{name} gives {', '.join(result)}, and {head.name} is after {', '.join(head.outputs)}; {BY_HAND}"
            )
        return found

    return outputs


def _tensors(feed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(array) for name, array in feed.items()}


def _processed(folder: Path, task: Task) -> Processed:
    """The task with its processing; of a folder without any files of a processor, arrays go in and come out."""
    if any((folder / name).is_file() for name in _PROCESSORS):
        return read_processing(folder, task)
    return Processed(
        task, notes=(f"there are no files of a processor ({', '.join(_PROCESSORS[:3])}): it takes arrays alone",)
    )


def _files(folder: Path) -> list[Path]:
    """The files that the model was read from."""
    return [folder / CONFIG, *sorted(folder.glob("*.safetensors"))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of weights that it made up, which is an error here, and its progress bars."""
    from transformers.utils import logging

    its: Any = logging
    before, bars = its.get_verbosity(), its.is_progress_bar_enabled()
    its.set_verbosity(its.CRITICAL)
    its.disable_progress_bar()
    try:
        yield
    finally:
        its.set_verbosity(before)
        if bars:
            its.enable_progress_bar()


DOOR = Door("checkpoint", "a checkpoint of transformers for any task but generating text", recognizes, open_checkpoint)
