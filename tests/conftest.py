"""Lets tests import what they share (``tiny_models``, ``oracles…``), and keeps them out of the user's cache."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: on models as small as these, several only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("EDGEPRESS_CACHE")
    os.environ["EDGEPRESS_CACHE"] = str(tmp_path_factory.mktemp("prepared"))
    yield
    if before is None:
        del os.environ["EDGEPRESS_CACHE"]
    else:
        os.environ["EDGEPRESS_CACHE"] = before
