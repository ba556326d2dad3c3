"""What the manifest lists of graphs that propose tokens, and what a bundle's config makes of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.bundle.drafters import DrafterEntry, check_drafters
from edgepress.bundle.manifest import FileEntry, Manifest, read_manifest
from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig

STATE = State("layers.0.key", "past_key_values.0.key", "present.0.key", ("batch", 2, "past", 8), "float32", "key-value")
ENTRY = DrafterEntry("draft", "draft.onnx", (STATE,), about={"acceptance": 0.7})


def test_a_drafter_is_listed_once_by_a_file_that_is_there() -> None:
    check_drafters([ENTRY, replace(ENTRY, drafter="mtp", file="mtp.onnx")], ["draft.onnx", "mtp.onnx"])
    with pytest.raises(ValueError, match=r"draft.onnx is not among the files"):
        check_drafters([ENTRY], ["model.onnx"])
    with pytest.raises(ValueError, match="one drafter is there twice"):
        check_drafters([ENTRY, ENTRY], ["draft.onnx"])
    with pytest.raises(ValueError, match="two states have the name"):
        check_drafters([replace(ENTRY, states=(STATE, STATE))], ["draft.onnx"])
    with pytest.raises(ValueError, match="there are 9, and a bundle has at most 8"):
        check_drafters([ENTRY] * 9, ["draft.onnx"])


def test_the_manifest_keeps_them_and_has_no_field_without(tmp_path: Path) -> None:
    files = {"draft.onnx": FileEntry(1, "0" * 64)}
    plain = Manifest("llama", {}, {}, {}, {}, (), {}, files)
    assert '"drafters"' not in plain.serialize()
    (tmp_path / "manifest.json").write_text(replace(plain, drafters=(ENTRY,)).serialize(), encoding="utf-8")
    assert read_manifest(tmp_path).drafters == (ENTRY,)
    gone = replace(plain, drafters=(ENTRY,), files={})
    (tmp_path / "manifest.json").write_text(gone.serialize(), encoding="utf-8")
    with pytest.raises(InputError, match=r"drafters: draft.onnx is not among the files; export the bundle again"):
        read_manifest(tmp_path)


def test_a_config_knows_a_drafters_graph() -> None:
    config = BundleConfig(
        Path("b"), Path("b/model_fp16.onnx"), 64, 64, 96, None, frozenset(), (), long_from=32, casts=True,
        drafters=(ENTRY,),
    )  # fmt: skip
    found = config.of_drafter("draft")
    assert found is not None
    assert (found.model, found.states, found.long_from, found.casts) == (Path("b/draft.onnx"), (STATE,), None, False)
    assert found.of_drafter("draft") is None
    assert config.of_drafter("mtp") is None
