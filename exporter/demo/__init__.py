"""The built-in demo model: a small Llama trained on Shakespeare by `train.py`, shipped as data."""

from pathlib import Path

DEMO_DIRECTORY: Path = Path(__file__).resolve().parent / "model"
