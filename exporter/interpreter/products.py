"""What a product or a convolution multiplies its weight by."""

from __future__ import annotations

from torch import Tensor

from edgepress.exporter.interpreter.network import Step
from edgepress.exporter.interpreter.operators.convolutions import patches

_PRODUCTS = ("Gemm", "MatMul", "com.microsoft:FusedMatMul")


def rows_read(step: Step, x: Tensor, weight: Tensor) -> Tensor | None:
    """What a node multiplies each row of a weight by, (…, columns); None where nothing looks at that.

    That is so of what is no product nor convolution, of convolutions in groups, and of batches of matrices.
    """
    if step.key == "Conv":
        return patches(step.call, x, weight)
    is_product = step.key in _PRODUCTS and not step.attributes.get("transA", 0) and weight.dim() == 2
    return x if is_product else None
