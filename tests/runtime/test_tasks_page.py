"""docs/tasks.md says of every task what there is."""

import dataclasses
import json

import numpy as np
from pages import ROOT

from edgepress.processing.scores import Label
from edgepress.runtime.tasks.automatic_speech_recognition import Transcription, Word
from edgepress.runtime.tasks.common.shown import to_json, to_text
from edgepress.runtime.tasks.kinds import find_task, task_names

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_page_has_every_task_and_its_methods() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name in task_names():
        (row,) = (row for row in rows if f"`{name}`" in row.split("|")[1])
        methods = [part.split("(")[0] for part in row.split("`.")[1:]]
        assert methods
        assert all(callable(getattr(find_task(name).opens, method)) for method in methods)


def test_answers_are_json_and_text() -> None:
    labels = (Label("cat", 0.75, 3), Label("dog", 0.25, 1))
    assert json.loads(json.dumps(to_json(labels))) == [dataclasses.asdict(label) for label in labels]
    assert to_text(labels).splitlines()[2:] == ["cat    0.7500      3", "dog    0.2500      1"]
    said = Transcription("a b", (Word("a", 0.0, 0.5), Word("b", 1.0, 1.5)))
    assert to_json(said)["words"][1] == {"text": "b", "start": 1.0, "end": 1.5}
    assert to_text(said).startswith("text: a b\nwords\n")
    assert to_json(np.arange(2.0)) == [0.0, 1.0]
    assert to_json({"map": np.zeros((3, 4), np.uint8)}) == {"map": {"shape": [3, 4], "type": "uint8"}}
    assert to_text(np.arange(9.0)) == "float64 (9,): 0 1 2 3 4 5 6 7 …"
    assert to_text(()) == "nothing"
    assert to_json((np.float32(0.5), None)) == [0.5, None]
