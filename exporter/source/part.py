"""Where rows of a weight lie in a checkpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Rows of one checkpoint tensor that become consecutive rows of a weight.

    ``start`` and ``stop`` count rows of the tensor as used (after ``transposed``); ``transposed`` says that the
    checkpoint stores ``(in_features, out_features)``, as GPT-2's Conv1D does. ``index`` is the number of the matrix
    where the tensor is a stack of them, (matrices, …, …). The first ``leading`` axes of a tensor of more than two
    number its rows, and a row is flattened: a convolution's (out, in, height, width) has rows of in · height · width.
    """

    tensor: str
    start: int
    stop: int
    transposed: bool = False
    index: int | None = None
    leading: int = 1
