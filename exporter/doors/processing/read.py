"""From a checkpoint's files to the entries of its task: ``read_processing(folder, task)``.

transformers' own processors are opened, and what they say of themselves becomes data; then that data is followed on
samples and held against what they compute, so that a processor with a step of its own is refused, not passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.answers import read_answers
from edgepress.exporter.doors.processing.images import IMAGE_TASKS, read_images
from edgepress.exporter.doors.processing.sound import SOUND_TASKS, read_sound
from edgepress.exporter.doors.processing.text import TEXT_TASKS, read_text
from edgepress.exporter.doors.processing.timm import read_timm
from edgepress.schema import read_config_object
from edgepress.tasks.task import Task, check_task

_CONFIG = "name a folder with a checkpoint of transformers"


@dataclass(frozen=True)
class Processed:
    """A task with what stands before and behind its graph, and the files that the bundle takes along for it."""

    task: Task
    texts: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_processing(folder: Path, task: Task) -> Processed:
    """``task``, of which name and edges are known, with what the checkpoint in ``folder`` says of its processing.

    Raises:
        InputError: a file that the task needs is missing or damaged, a processor does something that a task cannot say,
            or labels and head disagree.

    """
    config = read_config_object(folder / "config.json", _CONFIG)
    if task.name in IMAGE_TASKS:
        of_timm = config.get("pretrained_cfg")
        images = read_timm(of_timm, task) if isinstance(of_timm, dict) else read_images(folder, task)
        task = replace(task, images=images)
    if task.name in SOUND_TASKS:
        task = replace(task, sound=read_sound(folder, task))
    answers, notes = read_answers(folder, config, task)
    texts: dict[str, Path] = {}
    if task.name in TEXT_TASKS:
        text = read_text(folder, config, task)
        task, texts[text.tokenizer] = replace(task, text=text), folder / text.tokenizer
    task = replace(task, answers=answers)
    try:
        check_task(task)
    except ValueError as error:
        raise InputError(
            f"{folder}: {error}; the processor's files and the model are of different checkpoints"
        ) from error
    return Processed(task, texts, notes)
