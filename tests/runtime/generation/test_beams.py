"""Beam search: ways and scores are those of transformers' ``generate``, and of brute force, with any kind of state."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from chat_bundles import chat_bundle
from hybrid_bundle import VOCABULARY, write_hybrid
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Beams, Constraint, Model, Speculation, load
from edgepress.runtime.generation.contrast import Contrast
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.generation.several.beams import Tokens, beam_search
from edgepress.runtime.generation.several.text_beams import BeamSearch
from edgepress.runtime.sessions.session import RanOn, Session
from edgepress.runtime.sessions.side_by_side import open_side_by_side

BOUND = 2e-5  # of scores, as a share of the largest
KINDS = {  # what states a model has, and how many tokens are written
    "llama": 14,
    "gemma3_text": 30,  # windows in some layers: more tokens than they have entries
    "mistral-window": 40,
    "bloom": 14,
    "lfm2": 14,
    "qwen3_5_text": 14,
    "falcon_h1": 14,
    "phi3-longrope-version4": 40,  # outgrows its short table
}


@dataclass
class Both:
    """A tiny model as a bundle, and transformers' own."""

    model: Model
    reference: Any

    def theirs(self, prompt: list[int], ends: list[int], **settings: Any) -> tuple[list[list[int]], list[float]]:
        found = self.reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            eos_token_id=ends,
            pad_token_id=0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            num_return_sequences=settings["num_beams"],
            **settings,
        )
        rows = found.sequences[:, len(prompt) :].tolist()
        lengths = [next((at + 1 for at, one in enumerate(row) if one in ends), len(row)) for row in rows]
        return [row[:length] for row, length in zip(rows, lengths, strict=True)], found.sequences_scores.tolist()

    def compare(self, seed: int, theirs: dict[str, Any], **ours: Any) -> None:
        draw = np.random.default_rng(seed)
        vocabulary = self.model.config.vocab_size
        prompt = draw.integers(3, vocabulary, 9).tolist()
        ends = sorted({*self.model.eos, *draw.integers(3, vocabulary, 9).tolist()})
        rows, scores = self.theirs(prompt, ends, max_new_tokens=ours["max_tokens"], **theirs)
        generation = self.model.generate(prompt, stop=ends, **ours)
        generation.text()
        assert [list(one.tokens) for one in generation.found] == rows
        assert generation.tokens == rows[0]
        assert np.abs(np.array([one.score for one in generation.found]) - scores).max() < BOUND * np.abs(scores).max()


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return opened(request.param, tmp_path_factory.mktemp("beams"))


def opened(name: str, folder: Path) -> Both:
    checkpoint = tiny_models.save(name, folder / "checkpoint")
    export(checkpoint, out=folder / "bundle", recipe="fp32", target="x86-cpu", threads=1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return Both(load(folder / "bundle", threads=1, prepared=False), reference)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return opened("llama", tmp_path_factory.mktemp("llama"))


def test_ways_and_scores_are_those_of_transformers(both: Both) -> None:
    name = both.reference.config.model_type
    tokens = next(count for kind, count in KINDS.items() if kind.startswith(name.removesuffix("_text")))
    for seed in range(2):
        theirs = {"num_beams": 4, "length_penalty": 1.3}
        both.compare(seed, theirs, beams=Beams(4, length_penalty=1.3), max_tokens=tokens)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_beams": 2}, {"beams": Beams(2)}),
        ({"num_beams": 7, "length_penalty": -1.0}, {"beams": Beams(7, length_penalty=-1.0)}),
        ({"num_beams": 3, "early_stopping": True}, {"beams": Beams(3, early_stopping="yes")}),
        ({"num_beams": 3, "early_stopping": "never"}, {"beams": Beams(3, early_stopping="never")}),
        ({"num_beams": 4, "no_repeat_ngram_size": 2}, {"beams": Beams(4), "no_repeat_ngram": 2}),
        ({"num_beams": 4, "repetition_penalty": 1.4}, {"beams": Beams(4), "repetition_penalty": 1.4}),
        (
            {"num_beams": 4, "sequence_bias": {(7,): 3.0, (9,): float("-inf")}},
            {"beams": Beams(4), "bias": {7: 3.0, 9: float("-inf")}},
        ),
    ],
    ids=str,
)
def test_every_setting_means_what_it_means_to_transformers(
    llama: Both, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    for seed in range(3):
        llama.compare(seed, theirs, max_tokens=12, **ours)


def test_a_form_and_stop_texts_hold_for_each_way(llama: Both) -> None:
    """transformers is told the tokens that may come, and when a text is over, by looking at all texts there are."""
    model, library = llama.model, llama.model.tokenizer.library
    options = ["to be", "the mind", "slings", "to suffer", "nobler"]
    names = {token: library.decode([token]) for token in range(model.config.vocab_size)}
    prompt = model.tokenizer.encode("whether")

    def said(row: Any) -> str:
        return library.decode(row.tolist()[len(prompt) :])

    def allowed(_: int, row: Any) -> list[int]:
        return [token for token, name in names.items() if name and any(o.startswith(said(row) + name) for o in options)]

    class Over(transformers.StoppingCriteria):  # type: ignore[misc] # transformers is not typed
        def __call__(self, rows: Any, _: Any, **__: Any) -> Any:
            return torch.tensor([said(row) in options for row in rows])

    found = llama.reference.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=3,
        max_new_tokens=20,
        eos_token_id=sorted(model.eos),
        pad_token_id=0,
        prefix_allowed_tokens_fn=allowed,
        stopping_criteria=transformers.StoppingCriteriaList([Over()]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    generation = model.generate("whether", beams=Beams(3), constraint=Constraint.choice(options), max_tokens=20)
    text = generation.text()
    assert text in options
    assert generation.tokens == found.sequences[0, len(prompt) :].tolist()
    assert abs(generation.found[0].score - float(found.sequences_scores[0])) < BOUND
    assert {one.text for one in generation.found} <= set(options)
    assert generation.stop_reason == "end"


def test_stop_texts_end_ways_and_are_not_shown(llama: Both) -> None:
    model = llama.model
    whole = model.generate([5, 9, 33], beams=Beams(3), max_tokens=16)
    text = whole.text()
    assert whole.stop_reason == "max_tokens"
    stop = text[len(text) // 2 :][:3]
    cut = model.generate([5, 9, 33], beams=Beams(3), max_tokens=16, stop=[stop])
    assert stop not in cut.text()
    ended = [one for one in cut.found if len(one.tokens) < 16]
    assert ended
    assert all(stop not in one.text for one in cut.found)
    if cut.found[0] in ended:
        assert cut.stop_reason == "stop"


class Chain:
    """Texts whose next token has probabilities by the last one alone: what :func:`beam_search` asks of a model."""

    def __init__(self, table: Floats) -> None:
        self.table, self.ends, self.last = table, [0], np.zeros(1, np.int64)

    def begin(self) -> None: ...

    def append(self, tokens: Sequence[int]) -> Floats:
        return self.table[tokens[-1]]

    def spread(self, count: int) -> None: ...

    def reorder(self, order: Tokens) -> None: ...

    def step(self, tokens: Tokens) -> Floats:
        return self.table[tokens]


@dataclass
class Free:
    """Rules that forbid nothing; token 0 ends a text."""

    beams: Beams
    most: int
    ends: Sequence[int] = (0,)

    def apply(self, _: Tokens, scores: Floats) -> Floats:
        return scores

    def ending(self, texts: Tokens, _: Tokens) -> Any:
        return texts[:, -1] == 0

    def follow(self, chosen: Tokens) -> None: ...


@given(
    st.lists(st.floats(-3, 3), min_size=9, max_size=9),
    st.integers(1, 4),
    st.floats(-2, 2),
    st.sampled_from(["no", "never"]),
)
def test_as_many_beams_as_texts_find_the_best_of_all(
    numbers: list[float], longest: int, penalty: float, early: Any
) -> None:
    """Nothing is left out, so the best is brute force's; ``no`` may stop before it, and then says a real text."""
    table = np.array(numbers, np.float32).reshape(3, 3)
    logs = table - np.log(np.exp(table.astype(np.float64)).sum(1, keepdims=True))

    def score(text: Sequence[int]) -> float:
        pairs = zip((1, *text[:-1]), text, strict=True)
        return float(sum(logs[one, other] for one, other in pairs) / len(text) ** penalty)

    texts = [text for length in range(1, longest + 1) for text in product(range(3), repeat=length)]
    whole = [text for text in texts if 0 not in text[:-1] and (text[-1] == 0 or len(text) == longest)]
    beams = Beams(3**longest if longest < 4 else 64, length_penalty=penalty, early_stopping=early)
    found = beam_search(Chain(table), [1], Free(beams, 1 + longest))
    assert found[0].score == pytest.approx(score(found[0].tokens), abs=1e-4)
    assert found[0].total == pytest.approx(sum(found[0].said), abs=1e-4)
    if early == "never" and penalty >= 0:
        assert found[0].score == pytest.approx(max(map(score, whole)), abs=1e-4)


# ---- the texts of a model --------------------------------------------------------------------------------------------


def sessions(model: Model) -> list[Session]:
    return list(open_side_by_side(model.session, 2, model.context))  # type: ignore[arg-type] # it is the CPU's


@pytest.mark.parametrize("apart", [1, 5, 30])
def test_a_text_takes_over_from_another_what_they_do_not_share(both: Both, apart: int) -> None:
    """The bits are those of a session that has seen nothing else, whatever the states are."""
    one, other = sessions(both.model)
    draw = np.random.default_rng(apart)
    first, mine, its = (draw.integers(3, both.model.config.vocab_size, count).tolist() for count in (21, apart, apart))
    for session, rest in ((one, mine), (other, its)):
        session.append(first)
        for token in rest:
            session.append([token])
    one.go_on_from(other, len(first))
    wanted = [other.append([token])[-1].copy() for token in (7, 8, 9)]
    assert [one.append([token])[-1].tolist() for token in (7, 8, 9)] == [row.tolist() for row in wanted]
    fresh = sessions(both.model)[0]
    fresh.go_on_from(other)
    assert fresh.position == other.position
    assert np.array_equal(fresh.append([11]), other.append([11]))


def test_a_text_of_another_length_shares_nothing(llama: Both) -> None:
    one, other = sessions(llama.model)
    one.append([5, 6, 7])
    other.append([5, 6])
    with pytest.raises(InputError, match="one length"):
        one.go_on_from(other, 2)
    one.go_on_from(other)
    assert one.position == 2


def test_a_snapshot_forgets_what_was_computed_for_another_text(llama: Both) -> None:
    one, other = open_side_by_side(llama.model.session, 2, 32)  # type: ignore[arg-type] # it is the CPU's
    assert one.together == 2
    one.append([5, 6, 7])
    aside = one.snapshot()
    other.append([9, 8, 4])
    other.expect(11)
    one.append([3])  # computes 11 after 9 8 4, too
    other.restore(aside)
    found = other.append([11])[-1].copy()
    one.restore(aside)
    assert np.array_equal(found, one.append([11])[-1])


def test_hybrids_of_other_makers_are_searched_too(tmp_path: Path) -> None:
    model = load(write_hybrid(tmp_path / "hybrid"), threads=1, prepared=False)
    texts = sessions(model)
    assert {state.kind for state in texts[0].states} == {"key-value", "convolution"}
    texts[0].append([1, 2, 3])
    texts[1].go_on_from(texts[0])
    assert np.array_equal(texts[0].append([VOCABULARY - 1]), texts[1].append([VOCABULARY - 1]))


# ---- the ways in -----------------------------------------------------------------------------------------------------


def test_one_beam_is_greedy_and_more_are_at_least_as_likely(llama: Both) -> None:
    model, prompt = llama.model, [5, 9, 17, 33]
    greedy = model.generate(prompt, max_tokens=20)
    text = greedy.text()
    one = model.generate(prompt, max_tokens=20, beams=Beams(1))
    assert one.text() == text
    assert one.tokens == greedy.tokens
    many = model.generate(prompt, max_tokens=20, beams=Beams(8, length_penalty=0.0))
    many.text()
    assert many.found[0].score >= one.found[0].score * len(one.tokens) - BOUND
    assert [one.score for one in many.found] == sorted((one.score for one in many.found), reverse=True)
    assert "ways" in many.statistics()


def test_memory_is_said_before_and_texts_stay_open(llama: Both) -> None:
    model = llama.model
    generation = model.generate([5, 6, 7], max_tokens=10, beams=Beams(4))
    search = generation.search
    assert isinstance(search, BeamSearch)
    per_token = sum(4 * state.elements for state in model.config.states)
    assert search.most_bytes(generation) == 4 * 13 * per_token
    endless = model.generate([5, 6, 7], beams=Beams(2))
    assert isinstance(endless.search, BeamSearch)
    assert endless.search.most_bytes(endless) == 2 * model.context * per_token
    generation.text()
    texts = search.room.texts(4, 12)
    assert search.room.texts(3, 9) == texts[:3]


def test_an_interrupted_search_leaves_nothing_behind(llama: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(llama.model.config.bundle, threads=1, prepared=False)
    wanted = model.generate([5, 6, 7], max_tokens=8, beams=Beams(2))
    text = wanted.text()
    calls = iter(range(5))
    run = Session._run

    def interrupted(self: Session, *given: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        run(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate([9, 8, 7, 6], max_tokens=8, beams=Beams(4)).text()
    again = model.generate([5, 6, 7], max_tokens=8, beams=Beams(2))
    assert again.text() == text
    assert [one.score for one in again.found] == [one.score for one in wanted.found]


def test_the_context_ends_ways(llama: Both) -> None:
    model = load(llama.model.config.bundle, threads=1, prepared=False, context=12)
    generation = model.generate([5, 6, 7], beams=Beams(3), stop=[])
    generation.text()
    if generation.stop_reason != "end":
        assert generation.stop_reason == "context"
        assert len(generation.tokens) == 10


def test_a_conversation_is_answered_and_goes_on(tmp_path: Path) -> None:
    model = load(chat_bundle(tmp_path / "bundle"), threads=1, prepared=False)
    asked = [{"role": "user", "content": "Good morrow."}]
    answer = model.chat(asked, beams=Beams(3), max_tokens=8)
    assert "".join(answer) == answer.content
    assert answer.sampling.temperature == 0
    again = model.chat(asked, beams=Beams(3), max_tokens=8)
    assert "".join(again) == answer.content
    assert again.reused > 0
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(InputError, match="tool_choice 'free'"):
        "".join(model.chat(asked, beams=Beams(3), tools=[tool]))
    free = model.chat(asked, beams=Beams(2), tools=[tool], tool_choice="free", max_tokens=4)
    "".join(free)
    assert free.found


def test_what_does_not_go_together_is_refused(llama: Both) -> None:
    model, beams = llama.model, Beams(2)
    with pytest.raises(InputError, match=r"at temperature 0\.5"):
        model.generate([5], beams=beams, temperature=0.5).text()
    with pytest.raises(InputError, match="contrast"):
        model.generate([5], beams=beams, contrast=Contrast(model))
    with pytest.raises(InputError, match="forgetting"):
        model.generate([5], beams=beams, forgetting=Forgetting())
    with pytest.raises(InputError, match="speculation"):
        model.generate([5], beams=beams, speculate=Speculation("ngram"))
    forbidden = dict.fromkeys(range(model.config.vocab_size), float("-inf"))
    with pytest.raises(InputError, match="every token is forbidden"):
        model.generate([5], beams=beams, bias=forbidden).text()
    for wrong, message in (
        ({"count": 0}, "number of beams"),
        ({"count": 65}, "number of beams"),
        ({"count": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"count": 2, "early_stopping": "maybe"}, "early_stopping"),
    ):
        with pytest.raises(InputError, match=message):
            Beams(**wrong)  # type: ignore[arg-type] # what is wrong is the point
    elsewhere = model.with_session(Elsewhere())
    with pytest.raises(InputError, match="one text at a time"):
        elsewhere.generate([5], beams=beams)


class Elsewhere(Session):
    """A session of an accelerator."""

    def __init__(self) -> None:
        self.ran_on, self.context = RanOn("QNNExecutionProvider", "qnn-htp"), 16

    def check_room(self, count: int, after: int | None = None) -> None: ...

    def _compute(self, tokens: Any, first: int, *, release: bool) -> Any:
        raise NotImplementedError


def test_run_looks_for_the_likeliest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(chat_bundle(tmp_path / "bundle"))
    words = ["--prompt", "ROMEO:", "--max-tokens", "9", "--no-prepare"]
    assert main(["run", bundle, *words, "--beams", "3", "--length-penalty", "0.5", "--early-stopping", "yes"]) == 0
    said = capsys.readouterr()
    model = load(bundle, threads=1, prepared=False)
    wanted = model.generate("ROMEO:", max_tokens=9, beams=Beams(3, length_penalty=0.5, early_stopping="yes"))
    assert said.out == wanted.text() + "\n"
    assert "3 beams keep" in said.err
    assert "score" in said.err
    assert main(["run", bundle, *words, "--beams", "2", "--chat"]) == 0
    capsys.readouterr()
    assert main(["run", bundle, *words, "--beams", "1"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("1 beam keeps ")
    assert "; the best of 1 way, score" in said.err
    for extra, message in (
        (["--length-penalty", "1"], "give --beams N"),
        (["--beams", "2", "--best-of", "3"], "--best-of"),
        (["--beams", "2", "--temperature", "1"], "temperature"),
        (["--beams", "0"], "number of beams"),
    ):
        assert main(["run", bundle, *words, *extra]) == 2
        assert message in capsys.readouterr().err


@settings(max_examples=10)
@given(count=st.integers(1, 6), seed=st.integers(0, 1000))
def test_a_search_leaves_the_prompt_as_the_models_own_text(llama: Both, count: int, seed: int) -> None:
    model = llama.model
    prompt = np.random.default_rng(seed).integers(3, model.config.vocab_size, 6).tolist()
    first = model.generate(prompt, max_tokens=6)
    first.text()
    model.generate(prompt, beams=Beams(count), max_tokens=5).text()
    assert model.session.position == len(prompt)
    again = model.generate(prompt, max_tokens=6)
    again.text()
    assert again.tokens == first.tokens
