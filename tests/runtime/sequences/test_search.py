"""Greedy and beam search give the tokens that transformers' ``generate`` gives, setting by setting."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import torch

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.runtime.generation.several.beams import beam_search
from edgepress.runtime.sequences.rules import Rules
from edgepress.runtime.sequences.search import greedy
from edgepress.runtime.sequences.session import EncoderDecoder
from edgepress.tasks.sequences import Sequences

LONGEST = 20
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"num_beams": 1}, {}),
    ({"num_beams": 4}, {"beams": 4}),
    (
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"beams": 3, "length_penalty": 2.0, "early_stopping": "yes"},
    ),
    (
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never", "no_repeat_ngram_size": 2},
        {"beams": 3, "length_penalty": -1.0, "early_stopping": "never", "no_repeat": 2},
    ),
    (
        {"num_beams": 2, "length_penalty": 0.5, "early_stopping": "never", "min_length": 8},
        {"beams": 2, "length_penalty": 0.5, "early_stopping": "never", "fewest_tokens": 8},
    ),
    (
        {"num_beams": 1, "repetition_penalty": 1.7, "min_length": 5, "suppress_tokens": [5, 9]},
        {"repetition_penalty": 1.7, "fewest_tokens": 5, "suppressed": (5, 9)},
    ),
    (
        {"num_beams": 2, "forced_bos_token_id": 7, "begin_suppress_tokens": [11], "forced_eos_token_id": 2},
        {"beams": 2, "forced_first": 7, "suppressed_first": (11,), "forced_last": 2},
    ),
]


class Opened:
    """A tiny model as a bundle, and transformers' own."""

    def __init__(self, name: str, home: Path) -> None:
        checkpoint = encoder_decoders.save(name, home / name)
        export(checkpoint, out=home / "bundle", target="x86-cpu", recipe="fp32", threads=1)
        manifest = read_manifest(home / "bundle")
        assert manifest.task is not None
        assert manifest.task.sequences is not None
        self.sequences: Sequences = manifest.task.sequences
        self.session = EncoderDecoder(home / "bundle", self.sequences, manifest.states, threads=1)
        self.reference = encoder_decoders.reference(checkpoint)


@pytest.fixture(scope="module", params=["marian", "t5"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(request.param, tmp_path_factory.mktemp("search"))


@pytest.mark.parametrize(("theirs", "ours"), SETTINGS, ids=[" ".join(theirs) for theirs, _ in SETTINGS])
def test_targets_are_those_of_transformers(opened: Opened, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    session, start = opened.session, list(opened.sequences.start)
    plain = replace(opened.sequences.search, forced_first=None, forced_last=None, most_tokens=LONGEST)
    rules = Rules(replace(plain, **ours), opened.sequences.ends, begin=len(start), most=LONGEST)
    settings = {"forced_eos_token_id": None, **theirs}
    for seed in range(2):
        source = np.random.default_rng(seed).integers(3, 319, (1, 9))
        expected = opened.reference.generate(torch.from_numpy(source), max_length=LONGEST, **settings)[0].tolist()
        session.encode({"input_ids": source})
        beams = rules.search.beams > 1
        found = beam_search(session, start, rules)[0].tokens if beams else list(greedy(session, start, rules))
        assert start + found == expected


def test_a_target_ends_at_the_last_position(opened: Opened) -> None:
    """No setting lets a target grow beyond the decoder's positions."""
    session = opened.session
    session.encode({"input_ids": np.array([[5, 6, 7]])})
    rules = Rules(replace(opened.sequences.search, suppressed=opened.sequences.ends, forced_last=None), (), 1, 12)
    found = list(greedy(session, [1], rules))
    assert len(found) == 11
    assert session.position == 11
