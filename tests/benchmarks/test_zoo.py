"""Real models' configs: planned at their real size, and right against transformers when made small.

The configs are files beside the checkout (``../shared/zoo``, or the folder that EDGEPRESS_ZOO names), each with
``config`` as published and the sizes of ``tiny``. A checkpoint of the real size has a header and no bytes: a plan reads
no weight.
"""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import transformers

from edgepress.errors import InputError
from edgepress.exporter import decide
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.kinds import refuse_other_kinds

ZOO = Path(os.environ.get("EDGEPRESS_ZOO", Path(__file__).resolve().parents[3] / "shared" / "zoo"))
FILES = sorted(path.stem for path in ZOO.glob("*.json"))
# What is refused, and by which words: an embedding model, and a config that contradicts itself.
REFUSED = {
    "embeddinggemma-300m": "a model without a head for next tokens",
    "granite-4.0-h-350m": "times 48 heads must be the width of the state space, 1536",
}
END = 2  # published folders have it in generation_config.json at least
pytestmark = pytest.mark.skipif(not FILES, reason=f"there are no configs in {ZOO}")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ZOO / f"{name}.json").read_text(encoding="utf-8"))
    return content


def shapes(decoder: Decoder, rename: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    """Every tensor that a decoder is made of, as large as its parts reach."""
    found: dict[str, tuple[int, ...]] = {}
    for weight in decoder.weights():
        for part in weight.parts:
            rows, rest = part.stop, weight.shape[1:]
            shape = (*rest, rows) if part.transposed else (rows, *rest)
            if part.index is not None:
                shape = (part.index + 1, *shape)
            name = rename(part.tensor)
            before = found.get(name, (0,) * len(shape))
            found[name] = tuple(map(max, shape, before))
    return found


def write_without_bytes(config: dict[str, Any], folder: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint in bfloat16 whose weights are a hole in the file."""
    folder.mkdir()
    entries, offset = {}, 0
    for name, shape in tensors.items():
        size = 2
        for length in shape:
            size *= length
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)
    (folder / "config.json").write_text(json.dumps(config))
    tiny_models.save_tokenizer(folder)


@pytest.mark.parametrize("name", FILES)
def test_the_real_size_is_planned(name: str, tmp_path: Path) -> None:
    config = read(name)["config"]
    text = config.get("text_config")
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]):
            _refused(config, tmp_path)
        return
    decoder = describe(text or config, ())
    (text or config)["eos_token_id"] = END
    prefix = "model.language_model." if text else "model."
    tensors = shapes(decoder, lambda tensor: tensor.replace("model.", prefix, 1) if text else tensor)
    write_without_bytes(config, tmp_path / "model", tensors)
    planned = decide(tmp_path / "model", target="arm64-cpu", recipe="int4")
    plan = planned.plan
    assert plan.parameters == sum(tensor.weight.shape[0] * _columns(tensor.weight.shape) for tensor in plan.tensors)
    assert plan.data_bytes < 0.45 * plan.bytes_before
    assert 4096 <= plan.default_context <= plan.context_length or plan.default_context == plan.context_length


def _refused(config: dict[str, Any], folder: Path) -> None:
    refuse_other_kinds(folder, config)
    describe(config, ())


def _columns(shape: tuple[int, ...]) -> int:
    columns = 1
    for length in shape[1:]:
        columns *= length
    return columns


@pytest.mark.parametrize("name", [name for name in FILES if name != "embeddinggemma-300m" and read(name)["tiny"]])
def test_made_small_it_is_right(name: str, tmp_path: Path, import_script: Callable[[str], ModuleType]) -> None:
    content = read(name)
    values = {key: value for key, value in (content["config"] | content["tiny"]).items() if key != "dtype"}
    kind = values.pop("model_type")
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    config = transformers.CONFIG_MAPPING[kind](**(values | tokens))
    found = import_script("coverage").try_class(config, 1, tmp_path, peers=False)
    assert found["verdict"] == "right", found["reason"]
