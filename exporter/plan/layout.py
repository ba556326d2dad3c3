"""Where the bytes of each tensor lie in the data file: aligned regions, one after the other."""

from math import prod

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Form, PlannedTensor, Region

PAGE = 4096  # bytes: the ONNX external-data recommendation, so that a region can be mapped on its own
_CACHE_LINE = 64  # bytes: enough for the kernels, and all that a region far smaller than its padding deserves
_SMALL = 16 * PAGE  # bytes: below this a region is aligned to a cache line only
FLOAT = 4  # bytes of a float32
_HALF = 2  # bytes of a float16
_INDEX = 4  # bytes of the number of a column


class Layout:
    """Hands out aligned regions of the data file, in order."""

    def __init__(self) -> None:
        self.end = 0
        self._stacks: dict[tuple[str, str], PlannedTensor] = {}  # the first weight of each, by name and kind
        self._nodes: dict[str, PlannedTensor] = {}  # the first weight of those that one node reads

    def regions(self, weight: Weight, scheme: Scheme | None, form: Form) -> dict[str, Region]:
        """Where the parts of a weight lie: after those of the one before it where it is one of a stack.

        Raises:
            InputError: the weights of a stack, or of the stacks of one node, are to be stored in different ways.

        """
        sizes, stack = region_bytes(weight.shape, scheme, form), weight.stack
        if weight.ordered:
            sizes["order"] = _INDEX * weight.shape[1]
        if stack is None:
            return {part: self.place(nbytes) for part, nbytes in sizes.items()}
        key = (stack.name, weight.kind)
        if key not in self._stacks:
            regions = {part: self.place(nbytes * stack.count) for part, nbytes in sizes.items()}
            self._stacks[key] = PlannedTensor(weight, scheme, "", 0, regions, form)
        first = self._stacks[key]
        if (first.scheme, first.form) != (scheme, form):
            raise _apart(first, weight, scheme, form, "all experts of a layer are read as one tensor")
        if weight.kind == "linear":
            other = self._nodes.setdefault(stack.node, first)
            if _grid(other.scheme) != _grid(scheme):
                raise _apart(other, weight, scheme, form, "QMoE has one number of bits and one size of blocks")
        return {
            part: Region(first.regions[part].offset + stack.index * nbytes, nbytes) for part, nbytes in sizes.items()
        }

    def place(self, nbytes: int) -> Region:
        """The next ``nbytes``, at a page, or at a cache line where they are few."""
        alignment = PAGE if nbytes >= _SMALL else _CACHE_LINE
        offset = -(-self.end // alignment) * alignment
        self.end = offset + nbytes
        return Region(offset, nbytes)


def _grid(scheme: Scheme | None) -> tuple[int, int, bool] | None:
    return None if scheme is None else (scheme.bits, scheme.block_size, scheme.symmetric)


def _apart(first: PlannedTensor, weight: Weight, scheme: Scheme | None, form: Form, why: str) -> InputError:
    here = PlannedTensor(weight, scheme, "", 0, form=form).stored_as
    return InputError(
        f"{first.weight.name} is to be stored as {first.stored_as}, and {weight.name} as {here}: {why}; ask for the "
        f'same, as with [[override]] match = "*.experts.*"'
    )


def region_bytes(shape: tuple[int, ...], scheme: Scheme | None, form: Form = "blocks") -> dict[str, int]:
    """Bytes of each region of a weight: see :class:`PlannedTensor`."""
    if scheme is None and form.endswith("value"):
        return {"values": prod(shape) * (_HALF if form == "uint16 value" else 1)}
    if scheme is None:
        return {"data": prod(shape) * (_HALF if form == "half" else FLOAT)}
    rows, columns = shape
    if form == "signed":
        return {"values": -(-rows * columns * scheme.bits // 8), "scales": rows * FLOAT}
    if form not in {"blocks", "half blocks", "folded"}:
        parts = {"values": rows * columns, "scales": rows * FLOAT}
        width = {"uint8": 1, "uint16": 2}.get(form)
        return parts if width is None else parts | {"input_scale": FLOAT, "input_zero_point": width}
    parts = {
        "values": prod(scheme.values_shape(rows, columns)),
        "scales": prod(scheme.scales_shape(rows, columns)) * (_HALF if form == "half blocks" else FLOAT),
    }
    return parts if scheme.symmetric else parts | {"zero_points": prod(scheme.zero_points_shape(rows, columns))}
