"""A task that the user names: by its key, or as a JSON file of the entries that a manifest has under ``task``.

::

    {"name": "image-classification",
     "images": {"input": "x", "resize": {"fit": "stretch", "height": 32, "width": 32}, "scale": 0.00392156862745098},
     "answers": {"classes": {"output": "y", "labels": ["cat", "dog"]}}}
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.doors.heads import head_names
from edgepress.exporter.doors.processing.read import Processed, read_processing
from edgepress.schema import convert, read_object
from edgepress.tasks.answers import Answers
from edgepress.tasks.images import Images
from edgepress.tasks.sound import Sound
from edgepress.tasks.task import TENSORS, Edge, Task, check_task
from edgepress.tasks.text import Text

_REMEDY = "write a JSON object with name, images, sound, text and answers as a bundle's manifest has them"


@dataclass(frozen=True)
class _Entries:
    name: str
    images: Images | None = None
    sound: Sound | None = None
    text: Text | None = None
    answers: Answers | None = None


def task_of(
    named: str | Mapping[str, object] | None,
    inputs: tuple[Edge, ...],
    outputs: tuple[Edge, ...],
    folder: Path,
    *,
    said_by: str = "the task",
) -> Processed:
    """The task of a graph with these edges that lies in ``folder``.

    ``named`` is a JSON file of entries, these entries themselves, which ``said_by`` gives, or the task's key; then what
    a checkpoint's files say that lie beside the graph is taken, if there are any. None is ``tensors``. A note says of a
    key that nothing else is known of the task.

    Raises:
        InputError: the entries are not what they should be, or do not fit the edges.

    """
    if isinstance(named, Mapping):
        return _from_entries(dict(named), Path(said_by), Path(), inputs, outputs)
    if named is not None and Path(named).suffix.lower() == ".json":
        path = Path(named)
        return _from_entries(read_object(path, _REMEDY), path, path.parent, inputs, outputs)
    task = Task(named or TENSORS, inputs, outputs)
    if task.name == TENSORS:
        return Processed(task)
    if not (folder / "config.json").is_file():
        return Processed(task, notes=(_nothing_known(task.name),))
    return read_processing(folder, task)


def _nothing_known(name: str) -> str:
    near = [] if name in head_names() else difflib.get_close_matches(name, head_names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"{name}{hint} is a name alone: nothing says what becomes the inputs and what outputs mean, so the bundle "
        "takes and gives arrays; --task FILE.json says it (docs/tasks.md)"
    )


def _from_entries(
    content: dict[str, object], path: Path, folder: Path, inputs: tuple[Edge, ...], outputs: tuple[Edge, ...]
) -> Processed:
    """The task of these entries, which are those of ``path``; files that they name lie in ``folder``."""
    entries = convert(content, _Entries, path, _REMEDY)
    task = Task(
        entries.name, inputs, outputs, images=entries.images, sound=entries.sound, text=entries.text,
        answers=entries.answers,
    )  # fmt: skip
    unknown = next(_unknown(content, task.as_json(), ""), None)
    if unknown is not None:
        raise InputError(f"{path} has the entry {unknown}, which means nothing; {_REMEDY}")
    try:
        check_task(task)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    texts = {}
    if task.text is not None:
        texts[task.text.tokenizer] = folder / task.text.tokenizer
        if not texts[task.text.tokenizer].is_file():
            raise InputError(f"{path} names {task.text.tokenizer}, and there is none in {folder.resolve()}")
    return Processed(task, texts)


def _unknown(given: object, made: object, where: str) -> Iterator[str]:
    """Entries that were given and that nothing was made of; what is null may be left out."""
    if not isinstance(given, dict) or not isinstance(made, dict):
        return
    for key, value in given.items():
        place = f"{where}.{key}".lstrip(".")
        if key in made:
            yield from _unknown(value, made[key], place)
        elif value is not None:
            yield place
