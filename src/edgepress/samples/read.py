"""Samples from wherever they come: ``read_samples(source, takes)``; and inputs of them: ``feeds_of(samples, feeder)``.

A source is a folder, a table, JSON lines, arrays, a saved dataset (``forms/``), or ``package.module:callable``, which
gives samples, or pairs of a sample and its label.
"""

import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.processing.feeder import Feed, Feeder, Takes
from edgepress.processing.waves import LEAST_RATE
from edgepress.samples import forms
from edgepress.samples.sample import MOST, Form, Sample, Samples, of_list, plain

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
FEWEST = 8
"""Samples from which ranges are taken at least."""


def read_samples(source: str | Path, takes: Takes) -> Samples:
    """The samples of a source, each read when it is asked for.

    Raises:
        InputError: it is no source, is damaged or empty, or names files that are not there.

    """
    path = Path(source)
    if not path.exists() and names_function(str(source)):
        found = _called(str(source), takes)
    else:
        form = next((form for form in known_forms() if path.exists() and form.recognizes(path, takes)), None)
        if form is None:
            kinds = ", ".join(form.name for form in known_forms())
            what = "is not known as samples" if path.exists() else "is not there"
            raise InputError(f"{source} {what}; samples are {kinds}, or package.module:callable")
        found = form.read(path, takes)
    if not len(found):
        raise InputError(f"{source} has no samples")
    return found


def names_function(source: str) -> bool:
    """Whether a source is a function, ``package.module:callable``, by its form."""
    return _REFERENCE.fullmatch(source) is not None


def known_forms() -> list[Form]:
    """Every form that there is a file for."""
    names = sorted(module.name for module in modules_in(forms.__path__))
    found: list[Form] = [import_module(f"{forms.__name__}.{name}").FORM for name in names]
    return found


def _called(reference: str, takes: Takes) -> Samples:
    """What a function of the user's gives: samples, or pairs of a sample and its label."""
    given = called(import_function(reference), reference)
    if not isinstance(given, Iterable):
        raise InputError(f"{reference} gave {type(given).__name__}, not samples to go through")
    items = called(lambda: list(islice(given, MOST)), reference)
    return of_list([_as_sample(item, takes, f"{reference}[{index}]") for index, item in enumerate(items)], reference)


def import_function(reference: str) -> Callable[..., Any]:
    """What ``package.module:callable`` names, seen from the folder that this runs in.

    Raises:
        InputError: it cannot be imported, or is no function.

    """
    module, _, name = reference.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function: object = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise InputError(
            f"{reference} cannot be imported from {here}: {type(error).__name__}: {error}; name a function in a module "
            "that Python finds there"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise InputError(f"{reference} is {type(function).__name__}, not a function")
    return function


def called(function: Callable[..., Any], reference: str, *given: object) -> Any:
    """What the user's ``function``, named by ``reference``, returns for what is ``given``.

    Raises:
        InputError: it raises something; the line in which it did is named.

    """
    try:
        return function(*given)
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        *_, last = traceback.extract_tb(error.__traceback__)
        raise InputError(
            f"{reference} failed at {last.filename}:{last.lineno}: {type(error).__name__}: {error}; mend it there"
        ) from error


def _as_sample(item: object, takes: Takes, where: str) -> Sample:
    """What a function gave; a pair has a label, but two texts for a task of texts, and an array of sound with its rate.

    These have their labels in a :class:`Sample`, or as the second of a pair whose first they are.
    """
    if isinstance(item, Sample):
        return item
    if not isinstance(item, tuple) or len(item) != 2:
        return Sample(item, None, where)
    value, label = item
    texts = takes == "text" and isinstance(value, str) and isinstance(label, str)
    sound = takes == "sound" and isinstance(value, np.ndarray) and isinstance(label, int) and label >= LEAST_RATE
    return Sample(item, None, where) if texts or sound else Sample(value, plain(label), where)


def some_of(samples: Samples, most: int, seed: int = 0) -> Samples:
    """``most`` of the samples, chosen over all of the source, in its order; the same ones each time."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:most])
    return Samples(len(chosen), lambda index: samples.number(int(chosen[index])), samples.source)


def feeds_of(samples: Samples, feeder: Feeder) -> Callable[[], Iterator[Feed]]:
    """What gives the inputs of the samples, one at a time, the same ones in each pass.

    Raises:
        InputError: there are fewer than ``FEWEST``, or all are of one class of several; and when a sample is read that
            is damaged: it is named.

    """
    if len(samples) < FEWEST:
        raise InputError(
            f"{samples.source} has {len(samples)} samples; ranges are taken over at least {FEWEST}, better some hundred"
        )
    check_classes(samples, feeder)
    return lambda: (feed_of(sample, feeder) for sample in samples)


def feed_of(sample: Sample, feeder: Feeder) -> Feed:
    """The inputs of one sample.

    Raises:
        InputError: it is damaged; the message says where it is from.

    """
    try:
        return feeder.feed([sample.value])
    except InputError as error:
        said = str(error)
        raise error if sample.where in said else InputError(f"{sample.where}: {said}") from error


def check_classes(samples: Samples, feeder: Feeder) -> None:
    """Raise an InputError where all samples are of one class, and the model tells several apart."""
    answers = feeder.task.answers
    if answers is None or answers.classes is None or len(answers.classes.labels) < 2:
        return
    counts: Counter[object] = Counter()
    for sample in samples:
        label = sample.label
        if not isinstance(label, str | int):
            return
        counts[label] += 1
        if len(counts) > 1:
            return
    label, count = counts.most_common(1)[0]
    raise InputError(
        f"all {count} samples of {samples.source} are of the class {label}, and the model tells "
        f"{len(answers.classes.labels):,} apart; ranges of one class do not fit the others: give samples of several"
    )
