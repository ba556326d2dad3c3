"""Make a random checkpoint of a real model's shape, for measurements: seeded, in bounded memory.

Weights are normal with standard deviation 0.02 in bf16, norm gains 1 ± 0.1. What a model like this says is noise; what
it costs to export and to run is not.

    python benchmarks/make_checkpoint.py qwen2.5-0.5b /tmp/ck --tokenizer DIRECTORY
"""

import argparse
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

CHUNK = 1 << 20  # elements generated at a time
SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Shape:
    """The dimensions of one model."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    context: int
    rope_theta: float
    epsilon: float

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden // self.heads


SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 151936, True, 32768, 1e6, 1e-6),
    "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 49152, True, 8192, 1e5, 1e-5),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 8960, 28, 12, 2, 151936, True, 32768, 1e6, 1e-6),
    "qwen2.5-3b": Shape("qwen2", 2048, 11008, 36, 16, 2, 151936, True, 32768, 1e6, 1e-6),
    "qwen2.5-7b": Shape("qwen2", 3584, 18944, 28, 28, 4, 152064, False, 32768, 1e6, 1e-6),
}


def config(shape: Shape) -> dict[str, object]:
    """Return the config.json of a model of this shape."""
    return {
        "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[shape.model_type]],
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "model_type": shape.model_type,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab,
    }


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (shape.hidden,)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"{at}.self_attn.{name}.weight", (rows, shape.hidden)
            if shape.model_type == "qwen2":
                yield f"{at}.self_attn.{name}.bias", (rows,)
        yield f"{at}.self_attn.o_proj.weight", (shape.hidden, queries)
        yield f"{at}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{at}.mlp.gate_proj.weight", (shape.intermediate, shape.hidden)
        yield f"{at}.mlp.up_proj.weight", (shape.intermediate, shape.hidden)
        yield f"{at}.mlp.down_proj.weight", (shape.hidden, shape.intermediate)
    yield "model.norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def shards(shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    """Cut the tensors into files of at most SHARD_BYTES."""
    found: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dims in tensors(shape):
        nbytes = 2 * int(np.prod(dims))
        if size + nbytes > SHARD_BYTES and found[-1]:
            found.append({})
            size = 0
        found[-1][name] = dims
        size += nbytes
    return found


def write_values(file: BinaryIO, name: str, count: int, random: np.random.Generator) -> None:
    """Write ``count`` random bf16 values that suit a tensor of this name."""
    mean, deviation = (1.0, 0.1) if "norm" in name else (0.0, 0.02)
    for start in range(0, count, CHUNK):
        values = random.standard_normal(min(CHUNK, count - start), np.float32)
        np.multiply(values, np.float32(deviation), out=values)
        np.add(values, np.float32(mean), out=values)
        words = values.view(np.uint32)
        np.add(words, np.uint32(0x8000), out=words)  # round to nearest bf16 (ties up)
        file.write(np.right_shift(words, np.uint32(16), out=words).astype("<u2").tobytes())


def write_shard(path: Path, dims: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    """Write one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in dims.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in dims.items():
            write_values(file, name, int(np.prod(shape)), random)


def make(shape: Shape, directory: Path, seed: int = 0, tokenizer: Path | None = None) -> None:
    """Write the checkpoint; ``tokenizer`` is a directory whose tokenizer files are copied."""
    directory.mkdir(parents=True)
    random = np.random.Generator(np.random.SFC64(seed))
    files = shards(shape)
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{index:05}-of-{len(files):05}.safetensors" for index in range(1, len(files) + 1)]
        weight_map = {name: file for file, dims in zip(names, files, strict=True) for name in dims}
        total = sum(path_bytes for dims in files for path_bytes in (2 * int(np.prod(d)) for d in dims.values()))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    for name, dims in zip(names, files, strict=True):
        write_shard(directory / name, dims, random)
    (directory / "config.json").write_text(json.dumps(config(shape), indent=1) + "\n")
    if tokenizer is not None:
        for path in sorted(tokenizer.glob("*token*.json")):
            shutil.copyfile(path, directory / path.name)


def main() -> None:
    """Parse the command line and make one checkpoint."""
    parser = argparse.ArgumentParser(description="make a random checkpoint of a real model's shape")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="directory whose tokenizer files are copied")
    options = parser.parse_args()
    make(SHAPES[options.shape], options.directory, options.seed, options.tokenizer)


if __name__ == "__main__":
    main()
