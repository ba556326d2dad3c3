"""Models of transformers that tests of sequences are held against compute on one thread."""

from collections.abc import Iterator

import encoder_decoders
import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with encoder_decoders.on_one_thread():
        yield
