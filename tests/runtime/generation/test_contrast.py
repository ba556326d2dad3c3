"""Contrastive decoding: by the paper's formula written out, and with two models that are open."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.generation.contrast import Contrast, contrasted

PROMPT = [5, 9, 17, 33]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=9), st.floats(0.01, 1))
def test_it_is_the_formula_of_the_paper(pairs: list[tuple[float, float]], plausible: float) -> None:
    expert, amateur = (np.array(side, np.float32) for side in zip(*pairs, strict=True))
    found = contrasted(expert, amateur, 0.5, plausible)
    best = max(math.exp(value) for value in expert)
    for token, (ours, theirs) in enumerate(zip(expert.tolist(), amateur.tolist(), strict=True)):
        chance = math.exp(ours) / best
        if chance > plausible * (1 + 1e-5):
            assert found[token] == pytest.approx(1.5 * ours - 0.5 * theirs, abs=1e-4)
        elif chance < plausible * (1 - 1e-5):
            assert found[token] == -math.inf


def test_two_bundles_give_what_their_logits_say(tmp_path: Path) -> None:
    checkpoint = save("qwen3", tmp_path / "qwen3")
    opened = []
    for recipe in ("fp32", "int4"):
        export(checkpoint, out=tmp_path / recipe, recipe=recipe, target="x86-cpu", threads=1)
        opened.append(load(tmp_path / recipe, threads=1, context=64, prepared=False))
    expert, amateur = opened
    found = expert.generate(PROMPT, max_tokens=12, contrast=Contrast(amateur, 2.0, 0.05))
    found.text()
    text = list(PROMPT)
    for token in found.tokens:
        rows = []
        for model in opened:
            model.reset()
            rows.append(model.prefill(text).astype(np.float64))
        scores = np.where(rows[0] - rows[0].max() >= np.log(0.05), 3 * rows[0] - 2 * rows[1], -np.inf)
        assert scores[token] >= scores.max() - 1e-3
        text.append(token)
    plain = expert.generate(PROMPT, max_tokens=12)
    alike = expert.generate(PROMPT, max_tokens=12, contrast=Contrast(amateur, 0.0))
    assert alike.text() == plain.text()
    short = load(tmp_path / "int4", threads=1, context=32, prepared=False)
    with pytest.raises(InputError, match="the model to contrast with holds 32 tokens and this one 64"):
        expert.generate(PROMPT, contrast=Contrast(short))
    with pytest.raises(InputError, match="the weight of a contrast is -1"):
        Contrast(amateur, -1.0)


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    export(save("qwen3", tmp_path / "qwen3"), out=tmp_path / "one", recipe="fp32", target="x86-cpu", threads=1)
    export("demo", out=tmp_path / "demo", recipe="int4", target="x86-cpu", threads=1)
    one, other = (load(tmp_path / name, threads=1, prepared=False) for name in ("one", "demo"))
    with pytest.raises(InputError, match=r"\d+ entries of their vocabularies differ"):
        one.generate(PROMPT, contrast=Contrast(other))
