"""llama.cpp: a Llama or Qwen2 checkpoint as GGUF in float32, its own quantizer, and the logits of every position.

Low-level calls of ``llama-cpp-python``, whose high-level class wants a tokenizer: here token ids go in as they are.
Needs the [bench] extra.
"""

import ctypes
from collections import Counter
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.checkpoint import Checkpoint
from peers.llama_cpp_text import begin
from peers.peer import Peer, parameters

FTYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
"""What ``llama-quantize`` calls them, and the number that stands for it."""

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


begin()

_PAIRS = {"llama": True, "qwen2": False}
"""By model type, whether llama.cpp rotates dimensions 2i and 2i + 1 of a head together; transformers never does."""


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows (heads · head_dim, columns) of a q or k projection for llama.cpp's rotary embedding.

    transformers rotates dimension i of a head together with i + head_dim / 2, llama.cpp 2i together with 2i + 1.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)  # (heads, half, pair, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def write_gguf(checkpoint: Checkpoint, path: Path) -> Path:
    """Write a Llama or Qwen2 checkpoint as a GGUF file of float32 tensors without a tokenizer.

    Only what the benchmark's checkpoints have: no rope scaling, biases of Qwen2 alone (ValueError otherwise).
    """
    config = checkpoint.config
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config["rope_theta"]}
    kind = config["model_type"]
    if kind not in _PAIRS or rope["rope_type"] != "default" or config.get("attention_bias"):
        raise ValueError(f"{checkpoint.directory} is not a plain Llama or Qwen2 checkpoint")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for name, stored, rotated in _names(checkpoint):
        weight = checkpoint.rows(stored, 0, checkpoint.tensors[stored].shape[0])
        writer.add_tensor(name, interleaved(weight, {"q": heads, "k": kv_heads}[rotated]) if rotated else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _names(checkpoint: Checkpoint) -> list[tuple[str, str, str]]:
    """Each tensor's name in GGUF, its name in the checkpoint, and "q" or "k" where it is rotated."""
    names = [("token_embd.weight", "model.embed_tokens.weight", "")]
    for layer in range(checkpoint.config["num_hidden_layers"]):
        for ours, theirs in _LAYER.items():
            rotated = {"attn_q": "q", "attn_k": "k"}.get(ours, "") if _PAIRS[checkpoint.config["model_type"]] else ""
            names.append((f"blk.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight", rotated))
            if f"model.layers.{layer}.{theirs}.bias" in checkpoint.tensors:
                names.append((f"blk.{layer}.{ours}.bias", f"model.layers.{layer}.{theirs}.bias", ""))
    names.append(("output_norm.weight", "model.norm.weight", ""))
    if not checkpoint.config["tie_word_embeddings"]:
        names.append(("output.weight", "lm_head.weight", ""))
    return names


def quantize(source: Path, out: Path, ftype: str, *, threads: int = 1) -> Path:
    """Quantize a GGUF file as ``llama-quantize SOURCE OUT FTYPE`` does; with ``--pure`` where that is in ``ftype``."""
    settings = llama_cpp.llama_model_quantize_default_params()
    name, _, pure = ftype.partition(" ")
    settings.ftype, settings.pure = FTYPES[name], pure == "pure"
    settings.nthread = threads
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(settings))
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {ftype}: status {status}")
    return out


def open_peer(path: Path, checkpoint: Checkpoint, context: int = 256) -> Peer:
    """Open a GGUF file of the checkpoint's model."""
    tensors = gguf.GGUFReader(path).tensors
    stored = sum(int(tensor.n_bytes) for tensor in tensors)
    matrices = Counter(tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1)
    return Peer(Logits(path, context), 8 * stored / parameters(checkpoint), matrices)


class Logits:
    """A model in llama.cpp on the CPU. Keys and values are kept in float32, so that only weights are measured."""

    def __init__(self, path: Path, context: int, threads: int = 1) -> None:
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.use_extra_bufts = False  # its AMX products fault in virtual machines that show AMX and do not allow it
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {path}")
        how = llama_cpp.llama_context_default_params()
        how.n_ctx = how.n_batch = how.n_ubatch = context
        how.n_threads = how.n_threads_batch = threads
        how.type_k = how.type_v = llama_cpp.GGML_TYPE_F32
        how.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, how)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(context, 0, 1)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,); row i predicts token i + 1."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        batch = self._batch
        batch.n_tokens = tokens.size
        for position, token in enumerate(tokens.tolist()):
            batch.token[position] = token
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = 1
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode of {tokens.size} tokens failed: status {status}")
        found = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (tokens.size, self._vocab)).copy()

    def close(self) -> None:
        """Give back what llama.cpp allocated."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)
