"""Bundles of the demo model with a chat template: exported once in a process, copied for each template."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from bundles import sign
from call_templates import AFTER, BEFORE, TEMPLATES

from edgepress.exporter import export


@cache
def _exported() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    kept = tempfile.TemporaryDirectory(prefix="edgepress-chat-")  # removed when the process ends
    export("demo", out=Path(kept.name) / "bundle", target="x86-cpu", recipe="fp32")
    return Path(kept.name) / "bundle", kept


def chat_bundle(folder: Path, form: str = "hermes") -> Path:
    """A bundle in ``folder`` whose template writes calls of tools in this format."""
    bundle = Path(shutil.copytree(_exported()[0], folder))
    (bundle / "chat_template.jinja").write_text(BEFORE + TEMPLATES[form] + AFTER, encoding="utf-8")
    return sign(bundle)
