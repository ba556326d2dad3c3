"""onnxruntime-genai's model builder, run in this process: in one of its own it would import torch first."""

import runpy
import sys

import pytest


def build(*words: object) -> None:
    """Run its command line."""
    pytest.importorskip("onnxruntime_genai")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["builder", *map(str, words)])
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
