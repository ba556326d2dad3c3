"""What a checkpoint's config says of its outputs, as :class:`~edgepress.tasks.answers.Answers`."""

from collections.abc import Callable, Mapping

from edgepress.errors import InputError
from edgepress.tasks.answers import Answers, Classes, Labels, Scores
from edgepress.tasks.task import Edge, Task

Config = Mapping[str, object]
_SCORES: dict[object, Scores] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
_RIGHT = 0.5  # the score from which a label of several is told


def read_answers(config: Config, task: Task) -> Answers | None:
    """What the outputs of a model with this config mean for its task; None where nothing is known of the task.

    Raises:
        InputError: labels are missing, damaged or not as many as classes.

    """
    read = _READERS.get(task.name)
    return None if read is None else read(config, task)


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
    named = config.get("id2label")
    size = output.shape[-1]
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


def _classes(config: Config, task: Task) -> Answers:
    output = output_named(task, "logits")
    problem = config.get("problem_type")
    if problem not in (None, *_SCORES):
        raise InputError(f"config.json: problem_type is {problem!r}; it is one of {', '.join(map(str, _SCORES))}")
    labels = read_labels(config, output)
    scores = "none" if problem is None and len(labels) == 1 else _SCORES.get(problem, "softmax")
    threshold = _RIGHT if scores == "sigmoid" else None
    return Answers(classes=Classes(output=output.name, labels=labels, scores=scores, threshold=threshold))


_READERS: dict[str, Callable[[Config, Task], Answers]] = {
    "image-classification": _classes,
}
