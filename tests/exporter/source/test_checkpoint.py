"""Reading checkpoints: right values, and every way in which a checkpoint can be wrong has its own error."""

import hashlib
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.model.weights import check_tensors
from edgepress.exporter.source.checkpoint import INDEX, Checkpoint, same_tensor
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.stored import read_header

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 3,
    "b": torch.arange(8, dtype=torch.bfloat16) / 7,
}


def _save(directory: Path, tensors: dict[str, torch.Tensor] | None = None, name: str = "model.safetensors") -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    save_file(TENSORS if tensors is None else tensors, directory / name)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


def _raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(dtype: str, shape: object, begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _sharded(directory: Path, weight_map: dict[str, Any] | None = None) -> Path:
    _save(directory, {"a": TENSORS["a"]}, "model-00001-of-00002.safetensors")
    _save(directory, {"b": TENSORS["b"]}, "model-00002-of-00002.safetensors")
    default = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (directory / INDEX).write_text(json.dumps({"weight_map": default if weight_map is None else weight_map}))
    return directory


def _weight(name: str, shape: tuple[int, ...], *parts: Part) -> Weight:
    return Weight(name, "linear", shape, parts or (Part(name, 0, shape[0]),))


# Right values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5).to(dtype)
    tensor[0, 0], tensor[1, 1] = float("inf"), 1e-7
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"x": tensor, "bias": tensor[:, 0].contiguous()}))
    expected = tensor.float().numpy()
    for start, stop in ((0, 7), (2, 5), (6, 7), (3, 3)):
        found = checkpoint.rows("x", start, stop)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[start:stop])
    np.testing.assert_array_equal(checkpoint.rows("bias", 1, 6), expected[1:6, 0])
    assert checkpoint.tensors["x"].itemsize == tensor.element_size()
    with pytest.raises(ValueError, match=r"rows 0:8 of x, which has 7"):
        checkpoint.rows("x", 0, 8)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_transposed_part_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, data: st.DataObject
) -> None:
    stored = torch.randn(columns, rows)
    checkpoint = Checkpoint.open(_save(tmp_path_factory.mktemp("t"), {"x": stored}))
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    start = data.draw(st.integers(0, last - first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgepress.exporter.source.checkpoint._PIECE", data.draw(st.integers(1, 30)))
        found = checkpoint.part_rows(Part("x", first, last, transposed=True), start, last - first)
    np.testing.assert_array_equal(found, stored.numpy().T[first + start : last])


def test_part_rows_count_within_the_part(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m"))
    np.testing.assert_array_equal(checkpoint.part_rows(Part("a", 1, 3), 1, 2), TENSORS["a"].numpy()[2:3])


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_sharded(tmp_path / "m"))
    assert sorted(checkpoint.tensors) == ["a", "b"]
    np.testing.assert_array_equal(checkpoint.rows("a", 0, 3), TENSORS["a"].numpy())
    assert sorted(checkpoint.source_hashes()) == sorted(
        ["config.json", INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    )


def test_source_hashes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m"))
    expected = {
        name: hashlib.sha256((tmp_path / "m" / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    assert checkpoint.source_hashes() == expected


def test_empty_and_scalar_tensors_are_no_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"none": torch.zeros(0, 4), "one": torch.tensor(1.0)}))
    assert checkpoint.tensors["none"].shape == (0, 4)
    assert checkpoint.tensors["one"].shape == ()


def test_same_tensor(tmp_path: Path) -> None:
    a = torch.randn(4, 4)
    other = a.clone()
    other[3, 3] += 1
    tensors = {"a": a, "same": a.clone(), "other": other, "shape": a.clone().reshape(2, 8), "dtype": a.half()}
    checkpoint = Checkpoint.open(_save(tmp_path / "m", tensors))
    assert [same_tensor(checkpoint, "a", name) for name in tensors] == [True, True, False, False, False]


# Directories


def test_directory_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; name a directory"):
        Checkpoint.open(tmp_path / "none")


def test_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match=r"is not a directory"):
        Checkpoint.open(tmp_path / "f")


def test_directory_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is empty"):
        Checkpoint.open(tmp_path)


def test_config_missing(tmp_path: Path) -> None:
    (_save(tmp_path / "m") / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json"):
        Checkpoint.open(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_config_damaged(tmp_path: Path, text: bytes, message: str) -> None:
    (_save(tmp_path / "m") / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=message):
        Checkpoint.open(tmp_path / "m")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "x.pt", "x.pth", "x.ckpt"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (_save(tmp_path / "m") / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(2)}, tmp_path / "m" / name)
    with pytest.raises(InputError, match=f"only {name}: pickled weights run code when they are read; convert"):
        Checkpoint.open(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"hello", "5 bytes in no format that is known here"), (None, "a safetensors file; rename it to .safetensors")],
)
def test_what_has_a_pickles_name_is_known_by_its_content(tmp_path: Path, content: bytes | None, says: str) -> None:
    weights = _save(tmp_path / "m") / "model.safetensors"
    if content is not None:
        weights.write_bytes(content)
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(InputError, match=f"only pytorch_model.bin: {says}") as refused:
        Checkpoint.open(tmp_path / "m")
    assert "pickled weights" not in str(refused.value)


def test_weights_missing(tmp_path: Path) -> None:
    (_save(tmp_path / "m") / "model.safetensors").rename(tmp_path / "m" / "consolidated.safetensors")
    with pytest.raises(InputError, match=r"no model\.safetensors and no .* \(it has consolidated\.safetensors\)"):
        Checkpoint.open(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_link_out_of_the_directory(tmp_path: Path, name: str) -> None:
    directory = _save(tmp_path / "m")
    (directory / "tokenizer.json").write_text("{}")
    (directory / name).rename(tmp_path / name)
    (directory / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=r"is a link out of its directory, to .*; put the file itself there"):
        Checkpoint.open(directory).file("tokenizer.json")


def test_link_inside_the_directory(tmp_path: Path) -> None:
    directory = _save(tmp_path / "m")
    (directory / "model.safetensors").rename(directory / "weights.safetensors")
    (directory / "model.safetensors").symlink_to("weights.safetensors")
    assert len(Checkpoint.open(directory).tensors) == 2
    assert Checkpoint.open(directory).file("tokenizer.json") is None


def test_link_to_nothing(tmp_path: Path) -> None:
    directory = _save(tmp_path / "m")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("weights.safetensors")
    with pytest.raises(InputError, match=r"which does not exist"):
        Checkpoint.open(directory)


def test_hub_cache_links_into_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--o--n" / "snapshots" / "r", tmp_path / "models--o--n" / "blobs"
    _save(snapshot)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert len(Checkpoint.open(snapshot).tensors) == 2
    (tmp_path / "outside").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"is a link out of its directory"):
        Checkpoint.open(snapshot).file("tokenizer.json")


# The safetensors file


def _damage(tmp_path: Path, change: Callable[[bytes], bytes]) -> Path:
    path = _save(tmp_path / "m") / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("keep", [0, 5, 8, 50, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = _damage(tmp_path, lambda data: data[:keep])
    with pytest.raises(InputError, match=rf"{path.name}.*(truncated|too few)"):
        read_header(path)


def test_truncated_after_the_header_was_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m"))
    _damage(tmp_path, lambda data: data[:-4])
    names = sorted(checkpoint.tensors, key=lambda name: checkpoint.tensors[name].offset)
    with pytest.raises(InputError, match=f"ended 4 bytes early inside {names[-1]}"):
        checkpoint.rows(names[-1], 0, checkpoint.tensors[names[-1]].shape[0])


def test_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    path = _damage(tmp_path, lambda data: data + b"xxx")
    with pytest.raises(InputError, match=r"3 more than its header describes"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not JSON", "is not JSON"),
        (b"[]", "holds a JSON list"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', "'dtype' occurs twice"),
        ({"a": 1}, "a needs exactly dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "a needs exactly"),
        ({"a": _entry("Q7", [1], 0, 4)}, "a has dtype 'Q7', which safetensors does not define"),
        ({"a": _entry("F32", [-1], 0, 4)}, r"a has shape \[-1\]"),
        ({"a": _entry("F32", [True], 0, 4)}, r"a has shape \[True\]"),
        ({"a": _entry("F32", [1.0], 0, 4)}, r"a has shape \[1\.0\]"),
        ({"a": _entry("F32", 1, 0, 4)}, "a has shape 1"),
        ({"a": _entry("F32", [1], 4, 0)}, r"a has data_offsets \[4, 0\]"),
        ({"a": _entry("F32", [1], -4, 0)}, r"a has data_offsets \[-4, 0\]"),
        ({"a": _entry("F32", [2], 0, 4)}, r"a is F32 \[2\], 8 bytes, and its data_offsets hold 4"),
        ({"a": _entry("F4", [3], 0, 2)}, r"a is F4 \[3\], 2 bytes"),
        ({"a": _entry("F32", [1], 0, 4), "b": _entry("F32", [1], 2, 6)}, "b overlaps the tensor before it"),
        ({"a": _entry("F32", [1], 0, 4), "b": _entry("F32", [1], 6, 10)}, "b leaves a hole before it"),
        ({"a": _entry("F32", [1], 4, 8)}, "a leaves a hole before it"),
        ({"a": _entry("F32", [1000], 0, 4000)}, "truncated"),
        ({"a": _entry("F32", [2**40, 2**40], 0, 2**82)}, "truncated"),
    ],
)
def test_bad_headers(tmp_path: Path, header: object, message: str) -> None:
    path = _raw(tmp_path / "x.safetensors", header, b"\0" * 10)
    with pytest.raises(InputError, match=message):
        read_header(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001])
def test_header_length_beyond_the_format(tmp_path: Path, length: int) -> None:
    with pytest.raises(InputError, match=f"claims {length} bytes, the format allows 100000000"):
        read_header(_raw(tmp_path / "x.safetensors", {}, length=length))


def test_same_tensor_twice_in_one_header(tmp_path: Path) -> None:
    entry = json.dumps(_entry("F32", [1], 0, 4))
    with pytest.raises(InputError, match=r"the key 'a' occurs twice"):
        read_header(_raw(tmp_path / "x.safetensors", f'{{"a": {entry}, "a": {entry}}}'.encode(), b"\0" * 4))


# The index


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "a\\x.safetensors"])
def test_index_leaves_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"shards must be .safetensors files in the same directory"):
        Checkpoint.open(_sharded(tmp_path / "m", {"a": name}))


@pytest.mark.parametrize("name", ["x.bin", 3, None])
def test_index_names_no_safetensors(tmp_path: Path, name: object) -> None:
    with pytest.raises(InputError, match=r"a is said to be in"):
        Checkpoint.open(_sharded(tmp_path / "m", {"a": name}))


def test_index_without_map(tmp_path: Path) -> None:
    (_sharded(tmp_path / "m") / INDEX).write_text("{}")
    with pytest.raises(InputError, match=r"has no weight_map"):
        Checkpoint.open(tmp_path / "m")


def test_shard_absent(tmp_path: Path) -> None:
    (_sharded(tmp_path / "m") / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"names model-00002-of-00002\.safetensors, which is not in"):
        Checkpoint.open(tmp_path / "m")


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, _sharded(tmp_path / "m") / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"a is in both model-00001.* and model-00002"):
        Checkpoint.open(tmp_path / "m")


def test_tensor_not_in_its_shard(tmp_path: Path) -> None:
    save_file({"c": TENSORS["b"]}, _sharded(tmp_path / "m") / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"says that model-00002.* holds b, and it does not"):
        Checkpoint.open(tmp_path / "m")


# Tensors against the model


def test_tensors_that_fit(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {**TENSORS, "rotary.inv_freq": torch.arange(3)}))
    fused = _weight("qk", (3, 4), Part("a", 2, 3), Part("a", 0, 2))
    check_tensors(checkpoint, [fused, _weight("b", (8,))], [r".*\.inv_freq"])
    with pytest.raises(InputError, match=r"no use for: rotary.inv_freq"):
        check_tensors(checkpoint, [fused, _weight("b", (8,))], [r"inv_freq"])


def test_transposed_tensors_that_fit(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"a": TENSORS["a"]}))
    whole = _weight("a", (4, 3), Part("a", 0, 4, transposed=True))
    check_tensors(checkpoint, [whole])
    with pytest.raises(InputError, match=r"a has shape \(3, 4\), and config.json asks for \(3, 2\)"):
        check_tensors(checkpoint, [_weight("a", (2, 3), Part("a", 0, 2, transposed=True))])
    with pytest.raises(InputError, match=r"a has shape \(3, 4\), and config.json asks for \(4, 3\)"):
        check_tensors(checkpoint, [_weight("a", (3, 4), Part("a", 0, 3, transposed=True))])


def test_tensor_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no tensor c \(linear\), which its config asks for"):
        check_tensors(Checkpoint.open(_save(tmp_path / "m")), [_weight("c", (8,))])


def test_tensors_extra(tmp_path: Path) -> None:
    names = {f"lora.{i}": torch.zeros(1) for i in range(5)}
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"a": TENSORS["a"], **names}))
    with pytest.raises(InputError, match=r"no use for: lora.0, lora.1, lora.2 and 2 more"):
        check_tensors(checkpoint, [_weight("a", (3, 4))])


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (2, 4), (3,), (12,)])
def test_tensor_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"a": TENSORS["a"]}))
    with pytest.raises(InputError, match=r"a has shape \(3, 4\), and config.json asks for \("):
        check_tensors(checkpoint, [_weight("a", shape)])


def test_hole_between_parts(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"a": TENSORS["a"]}))
    with pytest.raises(InputError, match=r"asks for \(1, 4\)"):
        check_tensors(checkpoint, [_weight("a", (2, 4), Part("a", 0, 1), Part("a", 2, 3))])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.uint8, torch.float8_e4m3fn])
def test_dtype_that_is_no_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = Checkpoint.open(_save(tmp_path / "m", {"a": torch.zeros(2, 2).to(dtype)}))
    with pytest.raises(InputError, match=r"a has dtype \w+; weights must be one of F32, F16, BF16"):
        check_tensors(checkpoint, [_weight("a", (2, 2))])
    with pytest.raises(InputError, match=r"a has dtype"):
        checkpoint.rows("a", 0, 1)


# Names of models


def test_resolve_directory_and_demo(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    assert resolve_model("demo").name == "model"


@pytest.mark.parametrize("model", ["./x", "none", "/none/such", "a/b/c", "../x/y", "a b/c", "", "org/", "~none/x"])
def test_resolve_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such directory"):
        resolve_model(model)


def test_a_missing_onnx_file_is_called_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^no such file: 'nothing\.onnx'; name an ONNX file that is there$"):
        resolve_model("nothing.onnx")


def test_resolve_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match=r"is a file; name the directory that holds it"):
        resolve_model(str(tmp_path / "f"))


def _hub(monkeypatch: pytest.MonkeyPatch, download: Callable[..., str]) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "LocalEntryNotFoundError",
            "could not be downloaded from the hub .* connect to a network, or pass a directory",
        ),
        ("OfflineModeIsEnabled", "could not be downloaded from the hub"),
        ("OSError", "could not be downloaded from the hub"),
        ("HFValidationError", "no such public model"),
        ("RepositoryNotFoundError", "no such public model"),
        ("GatedRepoError", "is gated: accept its terms"),
    ],
)
def test_hub_refusals(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, error, OSError)

    def download(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # their constructors want HTTP responses

    _hub(monkeypatch, download)
    with pytest.raises(InputError, match=message):
        resolve_model("org/name")


def test_hub_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys.modules["huggingface_hub.constants"], "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"no directory org/name here, and it could not be downloaded"):
        resolve_model("org/name")
