"""Logits that are no numbers end what they were computed for, and the message says where."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import sign
from safetensors.numpy import load_file, save_file
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.finite import check_figure, check_logits
from edgepress.runtime import evaluate, load

TEXT = "To be, or not to be, that is the question: whether tis nobler in the mind to suffer"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="fp32")
    return directory / "bundle"


def spoil(bundle: Path, name: str, value: float, row: int | None = None) -> Path:
    """Write ``value`` into the first number of a tensor, or of one of its rows; the manifest is made to fit."""
    (tensor,) = (one for one in json.loads((bundle / "manifest.json").read_text())["tensors"] if one["name"] == name)
    data = np.memmap(bundle / "model.onnx.data", np.uint8, "r+")
    offset, size = (
        tensor["regions"]["values"] if "values" in tensor["regions"] else next(iter(tensor["regions"].values()))
    )
    numbers = data[offset : offset + size].view("<f4")
    numbers[0 if row is None else row * tensor["shape"][1]] = value
    data.flush()
    return sign(bundle)


@pytest.fixture(params=[np.nan, np.inf], ids=str)
def broken(exported: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return spoil(shutil.copytree(exported, tmp_path / "bundle"), "final_norm", request.param)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("run", ["--prompt", "To be"]),
        ("run", ["--prompt", "To be", "--temperature", "0.8", "--seed", "1"]),
        ("run", ["--prompt", "To be", "--repetition-penalty", "1.2"]),
        ("bench", ["--repetitions", "1", "--warmup", "0", "--prompt-lengths", "4", "--decode-tokens", "2"]),
        ("bench", ["--repetitions", "1", "--warmup", "0", "--prompt-lengths", "4", "--decode-tokens", "2", "--json"]),
        ("eval", ["--context", "16", "--stride", "8"]),
        ("eval", ["--context", "16", "--stride", "8", "--json"]),
    ],
)
def test_a_bundle_that_gives_no_numbers_gives_no_text_and_no_figure(
    broken: Path, verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--text", str(broken.parent / "text.txt")] if verb == "eval" else []
    assert main([verb, str(broken), *words, *given, "--threads", "1", "--no-prepare"]) == 2
    output = capsys.readouterr()
    assert output.out.strip() == ""
    assert "no token can be chosen" in output.err
    assert "edgepress verify" in output.err
    assert "--recipe fp32" in output.err
    assert ("document 1" if verb == "eval" else "after ") in output.err
    assert "Traceback" not in output.err


def test_the_place_of_the_first_such_logits_is_said(exported: Path, tmp_path: Path) -> None:
    """One row of the embedding is NaN: the text is fine until that token comes."""
    bundle = spoil(shutil.copytree(exported, tmp_path / "bundle"), "embedding", np.nan, row=7)
    model = load(bundle, threads=1, prepared=False)
    model.prefill([3, 4, 5])
    model.decode(6)
    with pytest.raises(InputError, match="after 5 tokens, the last 7"):
        model.decode(7)
    model.reset()
    with pytest.raises(InputError, match="after 3 tokens"):
        model.prefill([3, 7, 4])


def test_eval_stops_at_the_reference_too(exported: Path) -> None:
    class Broken:
        def logits(self, tokens: np.ndarray) -> np.ndarray:
            found = np.zeros((tokens.size, 1000), np.float32)
            found[3, 2] = np.nan
            return found

    with pytest.raises(InputError, match=r"the reference model, document 1.*row 3 of"):
        evaluate(exported, [TEXT], context=16, stride=8, threads=1, prepared=False, reference=Broken())


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_export_check_names_a_checkpoint_that_overflows(
    exported: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every weight is a finite number, and what is computed from them is none."""
    checkpoint = shutil.copytree(exported.parent / "checkpoint", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[name] = np.full_like(tensors[name], 3e38, dtype=np.float32)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    assert main(["export", str(checkpoint), "--recipe", "fp32", "--out", str(tmp_path / "out"), "--check"]) == 2
    error = capsys.readouterr().err
    assert "the reference model, on built-in prose" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_masked_entries_of_a_vocabulary_are_no_error() -> None:
    check_logits(np.array([-np.inf, 1.0, -np.inf]), "here")
    check_logits(np.array([[-np.inf, 1.0], [0.0, -np.inf]]), "here")


@pytest.mark.parametrize(
    "logits",
    [[np.nan, 1.0], [1.0, np.nan], [np.inf, 1.0], [-np.inf, -np.inf], [[1.0, 2.0], [np.nan, 1.0]]],
)
def test_what_says_nothing_is_an_error(logits: list[float]) -> None:
    with pytest.raises(InputError, match="the place"):
        check_logits(np.array(logits, np.float32), "the place")


def test_a_figure_that_is_none_is_an_error() -> None:
    assert check_figure(1.5, "it") == 1.5
    for figure in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="the loss is"):
            check_figure(figure, "the loss")
