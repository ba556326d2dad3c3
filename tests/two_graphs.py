"""A bundle of one graph made one of two: the same weights in float16, for processors that compute in it and for others.

Written with onnx alone, so that the runtime is tried on what no exporter of ours made.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from edgepress.bundle.graphs import GraphEntry
from edgepress.bundle.manifest import MANIFEST_NAME, describe_files, read_manifest

FLOAT32_FILE, FLOAT16_FILE, DATA_FILE = "model.onnx", "model_fp16.onnx", "model.onnx.data"


def make_two_graphs(bundle: Path) -> Path:
    """Rewrite ``bundle``, which has one graph, in float32: its constants in float16, which one reads and one casts."""
    manifest = read_manifest(bundle)
    single, half = onnx.load(bundle / FLOAT32_FILE, load_external_data=False), onnx.ModelProto()
    casts = _store_in_float16(bundle, single.graph)
    half.CopyFrom(single)
    _compute_in_float16(half.graph)
    nodes = [*casts, *single.graph.node]
    del single.graph.node[:]
    single.graph.node.extend(nodes)
    for tensor in single.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.name += ".half"
    (bundle / FLOAT32_FILE).write_bytes(single.SerializeToString())
    (bundle / FLOAT16_FILE).write_bytes(half.SerializeToString())
    graphs = (
        GraphEntry(FLOAT16_FILE, ("fp16",), tuple(replace(state, type="float16") for state in manifest.states)),
        GraphEntry(FLOAT32_FILE, (), manifest.states),
    )
    sealed = replace(manifest, graphs=graphs, files=describe_files(bundle))
    (bundle / MANIFEST_NAME).write_text(sealed.serialize(), encoding="utf-8")
    return bundle


def seal(bundle: Path, **changes: object) -> None:
    """Write the manifest anew, with ``changes``, for the files as they are."""
    manifest = replace(read_manifest(bundle), files=describe_files(bundle), **changes)  # type: ignore[arg-type]
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")


def entries(bundle: Path) -> list[dict[str, object]]:
    """The manifest's list of graphs, as it is in the file."""
    found: list[dict[str, object]] = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))["graphs"]
    return found


def _store_in_float16(bundle: Path, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Append each float32 constant to the data file in float16; return the Casts that give it back its type."""
    casts = []
    with (bundle / DATA_FILE).open("ab") as data:
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.FLOAT:
                continue
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(bundle))
            stored = numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            if stored.nbytes <= 1024:
                tensor.CopyFrom(numpy_helper.from_array(stored, tensor.name))
                continue
            data.write(bytes(-data.tell() % 4096))
            place = {"location": DATA_FILE, "offset": str(data.tell()), "length": str(stored.nbytes)}
            data.write(stored.tobytes())
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.FLOAT16, dims=stored.shape))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)
    return casts


def _compute_in_float16(graph: onnx.GraphProto) -> None:
    """Every float32 value but the logits becomes float16; these are cast at the end."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name != "logits":
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        if "logits" in node.output:
            node.output[list(node.output).index("logits")] = "logits.half"
    graph.node.append(helper.make_node("Cast", ["logits.half"], ["logits"], to=TensorProto.FLOAT))
