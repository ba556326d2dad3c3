"""The benchmark's recipes are what their names say, its bytes are those of the files, its comparison is fair."""

import zlib
from collections.abc import Callable
from math import log2
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_models import TEXT, save

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.methods.kinds import zeros_asked
from edgepress.exporter.recipe.reading import read_recipe


@pytest.fixture(name="sparsity")
def _sparsity(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("sparsity")


def test_every_recipe_is_what_its_name_says(sparsity: ModuleType, tmp_path: Path) -> None:
    everything = list(sparsity.chosen())
    assert len({stored.name for stored in everything}) == len(everything)
    for stored in everything:
        recipe = read_recipe(stored.write(tmp_path, "demo"))
        words = zeros_asked(recipe.weights.method, recipe)
        assert words == (f"{stored.zeros} zeros" if stored.zeros else "")
        assert stored.name.startswith(f"{stored.method} {stored.zeros}".strip())
        assert recipe.weights.symmetric == stored.symmetric
        assert (recipe.budget is not None) == bool(stored.mixed)
        assert recipe.after == (("distill",) if stored.distilled else ())
        assert recipe.options.get(stored.method, {}).get("then", "") == stored.then


def test_bytes_are_those_of_the_files(sparsity: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[weights]\nbits = 4\n", encoding="utf-8")
    export(save("llama", tmp_path / "model"), out=tmp_path / "out", recipe=tmp_path / "recipe.toml")
    found, data = sparsity.weigh(tmp_path / "out"), (tmp_path / "out" / "model.onnx.data").read_bytes()
    assert found["data_bytes"] == len(data)
    assert found["deflated_bytes"] == len(zlib.compress(data, 6))
    values, zeros, entropy = b"", 0, 0.0
    for tensor in read_manifest(tmp_path / "out").tensors:
        if tensor["kind"] == "linear":
            start, size = tensor["regions"]["values"]  # type: ignore[index]
            values += data[start : start + size]
            codes = [code for byte in data[start : start + size] for code in (byte & 15, byte >> 4)]
            zeros += codes.count(8)
            shares = [codes.count(code) / len(codes) for code in set(codes)]
            entropy += -sum(share * log2(share) for share in shares) * len(codes) / 8
    assert found["codes"]["bytes"] == len(values)
    assert found["codes"]["deflated"] == len(zlib.compress(values, 6))
    assert found["codes"]["entropy"] == pytest.approx(entropy)
    assert found["zeros"] == pytest.approx(zeros / (2 * len(values)))
    assert found["codes"]["mask_and_rest_deflated"] > 0.9 * entropy


def test_zeros_are_those_of_each_block(sparsity: ModuleType, tmp_path: Path) -> None:
    recipe, text = tmp_path / "recipe.toml", tmp_path / "text.txt"
    lines = ["[weights]", 'method = "wanda"', "bits = 4", "symmetric = false", "[embedding]", 'method = "rtn"']
    recipe.write_text("\n".join([*lines, "[calibration]", "tokens = 64", "length = 32"]), encoding="utf-8")
    text.write_text(TEXT * 3, encoding="utf-8")
    manifest = export(save("llama", tmp_path / "model"), out=tmp_path / "out", recipe=recipe, calibration=[text])
    assert manifest.sparsity is not None
    assert sparsity.weigh(tmp_path / "out")["zeros"] == pytest.approx(manifest.sparsity["zeros"], abs=1e-6)


def test_a_sparse_model_stands_beside_the_best_dense_one_that_is_no_larger(sparsity: ModuleType) -> None:
    def at(name: str, size: int, kl: float, zeros: str = "", model: str = "demo") -> dict[str, object]:
        return {"model": model, "name": name, "deflated_bytes": size, "kl": kl, "zeros_asked": zeros}

    samples = [
        at("gptq, 2 bits", 50, 0.5),
        at("mixed", 70, 0.1),
        at("gptq, 4 bits", 100, 0.01),
        at("gptq + distill, 2 bits", 50, 0.05),
        at("gptq, 3 bits", 70, 0.001, model="other"),
        sparse := at("wanda 50%", 75, 0.2, "50%"),
        learned := at("sparsegpt 50% + distill", 75, 0.04, "50%"),
        tiny := at("magnitude 50%", 40, 9.0, "50%"),
    ]
    assert sparsity.best_dense(sparse, samples)["name"] == "mixed"
    assert sparsity.best_dense(learned, samples)["name"] == "gptq + distill, 2 bits"
    assert sparsity.best_dense(tiny, samples) is None


def test_deflate_counts_what_goes_in_and_what_comes_out(sparsity: ModuleType) -> None:
    pieces = [np.arange(size, dtype=np.uint8) % 7 for size in (3, 0, 250)]
    stream = sparsity.Deflate()
    for piece in pieces:
        stream.add(piece)
    assert stream.bytes == 253
    assert stream.end() == len(zlib.compress(b"".join(piece.tobytes() for piece in pieces), 6))
