"""onnxruntime-genai's model builder: its 4-bit ONNX model of a checkpoint, and the logits of every position."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.sessions import open_on_cpu, session_options
from peers.peer import Peer, parameters

ALGORITHMS = ("rtn", "k_quant", "k_quant_mixed")
_COMPUTED = ("cos_cache", "sin_cache")  # rotary tables: no weights


def block_size(checkpoint: Checkpoint) -> int:
    """32, or 16 where the builder cannot do 32.

    Its k_quant packs two zero points in a byte over all rows at once, and fails (onnxruntime 1.31.1,
    ``neural_compressor/weight_only.py``) where a row has an odd number of blocks.
    """
    columns = (checkpoint.config["hidden_size"], checkpoint.config["intermediate_size"])
    return 16 if any(-(-count // 32) % 2 for count in columns) else 32


def build(checkpoint: Checkpoint, out: Path, algorithm: str) -> Path:
    """Run the builder with 4 bits for the CPU; ``out`` is replaced. Returns the path of the ONNX file.

    Its defaults otherwise: a tied embedding is quantized and shared with the head, an untied one stays in float32.
    """
    shutil.rmtree(out, ignore_errors=True)
    size = 32 if algorithm == "rtn" else block_size(checkpoint)
    options = [f"algo_config={algorithm}", f"block_size={size}", "accuracy_level=4"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint.directory)]
    command += ["-o", str(out), "-p", "int4", "-e", "cpu", "-c", str(out.parent / "cache"), "--extra_options", *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout.decode(errors='replace')[-2000:]}")
    return out / "model.onnx"


def open_peer(path: Path, checkpoint: Checkpoint) -> Peer:
    """Open the builder's ONNX file of the checkpoint's model."""
    model = onnx.load(path)
    graph = model.graph
    config = json.loads((path.parent / "genai_config.json").read_text())["model"]["decoder"]
    if config["head_size"] % 16:
        path = path.with_name("rotary_outside.onnx")
        onnx.save(rotary_outside(model, config), path)
    stored = sum(len(onnx.numpy_helper.to_array(i).tobytes()) for i in graph.initializer if i.name not in _COMPUTED)
    return Peer(Logits(path, config["head_size"]), 8 * stored / parameters(checkpoint), _matrices(graph))


def rotary_outside(model: onnx.ModelProto, config: dict[str, int]) -> onnx.ModelProto:
    """Take rotary embedding out of attention, as a node of its own, in a copy of the builder's model.

    onnxruntime rotates inside GroupQueryAttention only where heads are a multiple of 16 wide; the builder's model of a
    checkpoint with narrower heads does not run as it is.

        qkv ─ Split ─┬─ RotaryEmbedding ─┬─ GroupQueryAttention (do_rotary = 0)
                     ├─ RotaryEmbedding ─┤
                     └───────────────────┘
    """
    queries = config["num_attention_heads"] * config["head_size"]
    keys = config["num_key_value_heads"] * config["head_size"]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if node.op_type == "GroupQueryAttention":
            packed, parts = node.input[0], [f"{node.name}/{part}" for part in ("q", "k", "v")]
            rotated = [f"{name}/rotated" for name in parts[:2]]
            nodes.append(onnx.helper.make_node("Split", [packed, "qkv_sizes"], parts, axis=-1))
            for name, result in zip(parts[:2], rotated, strict=True):
                inputs = [name, "position_ids", "cos_cache", "sin_cache"]
                nodes.append(onnx.helper.make_node("RotaryEmbedding", inputs, [result], domain="com.microsoft"))
            node.input[:] = [*rotated, parts[2], *node.input[3:7]]
            next(attribute for attribute in node.attribute if attribute.name == "do_rotary").i = 0
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([queries, keys, keys]), "qkv_sizes"))
    graph.input.append(onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, [1, "length"]))
    return copy


def _matrices(graph: onnx.GraphProto) -> Counter[str]:
    """How the weight matrices are stored; one that two nodes read is counted once."""
    shapes = {initializer.name: initializer.dims for initializer in graph.initializer}
    found: dict[str, str] = {}  # by the initializer with the scales, which is shared where the codes are
    for node in graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            symmetric = len(node.input) < 4 or not node.input[3]
            kind = f"{attributes['bits']}-bit {'symmetric' if symmetric else 'asymmetric'}"
            found[node.input[2]] = f"{kind} block {attributes['block_size']}"
        elif node.op_type == "GatherBlockQuantized":
            found.setdefault(node.input[2], f"{attributes['bits']}-bit embedding")
        elif node.op_type in ("Gather", "MatMul"):
            found |= {name: "float32" for name in node.input if len(shapes.get(name, ())) == 2}
    return Counter(found.values())


class Logits:
    """The ONNX model in onnxruntime on the CPU, with an empty cache at each call."""

    def __init__(self, path: Path, head_dim: int, threads: int = 1) -> None:
        self._session = open_on_cpu(path, session_options(threads))
        inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._with_positions = "position_ids" in inputs
        self._past = {
            name: np.zeros((1, shape[1], 0, head_dim), np.float32)
            for name, shape in inputs.items()
            if name.startswith("past_key_values.")
        }

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,); row i predicts token i + 1."""
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones((1, tokens.size), np.int64), **self._past}
        if self._with_positions:
            feeds["position_ids"] = np.arange(tokens.size)[None]
        logits: NDArray[np.float32] = self._session.run(["logits"], feeds)[0][0]
        return logits
