"""Which tokens may a cache lose? Bits a token where a quarter of the context is kept, by what chooses it.

Texts as long as each model's context, token by token; when the cache holds a quarter of that, an eighth of it goes, and
what stays moves to the positions of a shorter text. ``recent``: the oldest go. ``first``: the same, but the first 4
stay (Xiao et al. 2024, StreamingLLM). ``heavy``: of each head those go that had the least attention so far, added up
over all queries, of all but the last half (Zhang et al. 2023, H2O, algorithm 1); ``heavy first``: the same, and the
first 4 stay. ``looked at``: those that the last 32 queries looked at least (Li et al. 2024, SnapKV, section 4), and the
first 4 stay. Scores come from GroupQueryAttention's ``qk_output``, in the same graph, edited.

    python benchmarks/evictions.py [--data ../shared/data] [--models demo] [--texts 6]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from common import SIZES, TARGET, WORK, group, save, table
from numpy.typing import NDArray
from onnx import TensorProto, helper
from subjects import MODELS, Subject, add_data, make_subject

from edgepress.bundle.rotations import KeyRotation
from edgepress.exporter import export
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.measures.evaluate import log_softmax, read_corpus
from edgepress.runtime.sessions.moving import moved_back
from edgepress.sessions import open_on_cpu, session_options

Floats = NDArray[np.float32]
NAME = "evictions"
KEPT, SHARE, FIRST, QUERIES = 0.25, 0.125, 4, 32  # of the context; of what is kept; tokens; queries that SnapKV asks
POLICIES = {
    "all": "all, which is no eviction",
    "recent": "the last ones",
    "first": "the first 4 and the last ones",
    "heavy": "the last half, and what had most attention (H2O)",
    "heavy first": "the first 4, the last half, and what had most attention",
    "looked at": "the first 4, the last half, and what the last 32 queries look at (SnapKV)",
}


@dataclass
class Layer:
    """Keys and values (heads, tokens, width) of a layer, and how much attention each has had, (heads, tokens)."""

    rotation: KeyRotation
    keys: Floats
    values: Floats
    attention: Floats
    latest: list[Floats] = field(default_factory=list)  # of the last queries, each (heads, tokens then)

    def take(self, keys: Floats, values: Floats, scores: Floats) -> None:
        """After a token: ``scores`` (query heads, tokens) are shares of attention."""
        heads, tokens = keys.shape[:2]
        seen = scores.reshape(heads, -1, tokens).sum(1)
        self.keys, self.values = keys, values
        self.latest = [padded(one, tokens) for one in self.latest[1 - QUERIES :]] + [seen]
        self.attention = padded(self.attention, tokens) + seen

    def evict(self, policy: str, count: int) -> None:
        """Leave out ``count`` tokens of each head."""
        heads, tokens = self.keys.shape[:2]
        worth = np.arange(tokens, dtype=np.float32) * np.ones((heads, 1), np.float32)  # the oldest go first
        if policy.startswith("heavy") or policy == "looked at":
            worth = (sum(self.latest) if policy == "looked at" else self.attention).copy()
            worth[:, tokens - tokens // 2 :] = np.inf
        if policy not in ("recent", "heavy"):
            worth[:, :FIRST] = np.inf
        stay = np.sort(np.argsort(-worth, axis=1, kind="stable")[:, : tokens - count], axis=1)  # (heads, tokens left)
        places = stay - np.arange(tokens - count)
        self.keys = moved_back(np.take_along_axis(self.keys, stay[..., None], 1), self.rotation, places)
        self.values = np.take_along_axis(self.values, stay[..., None], 1)
        self.attention = np.take_along_axis(self.attention, stay, 1)
        self.latest = [np.take_along_axis(one, stay, 1) for one in self.latest]


def padded(scores: Floats, tokens: int) -> Floats:
    """Zeros for tokens that had no attention yet."""
    return np.pad(scores, ((0, 0), (0, tokens - scores.shape[1])))


class Graph:
    """A bundle's graph that gives the shares of attention, too."""

    def __init__(self, config: BundleConfig) -> None:
        self.config = config
        model = onnx.load(config.model, load_external_data=False)
        attentions = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
        for number, node in enumerate(attentions):
            node.attribute.append(helper.make_attribute("qk_output", 2))  # after the softmax
            node.output.append(f"scores.{number}")
            model.graph.output.append(helper.make_tensor_value_info(node.output[-1], TensorProto.FLOAT, None))
        path = config.bundle / "scores.onnx"
        onnx.save(model, path)
        self.session = open_on_cpu(path, session_options(threads=1))
        self.names = [output.name for output in self.session.get_outputs()]
        self.pairs = list(zip(config.states[::2], config.states[1::2], strict=True))  # keys and values of each layer

    def bits(self, text: NDArray[np.int64], policy: str, kept: int) -> list[float]:
        """Bits of each token of ``text`` behind the first ``kept``, with a cache of so many."""
        by_name = {name: rotation for rotation in self.config.rotations or () for name in rotation.states}
        layers = []
        for keys, _ in self.pairs:
            empty = np.zeros(keys.sizes(0)[1:], np.float32)
            layers.append(Layer(by_name[keys.name], empty, empty, np.zeros((empty.shape[0], 0), np.float32)))
        found = []
        for place, token in enumerate(text[:-1].tolist()):
            if policy != "all" and layers[0].keys.shape[1] == kept:
                for layer in layers:
                    layer.evict(policy, int(kept * SHARE))
            feeds: dict[str, Any] = {"input_ids": np.array([[token]], np.int64)}
            feeds["attention_mask"] = np.ones((1, layers[0].keys.shape[1] + 1), np.int64)
            for layer, (keys, values) in zip(layers, self.pairs, strict=True):
                feeds |= {keys.input: layer.keys[None], values.input: layer.values[None]}
            after = dict(zip(self.names, self.session.run(None, feeds), strict=True))
            for number, (layer, (keys, values)) in enumerate(zip(layers, self.pairs, strict=True)):
                layer.take(after[keys.output][0], after[values.output][0], after[f"scores.{number}"][0, :, 0])
            if place + 1 >= kept:
                found.append(-float(log_softmax(after["logits"][0, -1:])[0, text[place + 1]]) / np.log(2))
        return found


def measure(subject: Subject, folder: Path, texts: int) -> list[dict[str, Any]]:
    """Bits a token of each text by each policy."""
    out = folder / subject.name
    export(subject.model, out=out, recipe="fp32", target=TARGET)
    graph = Graph(read_config(out))
    context = graph.config.context_length
    stream = np.concatenate(read_corpus(out, subject.texts).documents)
    pieces = [stream[start : start + context] for start in range(0, len(stream) - context + 1, context)][:texts]
    found = []
    for policy in POLICIES:
        bits = [graph.bits(piece, policy, int(context * KEPT)) for piece in pieces]
        found.append(
            {
                "model": subject.name,
                "policy": policy,
                "context": context,
                "tokens": sum(map(len, bits)),
                "bits_a_token": [float(np.mean(one)) for one in bits],
            }
        )
    return found


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and policy."""
    rows = []
    for (model,), of_model in group(samples, "model").items():
        whole = np.mean(of_model[0]["bits_a_token"])
        for one in of_model:
            bits = np.mean(one["bits_a_token"])
            more = "–" if one["policy"] == "all" else f"{bits / whole - 1:+.2%}"
            kept = one["context"] if one["policy"] == "all" else int(one["context"] * KEPT)
            rows.append([SIZES[model], POLICIES[one["policy"]], f"{kept} of {one['context']}", f"{bits:.4f}", more])
    return table(["model", "what a cache keeps", "tokens", "bits a token", "more"], rows)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--texts", type=int, default=6)
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    samples = []
    with TemporaryDirectory(dir=WORK, prefix="evictions-") as name:
        for model in arguments.models:
            samples += measure(make_subject(model, arguments.data, 1.0), Path(name), arguments.texts)
            print(report(samples), flush=True)
    save(NAME, samples)


if __name__ == "__main__":
    main()
