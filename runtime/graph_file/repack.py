"""Write a bundle's model such that onnxruntime maps its packed weights instead of making them at each start.

What onnxruntime 1.31 does at each start, for each matrix product with a constant weight:

1. it packs the weight into anonymous memory (for MatMulNBits on x86-64: codes, scales and block sums);
2. it hashes what it packed, and looks for ``prepacked_N = "<op>+<hash>|<offset>;<bytes>;<alignment>"`` in the external
   data of the weights. When the hash is there, it drops what it packed and maps that region of the file.

So a ``prepacked`` entry never saves step 1; but nothing compares the region with what was packed, and when a product
is computed the region is all that is read. Hence the form that is written here:

::

    file   ┌ hole of zeros │ marks │ 0xFF… ┐ packed weights, each on its own page │ what the graph reads as it is
    weight └─ a window ────────┘   │       │ (real)
    scales                         └ NaN ──┘

The weight's own bytes become a window into a hole, which takes no room on the disk and stays in the CPU's cache while
it is packed; its end in the marks makes every window unique, hence every hash. The real packed bytes are filed under
the hash of the packed window. The scales become NaN, and inputs of the graph that have a default: as they are no
constants then, they are neither read nor packed at a start, which halves the time for blocks of 32.

The experts of a layer (QMoE) are one node with two weights, which packs only where scales are constants: theirs stay
so, and are NaN. The node takes the shape of a weight that was packed from beside the packed bytes: so in the place of
its 4-bit weights a stub of one block is enough to find them by, and nothing as large as experts is packed at a start.

Every matrix is proven on its own before it is used: a graph of this one product, from the bundle and from the new
file, gives the same bits. Where it does not (an onnxruntime that reads the scales, or an operator that packs
differently), the next of :data:`FORMS` is tried, and at last the weight is kept as it is.

A hash that is not found would be silent: the product is computed from the hole. So the smallest product of each kind
stands in a graph of its own as well, :data:`CHECK`, which takes milliseconds to open and to run. Whoever opens the
model runs it first, and compares with what :func:`write` returned.
"""

import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgepress.disk.files import read_into
from edgepress.errors import InputError
from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.form import CHECK, DATA, MODEL
from edgepress.runtime.graph_file.products import (
    Product,
    Region,
    Tensor,
    external,
    graph_outputs,
    header,
    lines_of,
    products_of,
    read_node,
    read_tensor,
    value_info,
    with_names,
    with_packed,
)
from edgepress.runtime.graph_file.protobuf import Message
from edgepress.sessions import open_on_cpu, session_options
from edgepress.terminal.progress import Advance, Progress, silent

_PAGE = 4096
_MARK = 64  # bytes by which two windows differ; keeps windows aligned
_INLINE = 4096  # bytes up to which a tensor is stored in the graph: a mapping costs more
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ROUTES = "routes"  # what inputs that choose experts are called
_SCRATCH_DATA = "product.data"
_PROOF_ROWS = (1, 5)  # a single row has kernels of its own
_ROWS_READ = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3)}  # inputs of which a row is read for each token

Arrays = list[NDArray[np.generic]]
Packed = dict[int, tuple[str, list[Region]]]  # by input index: the key, and where the bytes are
Form = Literal["stub", "stub, own scales", "window, open scales", "window", "window, own scales", "own bytes"]
FORMS: tuple[Form, ...] = ("window, open scales", "window", "window, own scales", "own bytes")
EXPERT_FORMS: tuple[Form, ...] = ("stub", "stub, own scales", "window", "window, own scales", "own bytes")


@dataclass
class Written:
    """What :func:`write` did.

    ``forms`` counts weights, ``rows`` are the regions of the file that are read row by row, and ``checks`` are the
    SHA-256 of what the products in :data:`CHECK` compute.
    """

    forms: dict[str, int] = field(default_factory=dict)
    packed_bytes: int = 0
    rows: list[Region] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def run_check(folder: Path) -> list[str]:
    """What the products in :data:`CHECK` compute on this machine, now: to be compared with :attr:`Written.checks`."""
    if not (folder / CHECK).exists():
        return []  # onnxruntime packs none of this model's weights
    session = _session(str(folder / CHECK), _options())
    return [_digest(y) for y in session.run([item.name for item in session.get_outputs()], _samples(session, 1))]


def write(model: Path, into: Path, progress: Progress = silent) -> Written:
    """Write ``model`` with its packed weights to ``into``, an existing directory. Memory: a few of the largest piece.

    Raises:
        InputError: onnxruntime cannot open the model.
        OSError: the directory cannot be written, or the disk is full.

    """
    opset, graph = _optimized(model, into)
    nodes = [read_node(value) for value in pb.all_bytes(graph, 1)]
    tensors = {tensor.name: tensor for tensor in map(read_tensor, pb.all_bytes(graph, 5))}
    groups = [products_of(node, tensors) for node in nodes]
    lines = [line for node, group in zip(nodes, groups, strict=True) for line in lines_of(node, group)]
    with (into / DATA).open("w+b") as data:
        writer = _Writer(model.parent, into, data, opset)
        products = [product for group in groups for product in group]
        with progress(len(products), "preparing the memory-mapped form", " products") as advance:
            made = writer.write_products(products, advance)
        # Products name copies of their constants by now; what no line names any longer is left out.
        used = {name for line in lines for name in line.inputs} | graph_outputs(graph)
        if any(line.has_graph for line in lines):
            used |= tensors.keys()
        read_by_row = {
            name for line in lines if line.op in _ROWS_READ for i, name in enumerate(line.inputs)
            if i in _ROWS_READ[line.op]
        }  # fmt: skip
        made += [writer.copy(tensor, tensor.name in read_by_row) for name, tensor in tensors.items() if name in used]
        data.truncate()
        writer.write_check()
    graph = pb.without(graph, 1, 5) + writer.open_inputs
    graph += [pb.nested(1, line.message) for line in lines]
    graph += [pb.nested(5, message) for message in made]
    (into / MODEL).write_bytes(pb.serialize([*opset, pb.nested(7, graph)]))
    return writer.written


def _optimized(model: Path, into: Path) -> tuple[Message, Message]:
    """Let onnxruntime fuse and fold the graph; return the model's fields but the graph, and the graph's."""
    path = into / "optimized.onnx"
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.optimized_model_filepath = str(path)
    _session(str(model), options)
    message = pb.parse(path.read_bytes())
    path.unlink()
    (graph,) = pb.all_bytes(message, 7)
    return pb.without(message, 7), pb.parse(graph)


# ---- the data file ---------------------------------------------------------------------------------------------------


class _Writer:
    """Appends to the data file, and hands out the constants that name what is there."""

    def __init__(self, bundle: Path, into: Path, data: BinaryIO, opset: Message) -> None:
        self.bundle, self.into, self.data, self.opset = bundle, into, data, opset
        self.written = Written()
        self._hole_end = 0
        self._poison = 0
        self.open_inputs: Message = []
        self._checked: dict[str, _Checked] = {}
        self._appended: dict[tuple[str, int, int] | str, int] = {}  # by place in the bundle, else by name

    def write_products(self, products: list[Product], advance: Advance) -> list[Message]:
        """Check and append every product; return the constants that they read."""
        self._write_windows(products)
        made: list[Message] = []
        first: dict[str, Form] = {}  # a form that failed once on this machine is not tried again for that operator
        number = 0
        for product in products:
            op = product.node.op
            forms = EXPERT_FORMS if product.packs.folds else FORMS
            forms = forms[forms.index(first[op]) :] if op in first else forms
            form, constants = self._write_product(product, number, forms)
            number += len(product.weights)
            if form is not None:
                first[op] = form
            name = form or "not packed"
            self.written.forms[name] = self.written.forms.get(name, 0) + 1
            made += constants
            advance(1)
        (self.into / _SCRATCH_DATA).unlink(missing_ok=True)
        return made

    def copy(self, tensor: Tensor, by_row: bool) -> Message:
        """Append a constant that nothing packs."""
        message = self._append(tensor, tensor.name)
        offset = self._appended.get(tensor.external or tensor.name)
        if by_row and offset is not None:
            self.written.rows.append((offset, tensor.size))
        return message

    def _write_windows(self, products: list[Product]) -> None:
        """Write the hole, the marks and the NaN; leave ``data`` at the first packed weight."""
        sizes = [(p.packs, index, tensor.size) for p in products for index, tensor in p.constants.items()]
        hole = max((size for packs, index, size in sizes if index in packs.weights + packs.zero_points), default=0)
        scales = max((size for packs, index, size in sizes if index in packs.scales), default=0)
        self._hole_end = self._to_page(hole)
        marks = _MARK * sum(len(product.weights) for product in products)
        self.data.write(np.random.default_rng(0).integers(1, 256, marks, np.uint8).tobytes())
        self._poison = self._to_page()
        self.data.write(b"\xff" * scales)  # NaN in every floating-point format
        self.data.flush()
        self._to_page()

    def _write_product(
        self, product: Product, number: int, forms: tuple[Form, ...]
    ) -> tuple[Form | None, list[Message]]:
        """Append the packed weights in the first of the forms that computes the same bits; the last one does.

        ``number`` is that of its first window. Returns the form, None when onnxruntime does not pack all weights, and
        the constants for the new graph.
        """
        indices = product.constants
        own = {index: self._inline(product.constants[index], product.name_of(index)) for index in indices
               if index not in product.weights}  # fmt: skip
        for index, weight in product.weights.items():
            location, offset = _place(weight)
            data = (self.bundle / location).resolve()  # onnxruntime follows no link out of a folder, as the hub has
            own[index] = external(weight, product.name_of(index), data.name, offset)
        found, expected = _Proof(product, self.opset, data.parent, self.into).pack(list(own.values()))
        if len(found) < len(product.weights):
            return None, [self._append(product.constants[index], product.name_of(index)) for index in indices]
        packed = {index: self._append_packed(regions) for index, (_, regions) in found.items()}
        proof = _Proof(product, self.opset, self.into, self.into)
        for form in forms[:-1]:
            made_up = self._made_up(product, number, form)
            opened = _opened(product) if form == "window, open scales" else []
            constants = own | made_up
            computed = proof.computed(constants, packed, opened)
            if computed is not None and _same_bits(computed, expected):
                kept = [constants[index] if index in made_up
                        else self._append(product.constants[index], product.name_of(index))
                        for index in indices]  # fmt: skip
                return form, self._in_use(product, kept, opened, expected[0])
        kept = [self._append(product.constants[index], product.name_of(index), inline=index not in product.weights)
                for index in indices]  # fmt: skip
        for position, index in enumerate(indices):
            if index in found:
                kept[position] = with_packed(kept[position], found[index][0], packed[index])
        return forms[-1], self._in_use(product, kept, [], expected[0])

    def _in_use(
        self, product: Product, constants: list[Message], opened: Message, y: NDArray[np.generic]
    ) -> list[Message]:
        """Note what the new graph needs for this product; the smallest one of its kind is for the check."""
        self.open_inputs += opened
        known = self._checked.get(kind := repr(product.kind))
        if known is None or product.size < known.product.size:
            self._checked[kind] = _Checked(product, constants, opened, _digest(y))
        return constants

    def write_check(self) -> None:
        """Write the graph that tells whether this machine finds what was packed."""
        items = list(self._checked.values())
        if items:
            (self.into / CHECK).write_bytes(_graph_of(items, self.opset))
        self.written.checks = [item.digest for item in items]

    def _made_up(self, product: Product, number: int, form: Form) -> dict[int, Message]:
        """The inputs that ``form`` replaces, and their windows."""
        offsets = {}
        constants = dict(product.constants)
        for end, (index, weight) in enumerate(product.weights.items(), number + 1):
            size = weight.size
            if form in {"stub", "stub, own scales"}:
                constants[index], size = product.stub_of(weight), _MARK
            offsets[index] = self._hole_end + _MARK * end - -(-size // _MARK) * _MARK
        if not form.endswith("own scales"):
            offsets |= dict.fromkeys(product.packs.scales, self._poison) | dict.fromkeys(product.packs.zero_points, 0)
        return {index: external(tensor, product.name_of(index), DATA, offsets[index])
                for index, tensor in constants.items() if index in offsets}  # fmt: skip

    def _append_packed(self, regions: list[Region]) -> list[Region]:
        """Append packed bytes, each region on a page of its own; return their places."""
        places = []
        with (self.into / _SCRATCH_DATA).open("rb") as scratch:
            for offset, size in regions:
                places.append((self._to_page(), size))
                scratch.seek(offset)
                _copy(scratch, self.data, size)
                self.written.packed_bytes += size
        self.data.flush()
        return places

    def _inline(self, tensor: Tensor, name: str) -> Message:
        """The constant with its bytes in the graph."""
        if tensor.external is None:
            return [*pb.without(tensor.message, 8), pb.text(8, name)]
        location, offset, size = tensor.external
        content = bytearray(size)
        if (done := read_into(self.bundle / location, offset, memoryview(content))) < size:
            raise _too_early(self.bundle / location, size - done)
        return [*header(tensor, name), pb.Field(9, pb.BYTES, bytes(content))]

    def _append(self, tensor: Tensor, name: str, *, inline: bool = True) -> Message:
        """The constant with its bytes appended, once; in the graph when they are few, or no bytes but numbers."""
        if tensor.size <= _INLINE and (inline or tensor.external is None):
            return self._inline(tensor, name)
        place = tensor.external or tensor.name
        if place not in self._appended:
            self._appended[place] = self._to_page()
            if tensor.external is None:  # what onnxruntime folded, such as scales that are cast
                _copy(BytesIO(tensor.raw), self.data, tensor.size)
            else:
                location, offset, size = tensor.external
                with (self.bundle / location).open("rb") as file:
                    file.seek(offset)
                    _copy(file, self.data, size)
        return external(tensor, name, DATA, self._appended[place])

    def _to_page(self, position: int | None = None) -> int:
        """Move on to the next page."""
        return self.data.seek(-(-(self.data.tell() if position is None else position) // _PAGE) * _PAGE)


def _opened(product: Product) -> Message:
    """The scales and zero points as inputs of the graph that have a default, hence no constants to be packed."""
    indices = product.packs.scales + product.packs.zero_points
    return [value_info(11, product.name_of(index), tensor.data_type, tensor.shape)
            for index, tensor in product.constants.items() if index in indices]  # fmt: skip


def _place(tensor: Tensor) -> tuple[str, int]:
    location, offset, _ = tensor.external or ("", 0, 0)
    return location, offset


def _too_early(name: str | Path, missing: int) -> InputError:
    return InputError(f"{name} ends {missing} bytes too early; run `edgepress verify` on the bundle")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        block = source.read(min(size, 1 << 20))
        if not block:
            raise _too_early(source.name, size)
        target.write(block)
        size -= len(block)


# ---- proof -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Proof:
    """A graph of one product, whose constants' files are in ``folder``; scratch files go to ``scratch``."""

    product: Product
    opset: Message
    folder: Path
    scratch: Path

    def pack(
        self, constants: list[Message], opened: Message | None = None, *, run: bool = True
    ) -> tuple[Packed, Arrays]:
        """Let onnxruntime pack the weights: of each, key and regions in the scratch file; and what it computes."""
        path = self.scratch / "product.onnx"
        (self.scratch / _SCRATCH_DATA).unlink(missing_ok=True)
        options = _options()
        tell_packed(options, path, _SCRATCH_DATA)
        session = self._open(constants, opened, options)
        results = self._run(session) if run else []
        indices = {self.product.name_of(index): index for index in self.product.weights}
        packed: Packed = {indices[name]: found for name, found in packed_in(path).items()}
        path.unlink()
        return packed, results

    def computed(
        self, constants: dict[int, Message], packed: dict[int, list[Region]], opened: Message
    ) -> Arrays | None:
        """What it computes from ``constants``, which are told here where the packed bytes are; None where it does not.

        onnxruntime may not pack them, or refuse what is packed: its exceptions have no common base.
        """
        try:
            keys, _ = self.pack(list(constants.values()), opened, run=False)
            for index, (key, _) in keys.items():
                constants[index] = with_packed(constants[index], key, packed[index])
            return self.run(list(constants.values()), opened) if len(keys) == len(packed) else None
        except Exception:
            return None

    def run(self, constants: list[Message], opened: Message) -> Arrays:
        """What the product computes from these constants."""
        return self._run(self._open(constants, opened, _options()))

    def _open(
        self, constants: list[Message], opened: Message | None, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.folder))
        return _session(self._model(constants, opened or []), options)

    def _run(self, session: onnxruntime.InferenceSession) -> Arrays:
        rows = (1, self.product.experts) if self.product.routes else _PROOF_ROWS  # each expert computes
        return [session.run(["y0"], _samples(session, count))[0] for count in rows]

    def _model(self, constants: list[Message], opened: Message) -> bytes:
        return _graph_of([_Checked(self.product, constants, opened)], self.opset)


@dataclass(frozen=True)
class _Checked:
    """A product as it stands in the new graph: its constants, and those of them that are inputs as well."""

    product: Product
    constants: list[Message]
    opened: Message
    digest: str = ""


def _graph_of(items: list[_Checked], opset: Message) -> bytes:
    """A model with products side by side: ``x0 ─► product ─► y0``, ``x1 ─► …``."""
    nodes, constants, inputs, outputs = Message(), Message(), Message(), Message()
    for number, item in enumerate(items):
        product, x, y = item.product, f"x{number}", f"y{number}"
        routes = {index: f"{ROUTES}{number}/{index}" for index in product.routes}
        names = [x, *(routes.get(index, name) for index, name in enumerate(product.inputs[1:], 1))]
        nodes.append(pb.nested(1, with_names(product.node.message, names, [y], product.node.name)))
        constants += [pb.nested(5, constant) for constant in item.constants]
        inputs += [value_info(11, x, product.x_type, ["rows", product.depth]), *item.opened]
        inputs += [value_info(11, name, product.x_type, ["rows", product.experts]) for name in routes.values()]
        outputs.append(value_info(12, y, product.x_type))
    return pb.serialize([*opset, pb.nested(7, [*nodes, pb.text(2, "products"), *constants, *inputs, *outputs])])


def _samples(session: onnxruntime.InferenceSession, rows: int) -> dict[str, NDArray[np.generic]]:
    """What goes into a graph of products, (rows, columns) each; inputs that have a default keep it."""
    return {item.name: sample(item.name, rows, item.shape[1]).astype(_TYPES[item.type])
            for item in session.get_inputs()}  # fmt: skip


def sample(name: str, rows: int, columns: int) -> NDArray[np.float32]:
    """An x that has no structure, without the cost of importing a generator; routes by which row i chooses expert i
    first, then those after it."""
    if name.startswith(ROUTES):
        place = (np.arange(columns) - np.arange(rows)[:, None]) % columns
        return (1 - place / columns).astype(np.float32)
    index = np.arange(1, rows * columns + 1, dtype=np.float32)
    sample: NDArray[np.float32] = np.sin(index * index * np.float32(0.7)).reshape(rows, columns)
    return sample


def _digest(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _same_bits(ours: Arrays, expected: Arrays) -> bool:
    return all(a.tobytes() == b.tobytes() and bool(np.isfinite(a).all()) for a, b in zip(ours, expected, strict=True))


# ---- onnxruntime -----------------------------------------------------------------------------------------------------


def tell_packed(options: onnxruntime.SessionOptions, path: Path, data: str) -> None:
    """Let a session write to ``path`` the model that it opens, and what it packs to the file ``data`` beside it."""
    options.optimized_model_filepath = str(path)
    for name, setting in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", data),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1"),
    ):
        options.add_session_config_entry(name, setting)


def packed_in(path: Path) -> dict[str, tuple[str, list[Region]]]:
    """By the name of each constant that a session packed: the key of what it packed, and where that is."""
    (graph,) = pb.all_bytes(pb.parse(path.read_bytes()), 7)
    found = {}
    for value in map(pb.parse, pb.all_bytes(pb.parse(graph), 5)):
        for entry in map(pb.parse, pb.all_bytes(value, 13)):
            if pb.one_text(entry, 1).startswith("prepacked_"):
                key, *places = pb.one_text(entry, 2).split("|")
                regions = [place.split(";") for place in places]
                found[pb.one_text(value, 8)] = key, [(int(offset), int(size)) for offset, size, _ in regions]
    return found


def _options() -> onnxruntime.SessionOptions:
    options = session_options(1)
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _session(model: str | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return open_on_cpu(model, options)
