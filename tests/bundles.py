"""What tests do to bundles."""

from dataclasses import replace
from pathlib import Path

from edgepress.bundle.manifest import MANIFEST_NAME, Manifest, describe_files, read_manifest


def sign(bundle: Path) -> Path:
    """Let the manifest describe the files as they are now, as a maker of hostile bundles would; return ``bundle``."""
    manifest = replace(read_manifest(bundle), files=describe_files(bundle))
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return bundle


def make_bundle(folder: Path) -> Path:
    """Files and a manifest that describes them; no model."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model_fp16.onnx").write_bytes(b"another graph")
    (folder / "model.onnx.data").write_bytes(bytes(range(256)))
    manifest = Manifest(
        model_type="llama",
        targets={"arm64-cpu": {}},
        recipe={"name": "int4"},
        versions={"edgepress": "0"},
        source={"config.json": "0" * 64},
        tensors=({"name": "embedding", "sqnr_db": 20.5},),
        totals={"bytes_before": 1, "bytes_after": 2},
        files=describe_files(folder),
    )
    (folder / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return folder
