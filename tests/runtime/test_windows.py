"""Caches that keep a window: the layout, and that no token is ever wrong, against caches of the whole text."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.bundle.states import WINDOW_SLACK
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Snapshot
from edgepress.runtime.sessions.windows import Window, resident

CONTEXT, BOUND = 128, 1e-5  # the bound is a share of the largest logit
MODELS = ("gemma3_text", "mistral-window")  # windows in some layers, and in all
WINDOWS = (1, 3, 16)


# ---- the layout ------------------------------------------------------------------------------------------------------


def kept_by_rule(tokens: int, window: int, rows: int) -> list[int]:
    """The tokens whose entries there are, by the operator's documentation: a token at a time."""
    kept: list[int] = []
    for token in range(tokens):
        kept.append(token)
        if len(kept) > rows:
            del kept[: rows - window + 1]
    return kept


@given(st.integers(0, 200), st.integers(1, 20), st.integers(0, 20))
def test_how_many_entries_there_are_follows_from_the_tokens(tokens: int, window: int, slack: int) -> None:
    kept = kept_by_rule(tokens, window, window + slack)
    assert resident(tokens, window, window + slack) == len(kept)
    assert kept == list(range(tokens - len(kept), tokens))


class Made:
    """A window whose entries are the numbers of their tokens, and an operator that moves them as documented."""

    def __init__(self, window: int, slack: int) -> None:
        self.window = Window(np.zeros((1, window + slack, 1)), window)
        self.width, self.slack, self.text = window, slack, list[int]()

    def append(self, numbers: list[int]) -> None:
        self.window.before_call(len(self.text), len(numbers))
        rows, before = self.window.rows, kept_by_rule(len(self.text), self.width, self.width + self.slack)
        found = {token: rows[0, row, 0] for row, token in enumerate(before)}
        found |= dict(enumerate(numbers, start=len(self.text)))
        self.text += numbers
        rows[...] = -1
        for row, token in enumerate(kept_by_rule(len(self.text), self.width, self.width + self.slack)):
            rows[0, row, 0] = found[token]

    def check(self) -> None:
        """What the next token sees is right."""
        held, seen = self.window.held(len(self.text)), min(len(self.text), self.width - 1)
        assert held.shape[1] == len(kept_by_rule(len(self.text), self.width, self.width + self.slack))
        assert list(held[0, held.shape[1] - seen :, 0]) == self.text[len(self.text) - seen :]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(0, 9))
def test_what_a_window_sees_is_right_after_anything(data: st.DataObject, window: int, slack: int) -> None:
    made, number = Made(window, slack), 0
    aside: list[tuple[list[int], np.ndarray, int]] = []
    for _ in range(data.draw(st.integers(1, 30))):
        what = data.draw(st.sampled_from(["append", "append", "take back", "put aside", "put back", "forget", "evict"]))
        length = len(made.text)
        if what == "append":
            count = data.draw(st.one_of(st.just(1), st.integers(1, 30)))
            made.append(list(range(number, number + count)))
            number += count
            assert made.window.earliest < len(made.text)  # a token can always be taken back
        elif what == "take back" and length:
            kept = data.draw(st.integers(max(1, made.window.earliest), length))
            made.window.take_back(length, kept)
            del made.text[kept:]
        elif what == "put aside":
            aside.append((list(made.text), made.window.held(length).copy(), made.window.earliest))
        elif what == "put back" and aside:
            text, entries, earliest = data.draw(st.sampled_from(aside))
            made.text = list(text)
            made.window.put(entries, len(text), earliest)
        elif what == "forget":
            made.window.forget()
            made.text = []
        elif what == "evict" and length > window:
            first = data.draw(st.integers(0, length - window - 1))
            count = data.draw(st.integers(1, length - window - first))
            moved = made.window.evict(length, first, count)
            del made.text[first : first + count]
            assert moved.shape[1] >= min(window, len(made.text))
        made.check()


@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 200))
def test_as_many_tokens_as_are_pushed_out_together_can_be_taken_back(window: int, slack: int, tokens: int) -> None:
    made = Made(window, slack)
    for token in range(tokens):
        made.append([token])
    assert made.window.earliest <= max(0, tokens - slack - 1)


# ---- sessions --------------------------------------------------------------------------------------------------------


HOME: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    HOME[:] = [tmp_path_factory.mktemp("windows")]


@cache
def made(model: str, *, windows: bool) -> Path:
    """A bundle in float32 of a tiny model, with caches of windows or of the whole text."""
    recipe, out = HOME[0] / f"{windows}.toml", HOME[0] / f"{model} {windows}"
    recipe.write_text(f"weights.bits = 32\ncache.windows = {str(windows).lower()}\n")
    checkpoint = tiny_models.save(model, HOME[0] / model)
    export(checkpoint, out=out, recipe=recipe, target="x86-cpu", threads=1)
    return out


@cache
def opened(model: str, window: int, *, windows: bool, chunk: int = 8) -> CpuSession:
    """A session of it whose layers see another window: only the graph and its states know how long it is."""
    config = read_config(made(model, windows=windows))
    graph = onnx.load(config.model, load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "local_window_size" and attribute.i > 0:
                attribute.i = window
    path = config.model.with_name(f"{window}.onnx")
    path.write_bytes(graph.SerializeToString())
    states = tuple(replace(state, window=window) if state.window else state for state in config.states)
    changed = replace(config, model=path, states=states)
    return CpuSession(changed, threads=1, context=CONTEXT, prefill_chunk=chunk, prepared=False)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference <= BOUND, f"{difference:.2e}"


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_session_computes_what_one_with_the_whole_text_does(model: str, data: st.DataObject) -> None:
    window, chunk = data.draw(st.sampled_from(WINDOWS)), data.draw(st.sampled_from([1, 8, 50]))
    small = opened(model, window, windows=True, chunk=chunk)
    whole = opened(model, window, windows=False)
    tokens = np.random.default_rng(data.draw(st.integers(0, 9))).integers(3, small.vocab_size, 2 * CONTEXT)
    small.reset()
    whole.reset()
    aside: list[tuple[Snapshot, Snapshot]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        position = small.position
        assert position == whole.position
        actions = ["append", "append", "token", "roll back", "snapshot", "restore", "reset", "evict"]
        what = data.draw(st.sampled_from(actions))
        if what in ("append", "token") and position < CONTEXT:
            count = 1 if what == "token" else data.draw(st.integers(1, CONTEXT - position))
            start = data.draw(st.integers(0, CONTEXT))  # another text than before
            piece = tokens[start : start + count]
            near(small.append(piece, 0), whole.append(piece, 0))
        elif what == "roll back":
            to = data.draw(st.integers(0, position))
            if 0 < to < min(small.earliest, position):
                with pytest.raises(InputError, match=r"key is a window state.*take a snapshot there"):
                    small.roll_back(to)
            else:
                small.roll_back(to)
                whole.roll_back(to)
        elif what == "snapshot":
            aside.append((small.snapshot(), whole.snapshot()))
        elif what == "restore" and aside:
            for session, snapshot in zip((small, whole), data.draw(st.sampled_from(aside)), strict=True):
                session.restore(snapshot)
        elif what == "reset":
            small.reset()
            whole.reset()
        elif what == "evict" and position > window + 1:
            first = data.draw(st.integers(0, position - window - 1))
            count = data.draw(st.integers(1, position - window - first))
            for session in (small, whole):
                session.evict(first, count)
    if small.position < CONTEXT:
        near(small.append(tokens[:1], 0), whole.append(tokens[:1], 0))


@pytest.mark.parametrize("model", MODELS)
def test_three_windows_of_text_are_those_of_transformers(model: str) -> None:
    session = opened(model, 16, windows=True)
    tokens = np.random.default_rng(1).integers(3, session.vocab_size, 4 * 16)
    reference = transformers.AutoModelForCausalLM.from_pretrained(HOME[0] / model, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens[None])).logits[0].numpy()
    session.reset()
    found = [session.append(tokens[:40], 0).copy(), *(session.append([token], 0).copy() for token in tokens[40:])]
    near(np.concatenate(found), expected)
    assert 0 < session.earliest < len(tokens) - WINDOW_SLACK


def test_an_interrupted_call_that_moved_entries_leaves_no_text_to_go_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    session, text = opened("mistral-window", 3, windows=True), list(range(3, 33))  # 3 + WINDOW_SLACK entries of memory
    whole = opened("mistral-window", 3, windows=False)
    whole.reset()
    expected = whole.append(text, 0).copy()
    session.reset()
    session.append(text[:10])
    aside = session.snapshot()
    with monkeypatch.context() as patched:
        compute = session._compute

        def interrupted(*arguments: object, **named: object) -> None:
            compute(*arguments, **named)
            raise KeyboardInterrupt

        patched.setattr(session, "_compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.append(text[10:14])  # nothing is pushed out: the text goes on
        assert session.position == 10
        patched.undo()
        near(session.append(text[10:18], 0), expected[10:18])
        patched.setattr(session, "_compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.append(text[18:22])
    for use in (lambda: session.append([3]), session.snapshot, lambda: session.roll_back(17)):
        with pytest.raises(InputError, match="was interrupted while what it keeps was moved, so the text of 18 tokens"):
            use()
    session.restore(aside)
    near(session.append(text[10:], 0), expected[10:])
    session.roll_back(0)
    near(session.append(text, 0), expected)
