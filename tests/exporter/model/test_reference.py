import builtins
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
from safetensors.numpy import load_file, save_file

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.model import reference
from edgepress.exporter.model.reference import Reference

torch = pytest.importorskip("torch")
TOKENS = np.arange(3, 40)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama-tied-llama3", tmp_path_factory.mktemp("reference") / "model")


def test_one_module_s_weights_are_in_memory_at_a_time(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(checkpoint, keep=False)
    held: list[int] = []
    linear = torch.nn.functional.linear

    def watch(*arguments: object) -> object:
        held.append(sum(not parameter.is_meta for parameter in reference._model.parameters()))
        return linear(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", watch)
    reference.logits(TOKENS)
    assert len(held) == 3 * 7 + 1  # three layers of seven projections, and the head
    assert set(held) == {1}
    assert all(parameter.is_meta for parameter in reference._model.parameters())


def test_a_small_model_is_read_once_and_its_tied_head_shared(checkpoint: Path) -> None:
    asked: list[str] = []

    def weights(name: str) -> np.ndarray:
        asked.append(name)
        raise KeyError(name)

    reference = Reference(checkpoint, weights=weights)
    first = reference.logits(TOKENS)
    assert np.array_equal(reference.logits(TOKENS), first)
    assert sorted(asked) == sorted(load_file(checkpoint / "model.safetensors"))


def test_weights_are_taken_from_the_caller_first(checkpoint: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    replaced = load_file(checkpoint / "model.safetensors")[name] * 0
    one = Reference(checkpoint, weights={name: replaced}.__getitem__).logits(TOKENS)
    assert not np.allclose(one, Reference(checkpoint).logits(TOKENS))


def test_weights_of_another_shape_are_named(checkpoint: Path) -> None:
    weights = {"model.norm.weight": np.ones(3, np.float32)}.__getitem__
    with pytest.raises(InputError, match=r"model.norm.weight has shape \(3,\), and .* asks for \(64,\)"):
        Reference(checkpoint, weights=weights).logits(TOKENS)


def test_a_missing_tensor_is_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(InputError, match=r"has no tensor model\.norm\.weight"):
        Reference(tmp_path)


def test_without_torch_the_remedy_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def without_torch(name: str, *rest: object) -> object:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return really_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(InputError, match=r"needs torch.*pip install 'edgepress\[export\]'"):
        Reference(checkpoint)


def test_a_family_that_transformers_lacks_is_refused_before_any_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = SimpleNamespace(CONFIG_MAPPING={}, __version__="5.0.0")
    monkeypatch.setattr(reference, "_libraries", lambda: (None, lacking))
    monkeypatch.setattr(
        importlib.import_module("edgepress.exporter.export"), "shrink", None
    )  # what would be called next
    with pytest.raises(InputError, match=r"transformers 5\.0\.0 has no class for model_type 'llama'.*without --check"):
        export(checkpoint, out=tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()
