"""A file in ORT format with one order of its parts, so that the same model gives the same bytes.

onnxruntime writes a FlatBuffer (flatbuffers.dev/internals) from its end to its front. What it writes last, and so lies
in front, is the root table and the ``KernelTypeStrResolver`` (onnxruntime's schema ort.fbs), a hash map in an order
that differs from call to call. The front is written anew, sorted, and the rest follows as it is: tables refer forwards
only, by relative offsets.
"""

import struct
from pathlib import Path
from typing import Any

IDENTIFIER = b"ORTM"
_MODEL_SLOT, _RESOLVER_SLOT = 1, 3  # fields of table InferenceSession
_ALIGNMENT = 8  # the largest that the schema's scalars need

Resolver = list[tuple[str, list[tuple[str, list[tuple[int, int]]]]]]


def sort_kernel_types(path: Path) -> None:
    """Rewrite the file at ``path`` with the operators of its resolver in the order of their names."""
    data = path.read_bytes()
    root = struct.unpack_from("<I", data)[0]
    field = _field(data, root, _MODEL_SLOT)
    model = field + struct.unpack_from("<I", data, field)[0]
    rest = min(model, model - struct.unpack_from("<i", data, model)[0])  # a table's vtable may lie before it
    front = _front(_version(data), _read_resolver(data))
    start = len(front) + (rest - len(front)) % _ALIGNMENT
    slot = _field(front, struct.unpack_from("<I", front)[0], _MODEL_SLOT)
    struct.pack_into("<I", front, slot, start + model - rest - slot)
    path.write_bytes(bytes(front).ljust(start, b"\0") + data[rest:])


def _field(data: bytes | bytearray, table: int, slot: int) -> int:
    """Where field ``slot`` of the table at ``table`` lies."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    return int(table + struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0])


def _session(data: bytes) -> Any:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import InferenceSession

    return InferenceSession.InferenceSession.GetRootAs(data, 0)


def _version(data: bytes) -> str:
    return str(_session(data).OrtVersion().decode())


def _read_resolver(data: bytes) -> Resolver:
    resolver = _session(data).KernelTypeStrResolver()
    found: Resolver = []
    for i in range(resolver.OpKernelTypeStrArgsLength()):
        entry = resolver.OpKernelTypeStrArgs(i)
        names = []
        for j in range(entry.KernelTypeStrArgsLength()):
            named = entry.KernelTypeStrArgs(j)
            arguments = [(named.Args(k).ArgType(), named.Args(k).Index()) for k in range(named.ArgsLength())]
            names.append((named.KernelTypeStr().decode(), arguments))
        found.append((entry.OpId().decode(), sorted(names)))
    return sorted(found)


def _front(version: str, resolver: Resolver) -> bytearray:
    """Root table and resolver; the root's ``model`` is a placeholder of the offset that belongs there."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def vector(items: list[int]) -> int:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return int(builder.EndVector())

    def table(fields: dict[int, int]) -> int:
        builder.StartObject(max(fields) + 1)
        for slot, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return int(builder.EndObject())

    def argument(kind: int, index: int) -> int:
        builder.StartObject(2)
        builder.PrependUint32Slot(1, index, 0)
        builder.PrependInt8Slot(0, kind, 0)
        return int(builder.EndObject())

    operators = []
    for operator, names in resolver:
        entries = [
            table({0: builder.CreateString(name), 1: vector([argument(*one) for one in arguments])})
            for name, arguments in names
        ]
        operators.append(table({0: builder.CreateString(operator), 1: vector(entries)}))
    types = table({0: vector(operators)})
    text = builder.CreateString(version)
    builder.StartObject(_RESOLVER_SLOT + 1)
    builder.PrependUOffsetTRelativeSlot(_RESOLVER_SLOT, types, 0)
    builder.PrependUint32Slot(_MODEL_SLOT, 1, 0)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    return bytearray(builder.Output())
