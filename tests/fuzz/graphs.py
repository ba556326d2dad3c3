"""ONNX files made hostile: attributes, shapes, types, places of external data, versions, cycles, and flipped bytes."""

from random import Random

import onnx

from .mutations import mutate_bytes

_NUMBERS = (-1, 0, 1, 3, 7, 2**31 - 1, 2**31, 10**9, 2**62, -(2**63), 2**63 - 1)
_TEXTS = ("", "-1", "1e9", str(2**63), str(2**64), "9" * 5000, "x", "../../../../etc/passwd", "/etc/passwd", "\0", ".")


def mutate_graph(data: bytes, random: Random) -> tuple[bytes, str]:
    """The bytes of an ONNX file with something wrong, and what."""
    if random.random() < 0.25:
        return mutate_bytes(data, random)
    if random.random() < 0.08:
        return _with_graphs_inside(data, random)
    model = onnx.load_model_from_string(data)
    said = []
    for _ in range(random.choice((1, 1, 2))):
        said.append(random.choice(_CHANGES)(model, random))
    try:
        return model.SerializeToString(), "; ".join(said)
    except ValueError:  # larger than protobuf writes
        return data, "nothing"


def _attribute(model: onnx.ModelProto, random: Random) -> str:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return "nothing"
    node = random.choice(nodes)
    attribute = random.choice(node.attribute)
    attribute.i, attribute.f = random.choice(_NUMBERS), random.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38))
    if random.random() < 0.2:
        attribute.type = random.choice(list(onnx.AttributeProto.AttributeType.values()))
    if random.random() < 0.2:
        attribute.name = random.choice(("", "K", "N", "bits", "x" * 10_000))
    return f"{node.op_type}.{attribute.name[:20]} = {attribute.i}"


def _shape(model: onnx.ModelProto, random: Random) -> str:
    tensor = random.choice(model.graph.initializer)
    number = random.choice(_NUMBERS)
    if tensor.dims and random.random() < 0.7:
        tensor.dims[random.randrange(len(tensor.dims))] = number
    elif random.random() < 0.3:
        del tensor.dims[:]
    else:
        tensor.dims.extend([number] * random.choice((1, 2, 1000)))
    return f"dims of {tensor.name}: {list(tensor.dims)[:4]}"


def _type(model: onnx.ModelProto, random: Random) -> str:
    tensor = random.choice(model.graph.initializer)
    tensor.data_type = random.choice((0, 1, 2, 3, 7, 8, 9, 10, 16, 17, 21, 22, 23, 99, -1))
    return f"type of {tensor.name}: {tensor.data_type}"


def _place(model: onnx.ModelProto, random: Random) -> str:
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if not tensors:
        return "nothing"
    tensor = random.choice(tensors)
    entry = random.choice(tensor.external_data)
    entry.value = random.choice((*_TEXTS, str(random.choice(_NUMBERS)), "%1000000000d"))
    if random.random() < 0.2:
        del tensor.external_data[random.randrange(len(tensor.external_data))]
    if random.random() < 0.2:
        entry = tensor.external_data.add()
        entry.key, entry.value = random.choice(("prepacked_0", "checksum", "offset", "x")), random.choice(_TEXTS)
    return f"external data of {tensor.name}"


def _data(model: onnx.ModelProto, random: Random) -> str:
    tensor = random.choice(model.graph.initializer)
    tensor.raw_data = random.choice((b"", b"\xff" * 7, b"\0" * 1024, random.randbytes(64)))
    if random.random() < 0.5:
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return f"raw data of {tensor.name}"


def _interface(model: onnx.ModelProto, random: Random) -> str:
    value = random.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    what = random.choice(("name", "type", "dim", "rank", "none"))
    if what == "name":
        value.name = random.choice(("", "input_ids", "logits", "past_key_values.999999999999.key", "x" * 100_000))
    elif what == "type":
        kind.elem_type = random.choice((0, 2, 8, 10, 99))
    elif what == "rank":
        kind.shape.dim.add().dim_value = random.choice(_NUMBERS)
    elif what == "dim" and kind.shape.dim:
        random.choice(kind.shape.dim).dim_value = random.choice(_NUMBERS)
    else:
        value.ClearField("type")
    return f"{what} of {value.name[:30]}"


def _version(model: onnx.ModelProto, random: Random) -> str:
    if random.random() < 0.5:
        model.ir_version = random.choice((0, -1, 1, 14, 99, 2**63 - 1))
        return f"IR {model.ir_version}"
    opset = random.choice(model.opset_import)
    if random.random() < 0.3:
        opset.domain = random.choice(("", "ai.onnx", "x" * 1000, "com.microsoft"))
    opset.version = random.choice((0, -1, 1, 28, 99, 2**63 - 1))
    return f"opset {opset.domain[:20]} {opset.version}"


def _wires(model: onnx.ModelProto, random: Random) -> str:
    node, other = random.choice(model.graph.node), random.choice(model.graph.node)
    what = random.choice(("cycle", "nowhere", "no inputs", "twice", "gone", "op", "many"))
    if what == "cycle" and node.input:
        node.input[0] = node.output[0]
    elif what == "nowhere":
        node.input.append("nowhere")
    elif what == "no inputs":
        del node.input[:]
    elif what == "twice":
        model.graph.node.append(other)
    elif what == "gone":
        model.graph.node.remove(node)
    elif what == "op":
        node.op_type, node.domain = random.choice(("", "Loop", "If", "Scan", "MatMul", "x" * 10_000)), other.domain
    else:
        for _ in range(3000):
            model.graph.node.append(other)
    return f"wires: {what}"


def _with_graphs_inside(data: bytes, random: Random) -> tuple[bytes, str]:
    """Append a node whose attribute is a graph whose node … protobuf merges a field that is there twice."""
    levels = random.choice((1, 20, 40, 400, 4000))
    graph = b""
    for _ in range(levels):
        attribute = _field(1, b"body") + _field(6, graph)
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    return data + _field(7, graph), f"{levels} graphs inside each other"


def _field(number: int, value: bytes) -> bytes:
    """A field of protobuf's wire format that holds bytes."""
    size, length = bytearray(), len(value)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + value


def _metadata(model: onnx.ModelProto, random: Random) -> str:
    for _ in range(random.choice((1, 20_000))):
        model.metadata_props.add(key=random.choice(("edgepress.static", "x")), value=random.choice(_TEXTS))
    model.producer_name = random.choice(("", "\0", "x" * 100_000))
    return "metadata"


_CHANGES = (_attribute, _shape, _type, _place, _data, _interface, _version, _wires, _metadata)
