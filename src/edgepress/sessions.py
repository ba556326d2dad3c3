"""onnxruntime sessions whose integer products are those of ARM, on every processor.

On x86-64 with AVX2 and no VNNI, onnxruntime multiplies uint8 by int8 with an instruction that adds pairs of products
up in 16 bits, which saturate: 255 · 127 + 255 · 127 gives 32767. ARM and x86-64 with VNNI add them up in 32 bits. Its
option ``session.x64quantprecision`` makes constant int8 weights uint8 when a model is opened, the same numbers with
another zero point, whose kernel is exact. It is set where sums saturate and nowhere else: onnxruntime 1.31 obeys it
with VNNI too, where it changes no bit and makes products 2.6 times as slow.
"""

import logging
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.cores import usable_cores

if TYPE_CHECKING:
    from mmap import mmap

    from onnxruntime import InferenceSession, SessionOptions

EXACT_PRODUCTS = "session.x64quantprecision"
UNFUSED = "session.disable_quant_qdq"
IN_QDQ = frozenset({"MatMul", "Gemm", "Conv"})
"""Operators that onnxruntime computes in integers between DequantizeLinear and QuantizeLinear."""

WEIGHT_INPUTS = {
    **dict.fromkeys(IN_QDQ, 1),
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"), 1),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv", "QGemm"), 3),
    "QAttention": 1,
}
"""Operators whose kernel multiplies uint8 by int8, and which input holds the int8 (tests/product_models.py)."""

REMEDY = (
    f"open it with the session option {EXACT_PRODUCTS}=1, as edgepress does, or store weights as uint8 or in 7 bits"
)
_X86 = {"x86_64", "amd64", "i386", "i686", "x86"}
_FATAL = 4  # onnxruntime's log severity: warnings are about how a graph was built, and what is an error is raised, too
_NO_DATA = {".onnx", ".json", ".jinja", ".md", ".txt", ".svg"}  # of what lies beside a model
_UINT8, _INT8, _INT32 = 2, 3, 6  # TensorProto.DataType

_log = logging.getLogger("edgepress.sessions")


def session_options(threads: int | None = None) -> "SessionOptions":
    """Options of a session: exact integer products, nothing on the terminal, and ``threads`` within a node.

    Without ``threads`` there are as many as cores that this process may use. onnxruntime would start one for each core
    of the machine, and those without a core of their own spin in the way of the others.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    if saturates():
        options.add_session_config_entry(EXACT_PRODUCTS, "1")
    return options


def open_on_cpu(model: Path | str | bytes, options: "SessionOptions | None" = None) -> "InferenceSession":
    """Open a model on onnxruntime's CPU provider, with :func:`session_options` where none are given.

    onnxruntime 1.31 cannot make some weights uint8: one that nodes share, or whose zero point they share; one of an
    operator that takes int8 by int8 (which does not saturate). It then opens no session, and :func:`open_unfused` does.

    Raises:
        Exception: what onnxruntime raises; its exceptions have no common base.

    """
    options = session_options() if options is None else options
    try:
        return _open(model, options)
    except Exception:
        if not saturates():
            raise
        with suppress(Exception):  # the first error tells more
            return open_unfused(model, options)
        raise


def open_unfused(model: Path | str | bytes, options: "SessionOptions") -> "InferenceSession":
    """Open a model with its QuantizeLinear and DequantizeLinear computed one by one, products in float32 between them.

    That is exact but for ties of rounding, and what is left where onnxruntime fails with uint8 weights: when it opens
    a model, or when it runs one whose weights have scales by channel and no zero points. A warning says so, and names
    operators that multiply integers whatever is fused: theirs may saturate.
    """
    options.add_session_config_entry(EXACT_PRODUCTS, "0")
    options.add_session_config_entry(UNFUSED, "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = _open(model, options)
    finally:  # the caller may open another model with them
        options.add_session_config_entry(EXACT_PRODUCTS, str(int(saturates())))
        options.add_session_config_entry(UNFUSED, "0")
    nodes = (node for part in session.get_provider_graph_assignment_info() for node in part.get_nodes())
    left = sorted({node.op_type for node in nodes} & WEIGHT_INPUTS.keys() - IN_QDQ)
    _log.warning(
        "%s: onnxruntime cannot make its int8 weights uint8, so its QDQ products are computed in float32: in integers "
        "they would saturate on this processor%s",
        "a model" if isinstance(model, bytes) else model,
        f", as those of {', '.join(left)} may; give each node a weight and a zero point of its own" if left else "",
    )
    return session


def _open(model: Path | str | bytes, options: "SessionOptions") -> "InferenceSession":
    import onnxruntime

    given = str(model) if isinstance(model, Path) else model
    elsewhere = {} if isinstance(given, bytes) else _data_elsewhere(Path(given))
    if elsewhere:
        buffers = list(elsewhere.values())
        options.add_external_initializers_from_files_in_memory(list(elsewhere), buffers, list(map(len, buffers)))
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _data_elsewhere(model: Path) -> "dict[str, mmap]":
    """Files beside a model, mapped, that are links to another folder than the model itself is a link to.

    As in the hub's cache where repositories share large files; onnxruntime reads data in the folder of the model only.
    Which links may be followed is decided by whoever named the model (:mod:`edgepress.disk.hub_layout`).
    """
    if not model.is_symlink():
        return {}
    import mmap

    home, found = model.resolve().parent, {}
    for path in model.parent.iterdir():
        if path.is_symlink() and path.suffix not in _NO_DATA and path.is_file() and path.resolve().parent != home:
            with path.open("rb") as file:
                if path.stat().st_size:
                    found[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return found


@cache
def saturates() -> bool:
    """Whether a plain session on this processor adds products of uint8 by int8 up in 16 bits.

    Asked of onnxruntime itself, by 255 · 127 + 255 · 127: what the processor can do decides, whatever the system says
    of it, and an emulated one is asked the same way. A third of a millisecond, once a process.
    """
    if platform.machine().lower() not in _X86:
        return False
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_two_products(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.full((1, 2), 255, np.uint8), "w": np.full((2, 1), 127, np.int8)}
    return bool(session.run(["y"], feed)[0][0, 0] != 2 * 255 * 127)


def _two_products() -> bytes:
    """The ONNX model x (1, 2) ─► MatMulInteger ◄─ w (2, 1), on the wire: a device has no onnx to write it with."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def value(number: int, name: bytes, kind: int, rows: int, columns: int) -> bytes:
        shape = b"".join(field(1, bytes([1 << 3, size])) for size in (rows, columns))
        return field(number, field(1, name) + field(2, field(1, bytes([1 << 3, kind]) + field(2, shape))))

    node = field(1, field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"MatMulInteger"))
    values = value(11, b"x", _UINT8, 1, 2) + value(11, b"w", _INT8, 2, 1) + value(12, b"y", _INT32, 1, 1)
    graph = field(7, node + field(2, b"products") + values)
    return bytes([1 << 3, 10]) + graph + field(8, bytes([2 << 3, 10]))  # IR version 10, opset 10
