"""What a checkpoint's config says of its outputs, as :class:`~edgepress.tasks.answers.Answers`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.sentences import read_embedding
from edgepress.exporter.doors.processing.text import open_tokenizer
from edgepress.schema import read_object
from edgepress.tasks.answers import (
    Answers,
    Blanks,
    Boxes,
    Classes,
    Depth,
    Labels,
    Matches,
    Scores,
    Segments,
    Spans,
    Transcript,
)
from edgepress.tasks.task import Edge, Task

Config = Mapping[str, object]
_SCORES: dict[object, Scores] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
_RIGHT = 0.5  # the score from which a label of several is told


def read_answers(folder: Path, config: Config, task: Task) -> tuple[Answers | None, tuple[str, ...]]:
    """What the outputs of a model with this config mean for its task, None where nothing is known of it; and notes.

    Raises:
        InputError: labels are missing, damaged or not as many as classes.

    """
    if task.name in _EMBEDDERS:
        embedding, notes = read_embedding(folder, task)
        return Answers(embedding=embedding), notes
    read = _READERS.get(task.name)
    return None if read is None else read(folder, config, task), ()


def output_named(task: Task, *names: str) -> Edge:
    """The output of the first of these names that there is, else the only output.

    Raises:
        InputError: there are several, none of a name that is known.

    """
    found = {edge.name: edge for edge in task.outputs}
    for name in names:
        if name in found:
            return found[name]
    if len(found) == 1:
        return task.outputs[0]
    raise InputError(f"{task.name} is answered from {' or '.join(names)}; the graph gives {', '.join(found)}")


def read_labels(config: Config, output: Edge) -> Labels:
    """The config's names of the classes of ``output``, by their numbers; ``LABEL_0`` and so on where it has none.

    Raises:
        InputError: the config's are no names of the numbers from 0, or not as many as the output has classes.

    """
    named, size = config.get("id2label"), output.shape[-1]
    of_timm = config.get("pretrained_cfg")
    names = {**of_timm, **config}.get("label_names") if isinstance(of_timm, dict) else None
    if isinstance(names, list):
        named = dict(enumerate(names))
    if named is None:
        if not isinstance(size, int):
            raise InputError(f"config.json has no id2label, and {output.name} any number of classes; add the labels")
        return tuple(f"LABEL_{index}" for index in range(size))
    if not isinstance(named, dict) or not all(str(key).isdecimal() for key in named):
        raise InputError("config.json: id2label is no object from numbers to names")
    labels = {int(key): str(name) for key, name in named.items()}
    missing = next((index for index in range(len(labels)) if index not in labels), None)
    if missing is not None:
        raise InputError(f"config.json: id2label has {len(labels):,} names, and none for class {missing:,}")
    if isinstance(size, int) and size != len(labels):
        raise InputError(
            f"config.json: id2label has {len(labels):,} names, and the model's output {output.name} {size:,} classes; "
            "config and weights are of different checkpoints"
        )
    return tuple(labels[index] for index in range(len(labels)))


def _classes(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    output = output_named(task, "logits")
    problem = config.get("problem_type")
    if problem not in (None, *_SCORES):
        raise InputError(f"config.json: problem_type is {problem!r}; it is one of {', '.join(map(str, _SCORES))}")
    labels = read_labels(config, output)
    scores = "none" if problem is None and len(labels) == 1 else _SCORES.get(problem, "softmax")
    threshold = _RIGHT if scores == "sigmoid" else None
    return Answers(classes=Classes(output=output.name, labels=labels, scores=scores, threshold=threshold))


def _spans(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    output = output_named(task, "logits")
    return Answers(spans=Spans(output=output.name, labels=read_labels(config, output)))


def _blanks(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    entry = read_object(folder / "tokenizer_config.json", "save the tokenizer again").get("mask_token")
    written = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(written, str):
        raise InputError(f"{folder}: its tokenizer_config.json names no mask_token, which fill-mask needs; add it")
    library = open_tokenizer(folder)
    number = library.token_to_id(written)
    if number is None:
        raise InputError(f"{folder}: the mask token {written!r} is not in its tokenizer.json; save the tokenizer again")
    return Answers(blanks=Blanks(output=output_named(task, "logits").name, mask=number, written=written))


def _transcript(folder: Path, config: Config, task: Task) -> Answers:
    output = output_named(task, "logits")
    vocabulary = read_object(folder / "vocab.json", "copy it from where the model came from")
    numbers = {number: token for token, number in vocabulary.items() if isinstance(number, int)}
    said = read_object(folder / "tokenizer_config.json", "save the tokenizer again")
    size = output.shape[-1]
    tokens = tuple(numbers.get(index, "") for index in range(size if isinstance(size, int) else max(numbers) + 1))
    blank = config.get("pad_token_id")
    if not isinstance(blank, int) or not 0 <= blank < len(tokens):
        raise InputError(f"config.json: pad_token_id is {blank!r}; it is the blank of CTC, 0 to {len(tokens) - 1}")
    space, lower = said.get("word_delimiter_token"), said.get("do_lower_case")
    return Answers(
        transcript=Transcript(
            output=output.name,
            vocabulary=tokens,
            blank=blank,
            space=space if isinstance(space, str) else "|",
            lower=lower is True,
            hop=_hop(folder),
        )
    )


def _hop(folder: Path) -> int | None:
    """Samples between one frame and the next, as transformers knows them of a model's convolutions."""
    from transformers import AutoConfig

    hop = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), "inputs_to_logits_ratio", None)
    return hop if type(hop) is int and hop > 0 else None


def _boxes(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    output, boxes = output_named(task, "logits"), output_named(task, "pred_boxes")
    size = output.shape[-1]
    known = config.get("id2label")
    of_none = isinstance(size, int) and isinstance(known, dict) and size == len(known) + 1
    classes = replace(output, shape=(*output.shape[:-1], size - 1)) if of_none and isinstance(size, int) else output
    labels = read_labels(config, classes)
    scores: Literal["softmax", "sigmoid"] = "softmax" if of_none else "sigmoid"
    return Answers(boxes=Boxes(output=output.name, boxes=boxes.name, labels=labels, scores=scores))


def _segments(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    output = output_named(task, "logits")
    if len(output.shape) != 4:
        raise InputError(
            f"{task.name} is answered from {output.name}, which has {len(output.shape)} axes and no map of each class; "
            "export the model as a torch module or an ONNX file and give arrays to run()"
        )
    labels = read_labels(config, replace(output, shape=output.shape[:2]))
    return Answers(segments=Segments(output=output.name, labels=labels))


def _depth(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    return Answers(depth=Depth(output=output_named(task, "predicted_depth").name))


def _matches(folder: Path, config: Config, task: Task) -> Answers:  # noqa: ARG001 - one of _READERS
    scores: Literal["softmax", "sigmoid"] = (
        "sigmoid" if str(config.get("model_type")).startswith("siglip") else "softmax"
    )
    return Answers(matches=Matches(output=output_named(task, "logits_per_image").name, scores=scores))


_EMBEDDERS = frozenset({"feature-extraction", "image-feature-extraction", "sentence-similarity"})
_READERS: dict[str, Callable[[Path, Config, Task], Answers]] = {
    "image-classification": _classes,
    "text-classification": _classes,
    "token-classification": _spans,
    "fill-mask": _blanks,
    "audio-classification": _classes,
    "automatic-speech-recognition": _transcript,
    "object-detection": _boxes,
    "semantic-segmentation": _segments,
    "depth-estimation": _depth,
    "zero-shot-image-classification": _matches,
}
