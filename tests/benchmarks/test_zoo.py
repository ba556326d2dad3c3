"""Real models' configs: planned at their real size, and right against transformers when made small.

The configs are files beside the checkout (``../shared/zoo``, or the folder that EDGEPRESS_ZOO names), each with
``config`` as published and the sizes of ``tiny``. A checkpoint of the real size has a header and no bytes: a plan reads
no weight.
"""

import json
import os
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import transformers

from edgepress.errors import InputError
from edgepress.exporter import decide
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.source.kinds import refuse_other_kinds

ZOO = Path(os.environ.get("EDGEPRESS_ZOO", Path(__file__).resolve().parents[3] / "shared" / "zoo"))
FILES = sorted(path.stem for path in ZOO.glob("*.json"))
# What is refused, and by which words: an embedding model, and a config that contradicts itself.
REFUSED = {
    "embeddinggemma-300m": "a model without a head for next tokens",
    "granite-4.0-h-350m": "times 48 heads must be the width of the state space, 1536",
}
UNREAD = {"OPT-125m": 2 * 768}  # elements that no token reads: its positions begin at row 2
END = 2  # published folders have it in generation_config.json at least
pytestmark = pytest.mark.skipif(not FILES, reason=f"there are no configs in {ZOO}")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ZOO / f"{name}.json").read_text(encoding="utf-8"))
    return content


def write_without_bytes(config: dict[str, Any], folder: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint in bfloat16 whose weights are a hole in the file."""
    folder.mkdir()
    entries, offset = {}, 0
    for name, shape in tensors.items():
        size = 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)
    (folder / "config.json").write_text(json.dumps(config))
    tiny_models.save_tokenizer(folder)


@pytest.mark.parametrize("name", FILES)
def test_the_real_size_is_planned(name: str, tmp_path: Path, import_script: Callable[[str], ModuleType]) -> None:
    config = read(name)["config"]
    text = config.get("text_config")
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]):
            _refused(config, tmp_path)
        return
    (text or config)["eos_token_id"] = END
    tensors = import_script("real_shapes").shapes(text or config)
    if text:
        tensors = {name.replace("model.", "model.language_model.", 1): shape for name, shape in tensors.items()}
    write_without_bytes(config, tmp_path / "model", tensors)
    planned = decide(tmp_path / "model", target="arm64-cpu", recipe="int4")
    plan = planned.plan
    ones = sum(prod(tensor.weight.shape) for tensor in plan.tensors if not tensor.weight.parts)  # of norms without gain
    stored = sum(prod(shape) for shape in tensors.values()) - UNREAD.get(name, 0)
    assert plan.parameters == stored + ones  # each element once
    assert plan.data_bytes < 0.45 * plan.bytes_before
    assert 4096 <= plan.default_context <= plan.context_length or plan.default_context == plan.context_length


def _refused(config: dict[str, Any], folder: Path) -> None:
    refuse_other_kinds(folder, config)
    describe(config, ())


@pytest.mark.parametrize("name", [name for name in FILES if name != "embeddinggemma-300m" and read(name)["tiny"]])
def test_made_small_it_is_right(name: str, tmp_path: Path, import_script: Callable[[str], ModuleType]) -> None:
    content = read(name)
    values = {key: value for key, value in (content["config"] | content["tiny"]).items() if key != "dtype"}
    kind = values.pop("model_type")
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    config = transformers.CONFIG_MAPPING[kind](**(values | tokens))
    found = import_script("coverage").try_class(config, 1, tmp_path, peers=False)
    assert found["verdict"] == "right", found["reason"]
