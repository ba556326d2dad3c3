"""Open bundles of an encoder and a decoder: texts and sounds in, text out, and what is refused."""

import json
import shutil
from pathlib import Path

import encoder_decoders
import numpy as np
import pytest

from edgepress import cli
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.decide.encoder_decoder import decide_encoder_decoder, is_encoder_decoder
from edgepress.runtime import load
from edgepress.runtime.sequences.model import TextModel

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("text")
    export(encoder_decoders.save("bart", home / "bart"), out=home / "bundle", target="x86-cpu", threads=1)
    return home / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> TextModel:
    opened = load(bundle, threads=1)
    assert isinstance(opened, TextModel)
    return opened


def test_pieces_joined_are_the_text_of_all_tokens(model: TextModel) -> None:
    writing = model.generate(TEXT, max_tokens=12)
    pieces = list(writing)
    assert len(pieces) > 1
    kept = [token for token in writing.tokens if token not in model.sequences.ends]
    assert "".join(pieces) == model.tokenizer.decode(kept)
    assert writing.stopped == ("end" if writing.tokens[-1] in model.sequences.ends else "most tokens")


def test_beams_give_one_target_with_its_score(model: TextModel) -> None:
    writing = model.generate(TEXT, beams=3, max_tokens=10)
    assert writing.text() == model.tokenizer.decode([t for t in writing.tokens if t not in model.sequences.ends])
    assert writing.score is not None
    assert writing.score < 0


def test_run_gives_the_logits_of_a_given_target(model: TextModel) -> None:
    target = np.array([[1, 40, 50, 60]])
    logits = model.run({"input_ids": model.encode(TEXT), "decoder_input_ids": target})["logits"]
    assert logits.shape == (1, 4, encoder_decoders.VOCABULARY)
    model.session.encode({"input_ids": model.encode(TEXT)})
    assert np.abs(model.session.append(target[0]) - logits[0, -1]).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "empty"),
        ("word " * 200, {}, "the encoder has 64 positions"),
        (TEXT, {"max_tokens": 0}, "max_tokens"),
        (TEXT, {"beams": 0}, "beams"),
        (TEXT, {"length_penalty": "long"}, "length_penalty"),
        (TEXT, {"speed": 3}, "no setting speed"),
        (TEXT, {"target": "fr"}, "no token of the language 'fr'"),
    ],
)
def test_what_cannot_be_is_said(model: TextModel, text: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(text, **settings)  # type: ignore[arg-type]  # that is the test


def test_a_target_is_written_of_a_source(bundle: Path) -> None:
    with pytest.raises(InputError, match="no source was encoded"):
        load(bundle, threads=1).session.append([5])


def test_a_target_longer_than_the_positions_is_refused(model: TextModel) -> None:
    model.session.encode({"input_ids": model.encode(TEXT)})
    with pytest.raises(InputError, match="the decoder has 64 positions"):
        model.session.append([5] * 65)


def test_verbs_take_such_a_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both graphs are looked at, and the text that is written is printed."""
    assert cli.main(["inspect", str(bundle), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert {"encoder_hidden", "logits"} <= {value["name"] for value in described["outputs"]}
    assert described["operators"]["com.microsoft.GroupQueryAttention"] == 2
    assert cli.main(["check", str(bundle), "--target", "x86-cpu", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["models"]) == 2
    assert cli.main(["bench", str(bundle), "--repetitions", "2", "--decode-tokens", "5", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [len(turn) for turn in measured["token_seconds"]] == [5, 5]
    assert cli.main(["run", str(bundle), "--prompt", TEXT, "--max-tokens", "6"]) == 0
    opened = load(bundle, threads=1)
    assert capsys.readouterr().out.removesuffix("\n") == opened.generate(TEXT, max_tokens=6).text()
    beams = ["--beams", "3", "--length-penalty", "0.5", "--early-stopping", "yes"]
    assert cli.main(["run", str(bundle), "--prompt", TEXT, "--max-tokens", "6", *beams]) == 0
    wanted = opened.generate(TEXT, max_tokens=6, beams=3, length_penalty=0.5, early_stopping="yes")
    assert capsys.readouterr().out.removesuffix("\n") == wanted.text()
    assert cli.main(["run", str(bundle), "--prompt", TEXT, "--length-penalty", "0.5"]) == 2
    assert "give --beams N, too" in capsys.readouterr().err
    assert cli.main(["run", str(bundle), "--inputs", "x.npz"]) == 2
    samples = tmp_path / "samples.jsonl"
    rows = [{"text": TEXT, "target": opened.generate(TEXT).text()}, {"text": "the mat", "target": "no such text"}]
    samples.write_text("\n".join(map(json.dumps, rows)))
    capsys.readouterr()
    assert cli.main(["eval", str(bundle), "--data", str(samples), "--json"]) == 0
    assert [(one["metric"], one["value"]) for one in json.loads(capsys.readouterr().out)] == [("exact-match", 0.5)]


def test_a_checkpoint_is_exported_once_to_be_compared_with(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    checkpoint = tmp_path / "bart"
    shutil.copytree(bundle.parent / "bart", checkpoint)
    opened = load(bundle, threads=1)
    rows = [{"text": text, "target": opened.generate(text).text()} for text in (TEXT, "the mat", "a cat")]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("\n".join(map(json.dumps, rows)))
    asked = ["eval", str(bundle), "--data", str(samples), "--reference", str(checkpoint), "--json"]
    found = []
    for _ in range(2):
        assert cli.main(asked) == 0
        told = capsys.readouterr()
        found.append((json.loads(told.out), "becomes a float32 bundle" in told.err))
    assert found[0][0] == found[1][0]
    assert [made for _, made in found] == [True, False]
    (score,) = found[0][0]
    assert score["reference"] == 1 - score["changed"]  # the targets are the bundle's own
    (checkpoint / "README.md").write_text("another state of the files")
    assert cli.main(asked) == 0
    assert "becomes a float32 bundle" in capsys.readouterr().err
    assert len([path for path in (tmp_path / "cache" / "references").iterdir() if path.is_dir()]) == 2
    assert cli.main([*asked[:-2], str(encoder_decoders.save("whisper", tmp_path / "whisper")), "--json"]) == 2


def test_a_classifier_of_the_same_type_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bart", "architectures": ["BartForSequenceClassification"]})
    )
    assert not is_encoder_decoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart"}))
    assert is_encoder_decoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_start_token_id": None, "bos_token_id": None}, "decoder_start_token_id"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"num_beams": "four"}, "num_beams"),
        ({"eos_token_id": 9999}, "eos_token_id 9999"),
        ({"length_penalty": 1e9}, "length_penalty"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    checkpoint = encoder_decoders.save("t5", tmp_path / "t5")
    path = checkpoint / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    config = checkpoint / "config.json"
    plain = {key: value for key, value in json.loads(config.read_text()).items() if key not in change}
    config.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=message):
        decide_encoder_decoder(checkpoint, target="x86-cpu")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("int4-best", r"has \[budget\], and .* is an encoder-decoder, .* take fp32, .* int4-128 or int4-fast"),
        ("int4-fast", "int4-fast has autoround, which must see what .* name texts or sounds by --calibration"),
        ("int8-static", "uint8 activations, and .* is an encoder-decoder"),
    ],
)
def test_recipes_of_language_models_are_refused(tmp_path: Path, recipe: str, message: str) -> None:
    checkpoint = encoder_decoders.save("t5", tmp_path / "t5")
    with pytest.raises(InputError, match=message):
        decide_encoder_decoder(checkpoint, target="x86-cpu", recipe=recipe)


@pytest.mark.parametrize("recipe", ["int4-fast", "int4-channel"])
def test_presets_that_learn_learn_products_here(tmp_path: Path, recipe: str) -> None:
    checkpoint = encoder_decoders.save("t5", tmp_path / "t5")
    found = decide_encoder_decoder(checkpoint, target="x86-cpu", recipe=recipe, samples=["texts.jsonl"])
    assert not found.recipe.after
    assert {tensor.scheme.method for tensor in found.plan.tensors if tensor.scheme is not None} >= {"autoround"}
    left_out = [note for note in found.notes if "is left out" in note]
    assert left_out == (
        ["distill is left out: it trains language models by their logits; autoround learns each product in its place"]
        if recipe == "int4-fast"
        else []
    )
