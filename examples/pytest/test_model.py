"""Tests of the model that an app ships: ``pytest --edgepress-bundle DIR``."""

from pathlib import Path

from edgepress.runtime.model import Model
from edgepress.testing import assert_memory_below


def test_it_answers(edgepress_model: Model) -> None:
    """It says something."""
    assert "".join(edgepress_model.generate("ROMEO:", max_tokens=16)).strip()


def test_it_fits_into_memory(edgepress_bundle: Path, edgepress_device_name: str) -> None:
    """A fresh process with the bundle stays below what the app may use."""
    assert_memory_below(edgepress_bundle, 500, device=edgepress_device_name, prompt_length=16, decode_tokens=8)
