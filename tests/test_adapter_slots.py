"""The list of slots in a manifest is data of anyone's: what it may say, and the numbers that tell files apart."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgepress.bundle.adapter_slots import AdapterSlots, Slot, SlotPart, adapter_version, check_slots, model_version
from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest
from edgepress.errors import InputError

PARTS = (SlotPart("q.weight", 0, 8, 0), SlotPart("v.weight", 0, 4, 8))
SLOTS = AdapterSlots(
    16, (Slot("layers.0.qkv", 6, 12, PARTS), Slot("layers.0.up", 6, 8, (SlotPart("up.weight", 0, 8, 0),)))
)


def write(bundle: Path, slots: object) -> Path:
    manifest = replace(read_manifest(bundle), adapter_slots=slots)
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return bundle


def test_a_manifest_keeps_them(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert "adapter_slots" not in json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert read_manifest(write(bundle, SLOTS)).adapter_slots == SLOTS
    assert SLOTS.tensors == ("q.weight", "v.weight", "up.weight")
    assert SLOTS.targets == ("q", "v", "up")
    assert SLOTS.largest_bytes == 4 * 16 * (2 * (6 + 12) + (6 + 8))
    assert [SLOTS.rows_of(name) for name in SLOTS.tensors] == [8, 4, 8]


BAD: dict[str, dict[str, Any]] = {
    "none": {"slots": []},
    "rank": {"rank": 0},
    "huge": {"rank": 5000},
    "twice": {"slots": [asdict(SLOTS.slots[0])] * 2},
    "no-parts": {"slots": [{**asdict(SLOTS.slots[0]), "parts": []}]},
    "nameless": {"slots": [{**asdict(SLOTS.slots[0]), "name": ""}]},
    "negative": {"slots": [{**asdict(SLOTS.slots[0]), "rows": -1}]},
    "beyond": {"slots": [{**asdict(SLOTS.slots[0]), "rows": 11}]},
    "backwards": {"slots": [{**asdict(SLOTS.slots[0]), "parts": [asdict(SlotPart("q.weight", 3, 3, 0))]}]},
    "step": {"slots": [{**asdict(SLOTS.slots[0]), "parts": [asdict(SlotPart("q.weight", 0, 7, 0, 2))]}]},
    "kind": {"slots": "all"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_slots_that_cannot_be_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    bundle = write(make_bundle(tmp_path / "bundle"), SLOTS)
    manifest = read_manifest(bundle)
    text = json.loads(manifest.serialize())
    (bundle / MANIFEST_NAME).write_text(_signed({**text, "adapter_slots": {**text["adapter_slots"], **change}}))
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(bundle)


def _signed(content: dict[str, Any]) -> str:
    """As a maker of hostile bundles would."""
    from edgepress.bundle.manifest import _digest, canonical

    return canonical({**content, "manifest_sha256": _digest(content)})


@given(rows=st.integers(1, 40), first=st.integers(0, 40), count=st.integers(1, 40), step=st.integers(1, 4))
def test_parts_lie_in_their_slot(rows: int, first: int, count: int, step: int) -> None:
    part = SlotPart("a.weight", 5, 5 + count, first, step)
    slots = AdapterSlots(1, (Slot("s", 3, rows, (part,)),))
    places = [first + step * index for index in range(count)]
    assert list(part.rows) == places
    if max(places) < rows:
        check_slots(slots)
    else:
        with pytest.raises(ValueError, match="slot s has"):
            check_slots(slots)


def test_numbers_tell_checkpoints_and_contents_apart() -> None:
    source = {"config.json": "0" * 64, "model.safetensors": "1" * 64}
    assert model_version(source) == model_version(dict(reversed(source.items())))
    others = [{**source, "config.json": "2" * 64}, {"model.safetensors": "1" * 64}, {**source, "a": "0" * 64}]
    assert len({model_version(one) for one in [source, *others]}) == 4
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    contents: list[dict[str, np.ndarray]] = [
        {"a": value}, {"b": value}, {"a": value.reshape(3, 2)}, {"a": value + 1}, {"a": value, "b": value}, {}
    ]  # fmt: skip
    assert len({adapter_version(one) for one in contents}) == len(contents)
    assert adapter_version({"b": value, "a": value}) == adapter_version({"a": value, "b": value})
    assert adapter_version({"a": value}) == adapter_version({"a": np.asfortranarray(value)})
    assert all(0 <= adapter_version(one) < 2**31 for one in contents)
