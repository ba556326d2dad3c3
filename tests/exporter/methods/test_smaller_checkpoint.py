"""Checkpoints that are written: what the safetensors library reads of them, and what cannot be written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_tasks import prune_task, tiny
from safetensors.torch import load_file

from edgepress.errors import InputError
from edgepress.exporter.methods.smaller import checkpoint as module
from edgepress.exporter.methods.smaller.checkpoint import (
    NewTensor,
    copied,
    read_rows,
    to_stored,
    write_checkpoint,
    write_safetensors,
)
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.stored import read_header

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def floats(name: str, dtype: str, values: np.ndarray) -> NewTensor:
    return NewTensor(name, dtype, values.shape, lambda start, stop: values[start:stop])


def test_the_library_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dtypes of both sizes, tensors of one and two dimensions, pieces of any number of rows."""
    monkeypatch.setattr(module, "_PIECE", 100)
    generator = np.random.default_rng(0)
    arrays = {
        "a": ("BF16", generator.standard_normal((7, 9)).astype(np.float32)),
        "b": ("F32", generator.standard_normal(13).astype(np.float32)),
        "c": ("F16", generator.standard_normal((1, 33)).astype(np.float32)),
        "d": ("F32", generator.standard_normal((40, 3)).astype(np.float32)),
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, [floats(name, dtype, values) for name, (dtype, values) in arrays.items()])
    found = load_file(path)
    for name, (dtype, values) in arrays.items():
        assert torch.equal(found[name], torch.from_numpy(values).to(TORCH[dtype])), name
    assert all(tensor.offset % 2 == 0 for tensor in read_header(path).values())


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20), st.sampled_from(sorted(TORCH)))
def test_rounding_is_torch_s(values: list[float], dtype: str) -> None:
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).to(TORCH[dtype]).view(torch.uint8).numpy()
    np.testing.assert_array_equal(to_stored(array, dtype), expected)


def test_what_overflows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wide: rows 0 to 2 are not finite in F16"):
        write_safetensors(tmp_path / "model.safetensors", [floats("wide", "F16", np.full((2, 2), 1e6, np.float32))])


@settings(deadline=None)
@given(st.lists(st.integers(0, 319), max_size=50))
def test_rows_are_picked_in_any_order(home: Path, indices: list[int]) -> None:
    tensor = Checkpoint.open(tiny("llama", home)).tensors["model.embed_tokens.weight"]
    whole_table = tensor.read(0, tensor.nbytes).reshape(320, -1)
    np.testing.assert_array_equal(read_rows(tensor, np.array(indices, np.int64)), whole_table[indices])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2-no-prefix-inner", "gemma3_text"])
def test_a_whole_pick_is_the_same_checkpoint(name: str, home: Path, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny(name, home))
    decoder = prune_task(tiny(name, home), tmp_path / "task").decoder
    tensors = picked_tensors(source, decoder, whole(decoder, decoder))
    written, described = write_checkpoint(source, tmp_path / "out", config=source.config, tensors=tensors)
    assert described == decoder
    old, new = load_file(source.weight_files[0]), load_file(written.weight_files[0])
    assert all(torch.equal(old[key], new[key]) for key in new)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source.directory / "tokenizer.json").read_bytes()


def test_tokenizer_files_can_be_replaced_and_others_cannot_be_added(home: Path, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny("llama", home))
    tensors = [copied(tensor) for tensor in source.tensors.values()]
    out = tmp_path / "out"
    write_checkpoint(source, out, config=source.config, tensors=tensors, files={"merges.txt": b"a b\n"})
    assert (out / "merges.txt").read_bytes() == b"a b\n"
    with pytest.raises(ValueError, match=r"\.\./evil"):
        write_checkpoint(source, out, config=source.config, tensors=tensors, files={"../evil": b""})


def test_what_cannot_be_read_back_is_an_error(home: Path, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny("llama", home))
    tensors = [copied(tensor) for tensor in source.tensors.values()]
    with pytest.raises(InputError, match="asks for"):
        write_checkpoint(source, tmp_path / "out", config={**source.config, "hidden_size": 32}, tensors=tensors)


def test_a_pick_of_another_shape_is_a_mistake(home: Path, tmp_path: Path) -> None:
    task = prune_task(tiny("llama", home), tmp_path / "task")
    picks = whole(task.decoder, task.decoder)
    weight = task.decoder.layers[0].mixer(MLP).up.weight
    picks[weight.name] = Pick(weight, rows=np.arange(5))
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up has shape \(96, 64\), its pick \(5, 64\)"):
        picked_tensors(task.checkpoint, task.decoder, picks)
