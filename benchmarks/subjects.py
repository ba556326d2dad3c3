"""The models that benchmarks of accuracy measure, the texts that go with them, and jobs that measure one.

stories260k and tiny1m are scored on the TinyStories documents that their figures are known for and calibrated on 1,000
other stories, the demo model on the last tenth of tinyshakespeare and calibrated on the rest, which it was trained on.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from accuracy_tables import Sample
from common import ROOT, WORK, host
from numpy.typing import NDArray

from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import LogitsSource, read_documents

HELD_OUT = 0.1  # of tinyshakespeare, from its end
STORIES = 200  # documents of each TinyStories file
PARAGRAPHS = {"stories260k": ("newline", "\n"), "tiny1m": ("blank", "\n\n")}  # as each model was trained
MODELS = (*PARAGRAPHS, "demo")
CONTEXT, STRIDE = 256, 128


class Remembered:
    """A reference that computes each window once, however many models are held against it."""

    def __init__(self, source: LogitsSource) -> None:
        self._source = source
        self._found: dict[bytes, NDArray[np.float32]] = {}

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,)."""
        key = tokens.tobytes()
        if key not in self._found:
            self._found[key] = self._source.logits(tokens)
        return self._found[key]


@dataclass(frozen=True)
class Subject:
    """A model, the text that it is scored on and another that it is calibrated on."""

    name: str
    model: str
    texts: list[str]
    calibration: str
    suffix: str
    checkpoint: Checkpoint
    reference: Remembered


@cache  # each process measures a model with many recipes
def make_subject(name: str, data: Path, share: float) -> Subject:
    """Read a model's texts; ``share`` of the held-out one is scored."""
    stories, shakespeare = data / "text" / "tinystories", data / "text" / "tinyshakespeare" / "input.txt"
    if name == "demo":
        text = shakespeare.read_text(encoding="utf-8")
        cut = int(len(text) * (1 - HELD_OUT))
        texts, calibration, suffix = [text[cut : cut + math.ceil(share * (len(text) - cut))]], text[:cut], ".txt"
    else:
        kind, paragraph = PARAGRAPHS[name]
        held_out = read_documents(stories / f"stories_heldout_{kind}.jsonl")
        texts, suffix = held_out[: math.ceil(share * len(held_out))], ".jsonl"
        training = json.loads((stories / "tinystories_1000.json").read_text(encoding="utf-8"))
        calibration = "\n".join(json.dumps({"text": story.replace("\n\n", paragraph)}) for story in training)
    model = "demo" if name == "demo" else str(data / "models" / name)
    directory = resolve_model(model)
    return Subject(
        name, model, texts, calibration, suffix, Checkpoint.open(directory), Remembered(Reference(directory))
    )


@dataclass(frozen=True)
class Measure:
    """A :class:`~spread.Job`: ``take`` measures a model, stored as ``how`` says, in an empty folder.

    ``how`` is a name or has one; ``share`` of the held-out text is scored.
    """

    model: str
    data: Path
    share: float
    how: Any
    take: Callable[[Subject, Path, Any], list[Sample]]

    @property
    def key(self) -> str:
        """Model, what stores it, and how much of the text it is scored on."""
        return f"{self.model}: {getattr(self.how, 'name', self.how)}; {self.share:g} of the text"

    def __call__(self) -> list[Sample]:
        """Measure."""
        torch.set_num_threads(1)  # on models this small a second thread costs more than it brings
        subject = make_subject(self.model, self.data, self.share)
        with TemporaryDirectory(dir=WORK, prefix="measure-") as name:
            return self.take(subject, Path(name), self.how)


def earlier(path: Path, models: Sequence[str], *, whole: bool, again: Sequence[str] = ()) -> list[Sample]:
    """Samples of ``path`` that a run of ``models`` leaves: those of other models, and unless ``whole`` all of them.

    ``again`` names tools whose samples this run takes anew, all of them. Figures of other versions cannot stand beside
    this run's: that ends it before it begins. Our own version matters to our own samples alone.
    """
    if not path.is_file():
        return []
    header, *samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    taken_on = header["host"]
    known = {"cpu": taken_on["cpu"], "commit": taken_on.get("commit")}
    left = [
        found for found in samples if found["model"] not in models or (not whole and found.get("tool") not in again)
    ]
    kept = [{**known, **found} for found in left]
    ours = any(found.get("tool", "edgepress") == "edgepress" for found in kept)
    then, now = dict(taken_on["versions"]), dict(cast("dict[str, str]", host()["versions"]))
    if not ours:
        for versions in (then, now):
            versions.pop("edgepress", None)
    if kept and then != now:
        sys.exit(f"{path} has samples of {then}, and here are {now}: measure all models and methods")
    return kept


def merge(kept: Sequence[Sample], found: Sequence[Sample]) -> list[Sample]:
    """Put ``found`` in the place of what ``kept`` has under the same names; models in their order."""
    named = {(one["model"], one["tool"], one["name"]): one for one in (*kept, *found)}
    return sorted(named.values(), key=lambda one: MODELS.index(one["model"]))


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, the folder with models/ and text/; ``EDGEPRESS_DATA`` is its default."""

    def folder(word: str) -> Path:
        path = Path(word)
        if not path.is_dir():
            parser.error(f"{path} is absent; name the folder with models/ and text/ by --data")
        return path.absolute()

    default = os.environ.get("EDGEPRESS_DATA", str(ROOT.parent / "shared/data"))
    parser.add_argument("--data", type=folder, default=default)
