"""What do caches of windows save: bytes of states, and instructions of a token on ARM?

The shape of Gemma 3 270M with random weights: of its 18 layers the first six, five of which see a window of 512 tokens
and one all of the text, and a small vocabulary, as its head is not in question. Exported with caches of windows and
with whole ones, and counted on an emulated processor (``edgepress emulator setup --system`` first), by one thread. A
window is moved up once in 17 tokens, so that such a token is counted too: ``CONTEXTS`` are, in turn, texts after which
it is not and after which it is.

    python benchmarks/windows.py [--cpu cortex-a76] [--prefill 32] [--report]
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, WORK, save, table
from export_cost import TOKENIZER
from make_checkpoint import write_shard

from edgepress.bundle.states import WINDOW_SLACK, state_bytes
from edgepress.exporter import export
from edgepress.runtime.config import read_config
from edgepress.runtime.measures.counting import count_bundles
from edgepress.runtime.sessions.windows import resident
from edgepress.targets.emulator import find_system, setup

NAME, TARGET = "windows", "arm64-cpu"
LAYERS, OF_LAYERS, WINDOW = 6, 18, 512
HIDDEN, MLP, HEADS, HEAD_DIM, VOCABULARY = 640, 2048, 4, 256, 4096
ROWS = WINDOW + WINDOW_SLACK
STEP = WINDOW_SLACK + 1  # tokens that are pushed out together
CONTEXTS = {1024: 1038, 4096: 4098}
CACHES = {"whole": "false", "windows": "true"}
SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "self_attn.q_norm": (HEAD_DIM,),
    "self_attn.k_norm": (HEAD_DIM,),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
    **dict.fromkeys(
        [
            *("input_layernorm", "post_attention_layernorm"),
            *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ],
        (HIDDEN,),
    ),
}
"""Of a layer's tensors."""


def checkpoint(folder: Path) -> Path:
    """Write the checkpoint, unless it is there."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "query_pre_attn_scalar": HEAD_DIM,
        "sliding_window": WINDOW,
        "layer_types": [*["sliding_attention"] * (LAYERS - 1), "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    dims = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    dims |= {f"model.layers.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    write_shard(folder / "model.safetensors", dims, np.random.Generator(np.random.SFC64(0)))
    for path in sorted(TOKENIZER.glob("*token*.json")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def bundles() -> dict[str, Path]:
    """A bundle with caches of windows, and one with whole ones."""
    found = {}
    for name, windows in CACHES.items():
        found[name] = WORK / "windows" / name
        if not found[name].exists():
            recipe = WORK / "windows" / f"{name}.toml"
            source = checkpoint(WORK / "windows" / "checkpoint")
            recipe.write_text(f"weights.bits = 4\nweights.block_size = 128\ncache.windows = {windows}\n")
            export(source, out=found[name], recipe=recipe, target=TARGET)
    return found


def samples(cpu: str, prefill: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Count both in one boot."""
    made, contexts = bundles(), [*CONTEXTS, *CONTEXTS.values()] if not prefill else list(CONTEXTS)[:1]
    costs = count_bundles(
        setup(), find_system(), list(made.values()), [cpu], prefill=prefill, contexts=contexts, by_operator=True
    )
    for name, cost in zip(made, costs, strict=True):
        states = read_config(made[name], cost.graph).states
        for call in cost.calls:
            before, at = call.context, call.context + call.tokens
            yield {
                "cache": name,
                "cpu": cpu,
                "graph": cost.graph,
                "layers": LAYERS,
                "tokens": call.tokens,
                "context": call.context,
                "in_engine": call.in_onnxruntime,
                "operators": call.parts,
                "state_bytes": state_bytes(states, at),
                "state_bytes_loaded": call.state_bytes_loaded,
                "state_bytes_stored": call.state_bytes_stored,
                "moves": resident(at, WINDOW, ROWS) < resident(before, WINDOW, ROWS) + call.tokens,
                "versions": cost.versions,
            }


def kept() -> list[dict[str, Any]]:
    """The samples there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Bytes of states, and instructions of a token: of all nodes and of attention, moving up included."""
    rows = []
    for context, moving in CONTEXTS.items():
        for cache in CACHES:
            at = {one["context"]: one for one in found if one["cache"] == cache and one["tokens"] == 1}
            if not {context, moving} <= at.keys():
                continue
            ordinary, moved = at[context], at[moving]
            costs = [
                (value(moved) + (STEP - 1) * value(ordinary)) / STEP if cache == "windows" else value(ordinary)
                for value in (lambda one: one["in_engine"], lambda one: one["operators"]["GroupQueryAttention"])
            ]
            rows.append(
                [
                    f"{context:,}",
                    cache,
                    f"{OF_LAYERS / LAYERS * ordinary['state_bytes'] / 1e6:.2f}",
                    *(f"{cost / 1e6:.2f}" for cost in costs),
                ]
            )
    header = ["after", "caches", "MB of states, 18 layers", "million a token, 6 layers", "of them attention"]
    return table(header, rows)


def main() -> None:
    """Count, keep the raw counts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", default="cortex-a76")
    parser.add_argument("--prefill", type=int, nargs="*", default=[])
    parser.add_argument("--report", action="store_true", help="count nothing")
    arguments = parser.parse_args()
    if not arguments.report:
        new = list(samples(arguments.cpu, arguments.prefill))
        keys = {(one["cpu"], one["cache"], one["tokens"], one["context"]) for one in new}
        old = [one for one in kept() if (one["cpu"], one["cache"], one["tokens"], one["context"]) not in keys]
        save(NAME, [*old, *new])
    print(report(kept()))


if __name__ == "__main__":
    main()
