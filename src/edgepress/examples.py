"""Example inputs of a model: made-up numbers of the shapes that it declares."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def example_inputs(session: "InferenceSession", rows: int = 1, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Float32 numbers of a normal distribution for each input, ``rows`` for each dimension that is not fixed.

    Raises:
        InputError: an input is not float32.

    """
    random, feeds = np.random.default_rng(seed), {}
    for value in session.get_inputs():
        if value.type != "tensor(float)":
            raise InputError(f"the input {value.name} is a {value.type}; examples are made for tensor(float) only")
        shape = [size if isinstance(size, int) else rows for size in value.shape]
        feeds[value.name] = random.standard_normal(shape, np.float32)
    return feeds
