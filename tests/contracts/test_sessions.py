"""Every session keeps one contract: on the CPU, from static graphs, on simulated and emulated accelerators.

A text appended in pieces is the text appended at once; what is taken back was never there; what is put aside is taken
up as it was; and the logits of every position are those after each prefix. ``KINDS`` says how near: onnxruntime's
kernels for one token and for many add up in another order, an NPU computes in float16, and what lies between two
integers of a cache may become either.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hybrid_bundle import STATES, hybrid_logits, write_hybrid
from static_graphs import cpu
from two_graphs import FLOAT16_FILE, FLOAT32_FILE, make_two_graphs

from edgepress.bundle.states import State, state_bytes
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.graph.static import write_static
from edgepress.runtime.config import read_config
from edgepress.runtime.model import Model
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.open_graph import OpenGraph
from edgepress.runtime.sessions.session import ON_CPU, RanOn, Session
from edgepress.runtime.sessions.static import StaticSession
from edgepress.targets import find_soc, find_target

CONTEXT, CHUNK = 64, 16
INTEGERS = " in 8 bits"  # keys and values
WHOLE = "mistral-window whole"  # caches of all tokens, where the other one's keep a window
LONGROPE = "phi3-longrope-version4"  # another table from LONG_FROM = 48 tokens on
NPU = RanOn("QNNExecutionProvider", "qnn-htp", "sm8650", simulated=True)


@dataclass(frozen=True)
class Kind:
    """A way to compute a model, and which models it is tried on; ``bound`` is a share of the largest logit."""

    open: Callable[[Path], Session]
    models: tuple[str, ...]
    bound: float


def open_cpu(bundle: Path) -> Session:
    return CpuSession(read_config(bundle), threads=1, context=CONTEXT, prefill_chunk=CHUNK, prepared=False)


def open_prepared(bundle: Path) -> Session:
    return CpuSession(read_config(bundle), threads=1, context=CONTEXT, prefill_chunk=CHUNK)


def open_float16(bundle: Path) -> Session:
    config = read_config(bundle, FLOAT16_FILE)
    return CpuSession(config, threads=1, context=CONTEXT, prefill_chunk=CHUNK)


def open_static(bundle: Path) -> Session:
    paths, states = static_paths(bundle), read_config(bundle).states
    return StaticSession(cpu(paths[0]), cpu(paths[1]), ON_CPU, states)


def open_htp(bundle: Path) -> Session:
    pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'edgepress[qnn]'")
    from edgepress.targets.providers import qnn

    chip = find_soc(find_target("qnn-htp"), "sm8650")
    prefill, decode = (qnn.open_session(path, chip, fp16=True) for path in static_paths(bundle))
    return StaticSession(prefill, decode, NPU)


def open_openvino(bundle: Path) -> Session:
    pytest.importorskip("onnxruntime_ep_openvino", reason="not installed: pip install 'edgepress[openvino]'")
    from edgepress.targets.providers import openvino

    prefill, decode = (openvino.open_session(path) for path in static_paths(bundle, "decompose-norm"))
    return StaticSession(prefill, decode)


KINDS = {
    "cpu": Kind(open_cpu, ("qwen3", "mistral-window", WHOLE, LONGROPE, "hybrid", "qwen3_5_text"), 1e-5),
    "prepared": Kind(open_prepared, ("qwen3", "qwen3_5_text"), 1e-5),
    "integer cache": Kind(open_cpu, (f"qwen3{INTEGERS}", f"mistral-window{INTEGERS}"), 2e-2),
    "float16": Kind(open_float16, ("two-graphs",), 5e-3),
    "static": Kind(open_static, ("qwen3", WHOLE, LONGROPE), 1e-5),
    "htp": Kind(open_htp, ("qwen3",), 2e-2),
    "openvino": Kind(open_openvino, ("qwen3",), 1e-5),
}
CASES = [(kind, model) for kind, one in KINDS.items() for model in one.models]
HOME: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    HOME[:] = [tmp_path_factory.mktemp("sessions")]


@cache
def bundle(model: str) -> Path:
    out = HOME[0] / f"{model}.bundle"
    if model == "hybrid":
        return write_hybrid(out)
    checkpoint = "qwen3" if model == "two-graphs" else model.removesuffix(" whole").removesuffix(INTEGERS)
    caches = {WHOLE: "windows = false", f"{checkpoint}{INTEGERS}": "bits = 8"}
    recipe: Path | str = "fp32"
    if model in caches:
        recipe = HOME[0] / f"{model}.toml"
        recipe.write_text(f"weights.bits = 32\n[calibration]\ntokens = 256\nlength = 64\n[cache]\n{caches[model]}\n")
    export(tiny_models.save(checkpoint, HOME[0] / model), out=out, recipe=recipe, target="x86-cpu", threads=1)
    return make_two_graphs(out) if model == "two-graphs" else out


@cache
def static_paths(made: Path, *further: str) -> tuple[Path, Path]:
    folder = made.parent / "-".join([made.name, "static", *further])
    folder.mkdir()
    return write_static(made / "model.onnx", folder, context=CONTEXT, sequence=CHUNK, further=further)


@cache
def opened(kind: str, model: str, number: int = 0) -> Session:  # noqa: ARG001 - a number for each session that is open
    return KINDS[kind].open(bundle(model))


@dataclass(frozen=True)
class Case:
    """A session without a text, another one of the same model, tokens that it knows, and how near is near."""

    kind: str
    model: str

    @property
    def session(self) -> Session:
        session = opened(self.kind, self.model)
        session.reset()
        return session

    @property
    def other(self) -> Session:
        session = opened(self.kind, self.model, 1)
        session.reset()
        return session

    def text(self, seed: int, length: int = 60) -> np.ndarray:
        return np.random.default_rng(seed).integers(3, opened(self.kind, self.model).vocab_size, length)

    @property
    def rolls_back(self) -> bool:
        return all(state.grows for state in opened(self.kind, self.model).states)

    def near(self, found: np.ndarray, expected: np.ndarray) -> None:
        assert found.shape == expected.shape
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        assert difference <= KINDS[self.kind].bound, f"{difference:.2e}"


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, home: None) -> Case:  # noqa: ARG001 - the folder comes first
    kind, model = request.param
    if kind == "openvino":
        request.getfixturevalue("openvino_cpu")
    return Case(kind, model)


def whole(session: Session, tokens: np.ndarray) -> np.ndarray:
    """Logits of every position of a new text, (length, vocab)."""
    session.reset()
    return session.append(tokens, 0).copy()


# ---- one text --------------------------------------------------------------------------------------------------------


def test_a_text_in_pieces_is_the_text_at_once(case: Case) -> None:
    session, tokens = case.session, case.text(1)
    expected = whole(session, tokens)
    for sizes in ([1] * 60, [7] * 8 + [4], [40, 20], [1, 59]):
        session.reset()
        pieces = np.split(tokens, np.cumsum(sizes)[:-1])
        found = np.concatenate([session.append(piece, 0, total=tokens.size).copy() for piece in pieces])
        assert session.position == tokens.size
        case.near(found, expected)


def test_the_logits_of_every_position_are_those_after_each_prefix(case: Case) -> None:
    session, tokens = case.session, case.text(2)
    every = whole(session, tokens)
    assert every.shape == (60, session.vocab_size)
    for length in (1, 2, 17, 33, 60):
        session.reset()
        last = session.append(tokens[:length], total=tokens.size).copy()
        case.near(last, every[length - 1 : length])
        session.reset()
        some = session.append(tokens[:length], -min(3, length), total=tokens.size)
        case.near(some, every[max(length - 3, 0) : length])


@pytest.mark.parametrize(("first", "asked"), [(-1, [0, 0, 0, 1]), (-14, [0, 0, 2, 12]), (0, [16, 16, 16, 12])])
def test_pieces_that_others_follow_are_asked_for_no_logits(
    home: None,  # noqa: ARG001 - the folder comes first
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    asked: list[int],
) -> None:
    case, rows = Case("cpu", "qwen3"), list[int]()
    session, ask = case.session, OpenGraph.ask

    def noted(graph: OpenGraph, count: int) -> None:
        rows.append(count)
        ask(graph, count)

    monkeypatch.setattr(OpenGraph, "ask", noted)
    session.append(case.text(3), first)
    assert rows == asked


def test_a_reset_text_was_never_there(case: Case) -> None:
    session, tokens = case.session, case.text(3)
    first = whole(session, tokens[:20])
    whole(session, case.text(4))
    np.testing.assert_array_equal(whole(session, tokens[:20]), first)


# ---- taking back, putting aside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [50, 1])  # beyond a chunk and a window of 16, and within
def test_what_was_taken_back_was_never_there(case: Case, kept: int) -> None:
    session, tokens, others = case.session, case.text(5), case.text(6)
    text = np.concatenate([tokens[:kept], others[: 60 - kept]])
    expected = whole(session, text)
    session.reset()
    session.append(tokens)
    earliest = {"hybrid": 60, "qwen3_5_text": 60, "mistral-window": 32}
    assert session.earliest == earliest.get(case.model.removesuffix(INTEGERS), 0)
    if kept < session.earliest:
        with pytest.raises(InputError, match=rf"rolled back from 60 tokens to {kept}, to {session.earliest} or more"):
            session.roll_back(kept)
        assert session.position == 60
        return
    session.roll_back(kept)
    assert session.position == kept
    case.near(session.append(text[kept:], 0, total=text.size), expected[kept:])


def test_a_text_that_was_taken_back_may_become_another_length(case: Case) -> None:
    """longrope has other frequencies for long texts: what was computed with them is of no use to a short one."""
    session, tokens = case.session, case.text(19)
    short, long = whole(session, tokens[:30]), whole(session, tokens)
    if not case.rolls_back:
        return
    session.roll_back(25)
    case.near(session.append(tokens[25:30], 0), short[25:])
    case.near(session.append(tokens[30:], 0), long[30:])


def test_taking_back_all_or_nothing_is_always_possible(case: Case) -> None:
    session, tokens = case.session, case.text(7)
    expected = whole(session, tokens[:20])
    session.roll_back(20)
    session.roll_back(0)
    case.near(session.append(tokens[:20], 0), expected)


@pytest.mark.parametrize("kept", [50, 0])
def test_a_text_that_was_put_aside_goes_on_as_it_was(case: Case, kept: int) -> None:
    session, tokens = case.session, case.text(8)
    expected = whole(session, tokens)
    session.reset()
    if kept:
        session.append(tokens[:kept], total=tokens.size)
    aside = session.snapshot()
    copied, most = sum(array.nbytes for array in aside.arrays), state_bytes(session.states, kept)
    assert aside.position == kept
    assert copied < most if aside.earliest and case.model.startswith("mistral-window") else copied == most
    session.reset()
    session.append(case.text(9))
    for one in (session, case.other, session):  # another session of the model, and again
        one.restore(aside)
        assert one.position == kept
        case.near(one.append(tokens[kept:], 0, total=tokens.size), expected[kept:])


def test_texts_that_take_turns_do_not_mix(case: Case) -> None:
    texts = [case.text(seed) for seed in (10, 11)]
    alone = [whole(case.session, text) for text in texts]
    sessions = [case.session, case.other]
    for start in range(0, 60, 20):
        for session, text, expected in zip(sessions, texts, alone, strict=True):
            found = session.append(text[start : start + 20], 0, total=60)
            case.near(found, expected[start : start + 20])


def test_generations_that_take_turns_in_one_session_do_not_mix(case: Case) -> None:
    session, prompts = case.session, [case.text(seed, 5) for seed in (12, 13)]
    alone: list[list[int]] = []
    for prompt in prompts:
        session.reset()
        tokens = [likeliest(session.append(prompt))]
        while len(tokens) < 6:
            tokens.append(likeliest(session.append(tokens[-1:])))
        alone.append(tokens)
    texts: list[list[int]] = []
    aside = []
    for prompt in prompts:
        session.reset()
        texts.append([likeliest(session.append(prompt))])
        aside.append(session.snapshot())
    for _ in range(5):
        for index, text in enumerate(texts):
            session.restore(aside[index])
            text.append(likeliest(session.append(text[-1:])))
            aside[index] = session.snapshot()
    assert texts == alone


def likeliest(logits: np.ndarray) -> int:
    return int(logits[-1].argmax())


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_one_clear_error_and_changes_nothing(case: Case) -> None:
    session, tokens = case.session, case.text(14)
    expected = whole(session, tokens[:41])[40:]
    session.reset()
    session.append(tokens[:40])
    most = session.vocab_size
    for call, message in (
        (lambda: session.append([5] * 25), r"25 tokens after 40 in the cache do not fit in the context of 64"),
        (lambda: session.append([3, most]), f"token {most} is not in the vocabulary of {most}"),
        (lambda: session.append([-1]), f"token -1 is not in the vocabulary of {most}"),
        (lambda: session.append([]), "the prompt has no tokens"),
        (lambda: session.append([3, True]), "the prompt has True"),
        (lambda: session.append([3, 4], 2), "first is 2; of 2 tokens it must be -2 to 1"),
        (lambda: session.append([3, 4], -3), "first is -3"),
        (lambda: session.roll_back(41), "position is 41; the text has 40 tokens"),
        (lambda: session.roll_back(-1), "position is -1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
        assert session.position == 40
    case.near(session.append(tokens[40:41]), expected)


def test_a_text_fills_the_context_to_its_last_token(case: Case) -> None:
    session, tokens = case.session, case.text(15, CONTEXT)
    expected = whole(session, tokens)
    with pytest.raises(InputError, match="1 tokens after 64 in the cache do not fit in the context of 64"):
        session.append([3])
    if case.rolls_back:
        session.roll_back(CONTEXT - 1)
        case.near(session.append(tokens[-1:], 0), expected[-1:])


def test_it_says_what_it_runs_on_and_what_it_carries(case: Case) -> None:
    session = case.session
    provider = {"htp": NPU, "float16": replace(ON_CPU, graph=FLOAT16_FILE)}.get(case.kind, ON_CPU)
    assert (session.ran_on, session.context, session.prefill_chunk) == (provider, CONTEXT, CHUNK)
    assert len({state.input for state in session.states}) == len(session.states) > 0
    before = session.run_seconds
    session.append([3])
    assert session.run_seconds > before


def test_a_snapshot_of_another_model_is_refused(home: None) -> None:  # noqa: ARG001 - the folder comes first
    snapshots = {model: opened("cpu", model).snapshot() for model in ("qwen3", "hybrid", LONGROPE)}
    for model, snapshot in snapshots.items():
        for other in snapshots.keys() - {model}:
            with pytest.raises(
                InputError, match=r"the snapshot is of another model: its states are not those of .*onnx"
            ):
                opened("cpu", other).restore(snapshot)


def test_graphs_of_one_bundle_agree_and_keep_states_of_their_own_types(home: None) -> None:  # noqa: ARG001
    half, made = Case("float16", "two-graphs"), bundle("two-graphs")
    single = CpuSession(read_config(made, FLOAT32_FILE), threads=1, context=CONTEXT, prepared=False)
    tokens = half.text(20)
    half.near(whole(half.session, tokens), whole(single, tokens))
    assert state_bytes(half.session.states, 60) * 2 == state_bytes(single.states, 60)
    assert {array.dtype for array in half.session.snapshot().arrays} == {np.dtype(np.float16)}
    with pytest.raises(InputError, match=r"its states are not those of .*model\.onnx"):
        single.restore(half.session.snapshot())


def test_a_snapshot_goes_from_static_graphs_to_the_cpu_and_back(home: None) -> None:  # noqa: ARG001 - as above
    static, plain = Case("static", "qwen3"), Case("cpu", "qwen3")
    tokens = plain.text(16)
    expected = whole(plain.session, tokens)
    session = static.session
    session.append(tokens[:30])
    plain.session.restore(aside := session.snapshot())
    plain.near(opened("cpu", "qwen3").append(tokens[30:50], 0), expected[30:50])
    session.restore(opened("cpu", "qwen3").snapshot())
    plain.near(session.append(tokens[50:], 0), expected[50:])
    full = static.session
    full.append(static.text(17, CONTEXT))
    longer = CpuSession(read_config(bundle("qwen3")), threads=1, context=CONTEXT + 1, prepared=False)
    longer.restore(aside)
    with pytest.raises(InputError, match="the snapshot of 64 tokens fills the context that it was taken in"):
        longer.restore(full.snapshot())
    shorter = CpuSession(read_config(bundle("qwen3")), threads=1, context=20, prepared=False)
    with pytest.raises(InputError, match="30 tokens do not fit in the context of 20"):
        shorter.restore(aside)


# ---- any list of states ----------------------------------------------------------------------------------------------


def test_a_model_with_a_state_of_fixed_size_computes_what_its_definition_says(home: None) -> None:  # noqa: ARG001
    case = Case("cpu", "hybrid")
    tokens = case.text(18, 50)
    expected = hybrid_logits(tokens)
    session = case.session
    found = np.concatenate([session.append(piece, 0).copy() for piece in np.split(tokens, [1, 2, 3, 20, 33])])
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    model = Model(read_config(bundle("hybrid")), session)
    model.reset()
    case.near(model.prefill(tokens.tolist()), found[-1])


OTHER = State("layers.0.conv", "past.other", "present.conv", ("batch", 16, 2), "float32", "convolution")


@pytest.mark.parametrize(
    ("states", "named"),
    [(STATES[1:], r"past\.key"), ((*STATES[:2], OTHER), r"past\.conv, past\.other")],
    ids=["one is missing", "one has another name"],
)
def test_a_list_that_the_graph_does_not_have_is_refused(tmp_path: Path, states: tuple[State, ...], named: str) -> None:
    made = write_hybrid(tmp_path / "bundle", states=states)
    with pytest.raises(InputError, match=rf"manifest\.json disagree on {named}; export the bundle again"):
        CpuSession(read_config(made), threads=1, context=CONTEXT, prepared=False)


def test_static_graphs_refuse_a_state_of_fixed_size(home: None) -> None:  # noqa: ARG001 - as above
    paths = static_paths(bundle("qwen3"))
    with pytest.raises(InputError, match=r"layers\.0\.conv is a convolution state, which static graphs cannot have"):
        StaticSession(cpu(paths[0]), cpu(paths[1]), ON_CPU, STATES)
