"""Lets tests import what they share (``tiny_models``, ``oracles…``), and keeps them out of the user's cache."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("EDGEPRESS_CACHE")
    os.environ["EDGEPRESS_CACHE"] = str(tmp_path_factory.mktemp("prepared"))
    yield
    if before is None:
        del os.environ["EDGEPRESS_CACHE"]
    else:
        os.environ["EDGEPRESS_CACHE"] = before
