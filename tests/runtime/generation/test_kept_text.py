"""``[cache] keep``: what a recipe says of long texts is in the bundle, holds there by default, and has its price."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.written.inspection import format_inspection, inspect
from edgepress.exporter.decide.report import format_plan
from edgepress.exporter.demo.train import TEXT_IN_DATA, default_data
from edgepress.runtime import Beams, Model, load
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.measures.evaluate import read_corpus
from edgepress.terminal.progress import silent

KEEP, SINKS = 40, 3
PROMPT = list(range(5, 25))


def recipe(folder: Path, cache: str, more: str = "") -> Path:
    path = folder / "keep.toml"
    path.write_text(f"weights.bits = 32\n[cache]\n{cache}\n{more}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "text.txt").write_text((default_data() / TEXT_IN_DATA).read_text(encoding="utf-8")[:3000])
    calibration = '[calibration]\ntext = ["text.txt"]\ntokens = 320\nlength = 160\n'
    asked = recipe(folder, f"keep = {KEEP}\nsinks = {SINKS}", calibration)
    export("demo", out=folder / "bundle", target="x86-cpu", recipe=asked, threads=1)
    return folder / "bundle"


def opened(bundle: Path, **more: int) -> Model:
    return load(bundle, threads=1, prepared=False, **more)


def test_a_text_goes_on_as_the_recipe_says_unless_something_else_is_asked_for(bundle: Path) -> None:
    model = opened(bundle)
    assert model.context == KEEP
    bias = dict.fromkeys(model.eos, -np.inf)
    plain = model.generate(PROMPT, max_tokens=60, bias=bias)
    asked = opened(bundle).generate(PROMPT, max_tokens=60, bias=bias, forgetting=Forgetting(SINKS, 0.125, "moving"))
    assert plain.text() == asked.text()
    assert plain.forgotten == asked.forgotten == 42  # of the 79 computed 39 do not fit, 6 at a time
    for without in (
        model.generate(PROMPT, bias=bias, forgetting=False),
        model.generate(PROMPT, bias=bias, beams=Beams(2)),  # which takes no part in it
    ):
        without.text()
        assert (without.stop_reason, without.forgotten) == ("context", 0)
    longer = opened(bundle, context=90).generate(PROMPT, bias=bias, forgetting=False)
    longer.text()
    assert len(longer.tokens) == 90 - len(PROMPT) + 1


def test_a_longer_prompt_loses_its_middle_and_a_warning_says_so(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = list(range(5, 5 + KEEP + 10))
    with caplog.at_level(logging.WARNING):
        generation = opened(bundle).generate(text)
    assert generation.prompt == [*text[:SINKS], *text[-(KEEP - 5 - SINKS) :]]
    assert f"the prompt has 50 tokens, and {bundle} keeps 40 by default" in caplog.text
    assert "what is read are its first 3 and last 32; a longer context reads all of it" in caplog.text
    with pytest.raises(InputError, match="50 tokens do not fit in the context of 40"):
        opened(bundle).generate(text, forgetting=False)


def by_hand(bundle: Path, texts: list[list[int]]) -> list[float]:
    """Bits of all tokens beyond what is kept, each scored by what is kept before it, and by all of its text."""
    how, bits = Forgetting(SINKS, 0.125), np.zeros(2)
    for way, model in enumerate((opened(bundle), opened(bundle, context=4 * KEEP))):
        for text in texts:
            held = text[:1]
            row = model.begin(held, reuse=False)
            for at, token in enumerate(text[1:], 1):
                if at >= KEEP:
                    chances = row.astype(np.float64) - row.max()
                    bits[way] -= (chances[token] - np.log(np.exp(chances).sum())) / np.log(2)
                if len(held) == model.context:
                    kept = how.kept([*held, token], model.context)
                    model.evict(SINKS, len(held) + 1 - len(kept))
                    held = kept[:-1]
                held.append(token)
                row = model.decode(token)
    return bits.tolist()


def test_its_price_is_that_of_tokens_one_by_one(bundle: Path) -> None:
    from edgepress.exporter.learn.calibration.run import form_tokens

    prepared = decide("demo", target="x86-cpu", recipe=bundle.parent / "keep.toml")
    texts = form_tokens(prepared, threads=1, progress=silent).reshape(-1, 4 * KEEP)
    kept = read_manifest(bundle).kept
    assert kept is not None
    assert kept.loss is not None
    assert kept.loss.tokens == texts.size - len(texts) * KEEP
    found = kept.loss.bits, kept.loss.whole_bits
    np.testing.assert_allclose(np.multiply(found, kept.loss.tokens), by_hand(bundle, texts.tolist()), rtol=1e-5)
    assert found[0] != found[1]


def test_eval_says_what_it_loses_of_documents(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (default_data() / TEXT_IN_DATA).read_text(encoding="utf-8")
    documents, (whole, short) = tmp_path / "text.json", (text[-700:], text[5000:5050])
    documents.write_text(json.dumps([whole, short]), encoding="utf-8")
    command = ["eval", str(bundle), "--threads", "1", "--no-prepare", "--context", "64", "--stride", "32", "--text"]
    assert main([*command, str(documents), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["kept"]
    tokens = read_corpus(bundle, [whole]).documents[0].tolist()
    texts = [tokens[start : start + 4 * KEEP] for start in range(0, len(tokens), 4 * KEEP)]
    texts = [one for one in texts if len(one) > KEEP]
    assert len(texts) > 1
    count = sum(map(len, texts)) - KEEP * len(texts)
    assert (found["tokens"], found["loss"]["tokens"]) == (KEEP, count)
    measured = [found["loss"]["bits"] * count, found["loss"]["whole_bits"] * count]
    np.testing.assert_allclose(measured, by_hand(bundle, texts), rtol=1e-5)
    assert main([*command, str(documents)]) == 0
    said = f"keeps           {KEEP} tokens of a text: {found['loss']['bits']:.4f} bits a token beyond, "
    assert said in capsys.readouterr().out
    documents.write_text(json.dumps([short]), encoding="utf-8")
    assert main([*command, str(documents)]) == 0
    assert f"keeps           {KEEP} tokens of a text: none here is longer" in capsys.readouterr().out


def test_plan_and_inspect_say_it(bundle: Path) -> None:
    prepared = decide("demo", target="x86-cpu", recipe=bundle.parent / "keep.toml")
    line = "40 tokens of a text: of a longer one the first 3 and the last stay, and 5 go at a time"
    planned = format_plan(prepared)
    assert line in planned
    assert "context 40 by default, up to 512" in planned
    inspected = format_inspection(inspect(bundle))
    assert line in inspected
    assert str(read_manifest(bundle).kept.loss) in inspected  # type: ignore[union-attr]


def test_the_command_line_wins(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(bundle), "--prompt", "ROMEO:", "--max-tokens", "70", "--threads", "1", "--no-prepare"]
    for more, said in (
        ([], "tokens forgotten; ended by max_tokens"),
        (["--no-forget"], "ended by context"),
        (["--context", "200"], "70 generated"),
        (["--forget", "0.5", "--forget-by", "computing"], "computed again; ended by max_tokens"),
    ):
        assert main([*command, *more]) == 0
        said_last = capsys.readouterr().err.splitlines()[-1]
        assert said in said_last
        assert ("forgotten" in said_last) == (more[:1] not in (["--no-forget"], ["--context"]))
    assert main([*command, "--forget", "0.5", "--no-forget"]) == 2
    assert "--no-forget ends there; leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cache", "why"),
    [
        ("keep = 5", r"\[cache\] keep: 5 tokens are kept, the first 4 of them always.*at least 6 must be kept"),
        ("keep = true", r"\[cache\] keep must be a number of tokens, not True"),
        ("keep = 20\nsinks = -1", r"20 tokens are kept, the first -1 of them always"),
        ("sinks = 2", r"\[cache\] sinks are tokens that always stay of what keep = N keeps; add it"),
        ("keep = 513", r"keep = 513, and the model's context has 512 tokens; keep fewer"),
    ],
)
def test_what_cannot_be_kept_is_one_error(cache: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        decide("demo", target="x86-cpu", recipe=recipe(tmp_path, cache))


@pytest.mark.parametrize(
    ("variant", "cache", "target", "why"),
    [
        ("gpt2", "keep = 16", "x86-cpu", "its keys are bound to the positions at which they were computed"),
        ("gemma3_text", "keep = 20\nwindows = true", "x86-cpu", "a window of 16 tokens, of which 14 would stay behind"),
        ("llama", "keep = 20", "qnn-htp", "the static graphs of qnn-htp have caches of their own"),
    ],
)
def test_models_and_targets_that_it_is_not_for_are_named(
    variant: str, cache: str, target: str, why: str, tmp_path: Path
) -> None:
    save(variant, tmp_path / "checkpoint")
    with pytest.raises(InputError, match=f"the recipe has .cache. keep = .*{why}"):
        decide(tmp_path / "checkpoint", target=target, recipe=recipe(tmp_path, cache))


def test_too_little_text_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 30, encoding="utf-8")
    asked = recipe(tmp_path, "keep = 400", '[calibration]\ntext = ["text.txt"]\ntokens = 128\nlength = 64\n')
    with caplog.at_level(logging.WARNING):
        export("demo", out=tmp_path / "bundle", target="x86-cpu", recipe=asked, threads=1)
    assert "what keeping 400 tokens of a text loses is not measured: the calibration text has 128" in caplog.text
    kept = read_manifest(tmp_path / "bundle").kept
    assert kept is not None
    assert (kept.tokens, kept.first, kept.loss) == (400, 4, None)
