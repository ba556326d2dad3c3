"""What tests do to bundles."""

from dataclasses import replace
from pathlib import Path

from edgepress.manifest import MANIFEST_NAME, describe_files, read_manifest


def sign(bundle: Path) -> Path:
    """Let the manifest describe the files as they are now, as a maker of hostile bundles would; return ``bundle``."""
    manifest = replace(read_manifest(bundle), files=describe_files(bundle))
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return bundle
