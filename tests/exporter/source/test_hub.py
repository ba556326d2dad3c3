"""A hub id reads the config first and downloads only what is used; held on a hub that this machine serves."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, fake_hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import save

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.source.checkpoint import Checkpoint

MODEL = "org/tiny"
UNUSED = (
    *("consolidated.safetensors", "original/consolidated.00.pth", "model.fp16.safetensors", "pytorch_model.bin"),
    *("checkpoint-500/model.safetensors", "checkpoint-500/config.json", "onnx/model.onnx", "tiny-q4.gguf"),
    *(
        "tf_model.h5",
        "flax_model.msgpack",
        "training_args.bin",
        "modeling_tiny.py",
        "README.md",
        "lora/adapter_config.json",
    ),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch, tmp_path / "cache") as served:
        folder = save("llama", tmp_path / "repository")
        for name in UNUSED:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"not used")
        served.repositories[MODEL] = {"main": folder}
        yield served


def shard(folder: Path) -> list[str]:
    """Split the weights in two; returns the names of the files."""
    tensors = load_file(folder / "model.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    keys = sorted(tensors)
    weight_map = {key: names[index % 2] for index, key in enumerate(keys)}
    for name in names:
        save_file({key: tensors[key] for key in keys if weight_map[key] == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return names


def test_only_what_is_used_is_downloaded_and_the_config_first(hub: FakeHub) -> None:
    folder = resolve_model(MODEL)
    assert hub.fetched[0] == "config.json"
    used = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(hub.fetched) == used
    assert {path.name for path in folder.iterdir()} == used
    assert len(Checkpoint.open(folder).tensors) > 0


def test_shards_come_from_the_index(hub: FakeHub) -> None:
    repository = hub.repositories[MODEL]["main"]
    names = shard(repository)
    (repository / "model-00001-of-00009.safetensors").write_bytes(b"of another split")
    resolve_model(MODEL)
    assert sorted(name for name in hub.fetched if name.endswith(".safetensors")) == sorted(names)
    assert hub.fetched[:2] == ["config.json", "model.safetensors.index.json"]


def test_one_file_of_weights_is_preferred_to_shards(hub: FakeHub, tmp_path: Path) -> None:
    repository = hub.repositories[MODEL]["main"]
    shutil.copy(repository / "model.safetensors", tmp_path / "whole")
    shard(repository)
    shutil.copy(tmp_path / "whole", repository / "model.safetensors")
    resolve_model(MODEL)
    assert [name for name in hub.fetched if "safetensors" in name] == ["model.safetensors"]


def test_a_revision_and_its_commit_are_in_the_manifest(hub: FakeHub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(hub.repositories[MODEL]["main"], other)
    tensors = {name: tensor * 0.5 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    hub.repositories[MODEL]["v1.1"] = other
    assert main(["export", MODEL, "--revision", "v1.1", "--out", str(tmp_path / "bundle")]) == 0
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.origin == {"repository": MODEL, "revision": "v1.1", "commit": hub.commit(MODEL, "v1.1")}
    assert manifest.source == Checkpoint.open(other).source_hashes()
    export(MODEL, out=tmp_path / "of_main")
    assert read_manifest(tmp_path / "of_main").origin == {
        "repository": MODEL,
        "revision": "main",
        "commit": hub.commit(MODEL, "main"),
    }
    export(MODEL, out=tmp_path / "by_commit", revision=hub.commit(MODEL, "v1.1"))
    assert read_manifest(tmp_path / "by_commit").source == manifest.source
    export(other, out=tmp_path / "here")
    assert read_manifest(tmp_path / "here").origin is None


def test_what_was_downloaded_works_without_a_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model(MODEL)
    hub.fetched.clear()
    with monkeypatch.context() as context:
        context.setattr(constants, "HF_HUB_OFFLINE", True)
        assert resolve_model(MODEL) == folder
        assert resolve_model(MODEL, "main") == folder
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's tries
    assert resolve_model(MODEL) == folder
    assert hub.fetched == []


@pytest.mark.usefixtures("hub")
def test_without_a_network_there_is_one_error_and_nothing_of_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)  # between the client's tries
    level = logging.getLogger("huggingface_hub").level
    assert main(["plan", MODEL]) == 2
    assert waits, "the client tries again, and would say so"
    [line] = capfd.readouterr().err.splitlines()
    said = f"edgepress: no directory {MODEL} here, and it could not be downloaded from the hub "
    assert re.match(re.escape(said) + r"\([^)]*refused[^)]*\); connect to a network", line), line
    assert not caplog.records
    assert logging.getLogger("huggingface_hub").level == level


def test_a_download_goes_on_where_it_stopped(hub: FakeHub) -> None:
    folder = resolve_model(MODEL)
    (folder / "model.safetensors").unlink()
    hub.fetched.clear()
    assert resolve_model(MODEL) == folder
    assert set(hub.fetched) <= {"model.safetensors"}  # the client may still have its blob
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "an encoder"),
        ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, "is not implemented"),
        ({"quantization_config": {"quant_method": "hqq", "bits": 4}}, "quantized by 'hqq'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, "bits = 5: GPTQ's files"),
        ({"hidden_act": "swishy"}, "swishy"),
    ],
)
def test_what_the_config_rules_out_costs_only_the_config(config: dict[str, object], says: str, hub: FakeHub) -> None:
    path = hub.repositories[MODEL]["main"] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(InputError, match=says):
        decide(MODEL, target="arm64-cpu", recipe="int4")
    assert hub.fetched == ["config.json"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adapter_config.json", "beside its base model"),
        ("modules.json", "an embedding model or reranker"),
        ("1_Pooling/config.json", "an embedding model or reranker"),
    ],
)
def test_what_the_list_of_files_rules_out_costs_no_weights(name: str, says: str, hub: FakeHub) -> None:
    path = hub.repositories[MODEL]["main"] / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(InputError, match=says):
        resolve_model(MODEL)
    assert hub.fetched == ["config.json"]


def test_a_repository_without_safetensors_is_not_downloaded(hub: FakeHub) -> None:
    (hub.repositories[MODEL]["main"] / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors, only .*: pickled weights run code"):
        resolve_model(MODEL)
    assert hub.fetched == ["config.json"]


def test_a_repository_with_an_adapter_alone_names_its_base(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    hub.repositories["org/adapter"] = {"main": folder}
    with pytest.raises(InputError, match="is an adapter of org/base, not a model"):
        resolve_model("org/adapter")
    assert hub.fetched == ["adapter_config.json"]


def test_a_repository_of_gguf_files_says_so(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "tiny.Q4_K_M.gguf").write_bytes(b"GGUF")
    hub.repositories["org/tiny-GGUF"] = {"main": tmp_path / "gguf"}
    with pytest.raises(InputError, match=r"has no config\.json, only tiny\.Q4_K_M\.gguf: a GGUF file of llama\.cpp"):
        resolve_model("org/tiny-GGUF")
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        (MODEL, "v9", "org/tiny has no revision v9"),
        ("org/none", None, "no such public model on the hub"),
        ("org/tiny@v1", None, "a revision is given as --revision v1"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_names_that_the_hub_does_not_know(model: str, revision: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve_model(model, revision)


def test_a_revision_is_of_a_model_on_the_hub(hub: FakeHub) -> None:
    for model in (str(hub.repositories[MODEL]["main"]), "demo"):
        with pytest.raises(InputError, match="--revision v1 is of a model on the hub"):
            resolve_model(model, "v1")


@pytest.mark.parametrize("linked", ["cache", "blobs", "snapshot"])
@pytest.mark.usefixtures("hub")
def test_a_cache_with_links_works_by_folder_and_by_id(linked: str, tmp_path: Path) -> None:
    """The whole cache on another disk, its blobs there, or a snapshot that the user's own link names."""
    folder, other = resolve_model(MODEL), tmp_path / "other disk"
    repository = folder.parent.parent
    moved = {"cache": tmp_path / "cache", "blobs": repository / "blobs", "snapshot": None}[linked]
    if moved is not None:
        shutil.move(moved, other)
        moved.symlink_to(other)
    else:
        other.symlink_to(folder)
        folder = other
    export(folder, out=tmp_path / "by_folder")
    export(MODEL, out=tmp_path / "by_id")
    assert read_manifest(tmp_path / "by_folder").files == read_manifest(tmp_path / "by_id").files
