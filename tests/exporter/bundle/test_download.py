"""What a manifest says that zeros save is what zlib says of the files, of a bundle with them and of one without."""

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.capi import _pybind_state
from tiny_models import TEXT, save

from edgepress.bundle.manifest import Manifest, find_problems
from edgepress.cli import main
from edgepress.exporter import export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.download import deflated_bytes

RECIPE = """
[weights]
method = "{method}"
bits = {bits}
block_size = 32
symmetric = {symmetric}
[embedding]
method = "rtn"
[calibration]
tokens = 128
length = 32
[options.wanda]
then = "rtn"
"""


def make(folder: Path, method: str, *, bits: int = 4, symmetric: bool = True) -> tuple[Path, Manifest]:
    recipe, text, out = folder / f"{method}.toml", folder / "text.txt", folder / method
    recipe.write_text(RECIPE.format(method=method, bits=bits, symmetric=str(symmetric).lower()), encoding="utf-8")
    text.write_text(TEXT * 3, encoding="utf-8")
    model = folder / "model"
    if not model.exists():
        save("qwen2", model)
    return out, export(model, out=out, recipe=recipe, calibration=[text], threads=1)


def codes_that_mean_0(data: bytes, tensor: dict[str, object], bits: int, *, symmetric: bool) -> int:
    """Count them one by one, from the regions that the manifest names."""
    regions = {name: data[start : start + size] for name, (start, size) in tensor["regions"].items()}  # type: ignore[attr-defined]
    rows, columns = tensor["shape"]  # type: ignore[misc]
    blocks, mask, count = -(-columns // 32), (1 << bits) - 1, 0
    for row in range(rows):
        for column in range(columns):
            at = (row * blocks * 32 + column) * bits
            code = regions["values"][at // 8] >> (at % 8) & mask
            zero = 1 << (bits - 1)
            if not symmetric:
                place = column // 32 * bits
                zero = regions["zero_points"][row * -(-blocks * bits // 8) + place // 8] >> (place % 8) & mask
            count += code == zero
    return count


@pytest.mark.parametrize(("method", "bits", "symmetric"), [("sparsegpt", 4, True), ("wanda", 2, False)])
def test_the_manifest_says_what_the_files_say(method: str, bits: int, symmetric: bool, tmp_path: Path) -> None:
    out, manifest = make(tmp_path, method, bits=bits, symmetric=symmetric)
    dense, plain = make(tmp_path, "rtn", bits=bits, symmetric=symmetric)
    assert find_problems(out) == []
    assert plain.sparsity is None
    found = manifest.sparsity
    assert found is not None
    data = (out / DATA_FILE).read_bytes()
    assert found["data_bytes"] == len(data)
    assert found["deflated_bytes"] == len(zlib.compress(data, 6))
    assert found["dense_deflated_bytes"] == len(zlib.compress((dense / DATA_FILE).read_bytes(), 6))
    sparse = [tensor for tensor in manifest.tensors if tensor["kind"] == "linear"]
    assert set(found["tensors"]) == {tensor["name"] for tensor in sparse}  # type: ignore[call-overload]
    counts = [codes_that_mean_0(data, tensor, bits, symmetric=symmetric) for tensor in sparse]
    sizes = [int(np.prod(tensor["shape"])) for tensor in sparse]  # type: ignore[arg-type]
    for tensor, count, size in zip(sparse, counts, sizes, strict=True):
        assert found["tensors"][tensor["name"]] == pytest.approx(count / size, abs=1e-6)  # type: ignore[index]
        assert count >= size // 2
    assert found["zeros"] == pytest.approx(sum(counts) / sum(sizes), abs=1e-6)
    assert found["asked"] == ["50% zeros"]


def test_inspect_says_what_zeros_save_and_what_they_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, manifest = make(tmp_path, "magnitude")
    assert main(["inspect", str(out)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("zeros"))
    assert manifest.sparsity is not None
    for key in ("data_bytes", "deflated_bytes", "dense_deflated_bytes"):
        assert f"{manifest.sparsity[key] / 1e6:.3f} MB" in line  # type: ignore[operator]
    assert "On the device they save neither bytes nor time" in line
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_file_is_deflated_a_piece_at_a_time(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 20, 3_000_001).astype(np.uint8).tobytes()
    (tmp_path / "file").write_bytes(data)
    heard: list[int] = []
    assert deflated_bytes(tmp_path / "file", heard.append) == len(zlib.compress(data, 6))
    assert sum(heard) == len(data)
    assert len(heard) == 3


def test_no_kernel_that_a_bundle_uses_takes_sparse_weights(tmp_path: Path) -> None:
    """What `inspect` says of the device: of onnxruntime's CPU kernels one takes sparse tensors, and no graph has it."""
    registered = _pybind_state.get_all_opkernel_def()
    sparse = {
        kernel.op_name
        for kernel in registered
        if any("sparse_tensor" in kind for kinds in kernel.type_constraints.values() for kind in kinds)
    }
    assert sparse <= {"SparseToDenseMatMul"}
    assert "SparseToDenseMatMul" in {kernel.op_name for kernel in registered}
    out, _ = make(tmp_path, "magnitude")
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    assert not graph.sparse_initializer
    assert "SparseToDenseMatMul" not in {node.op_type for node in graph.node}
