"""timm where it is installed, beside a torch of any build."""

from importlib.util import find_spec
from typing import Any

import pytest

from edgepress.exporter.doors.ways.timm_model import import_timm


def timm_or_skip() -> Any:
    """The library; without it, or the torchvision that it needs, a skip."""
    if find_spec("timm") is None or find_spec("torchvision") is None:
        pytest.skip("needs timm and torchvision: pip install 'edgepress[timm]'")
    return import_timm()
