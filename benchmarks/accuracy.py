"""What does each way to store a model cost in accuracy, at how many bits a weight, here and in other tools?

Held-out text, bits per byte, KL and top-1 agreement against the checkpoint's own model in float32, windows of 256
tokens, stride 128. stories260k and tiny1m are scored on the TinyStories documents that their figures are known for and
calibrated on 1,000 other stories, the demo model on the last tenth of tinyshakespeare and calibrated on the rest, which
it was trained on. onnxruntime-genai's builder and llama.cpp store the same checkpoints and are scored by the same code
on the same tokens. ``bits a weight`` counts what is stored for quantized tensors and everything kept in
float, padding included, over the checkpoint's parameters, tied ones once.

    python benchmarks/accuracy.py [--data ../shared/data]                    # presets, peers and chosen recipes
    python benchmarks/accuracy.py --grid [--models demo] [--methods gptq]    # every method × scheme; long
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accuracy_picture import draw
from accuracy_recipes import ROUND_TO_NEAREST, Asked, chosen, grid
from common import ROOT, WORK, save, table
from numpy.typing import NDArray
from peers import Peer, parameters

from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.checkpoint import Checkpoint, resolve_model
from edgepress.exporter.recipe import preset_names
from edgepress.exporter.reference import Reference
from edgepress.manifest import Manifest
from edgepress.runtime import Evaluation, LogitsSource, evaluate, read_documents
from edgepress.runtime.evaluate import Corpus, evaluate_logits, read_corpus

HELD_OUT = 0.1  # of tinyshakespeare, from its end
STORIES = 200  # documents of each TinyStories file
PARAGRAPHS = {"stories260k": ("newline", "\n"), "tiny1m": ("blank", "\n\n")}  # as each model was trained
MODELS = (*PARAGRAPHS, "demo")
CONTEXT, STRIDE = 256, 128
SAME = 1e-3  # logits of a conversion in float32: the largest difference from transformers'
PICTURE = ROOT / "docs" / "accuracy.svg"

Sample = dict[str, Any]


class Remembered:
    """A reference that computes each window once, however many models are held against it."""

    def __init__(self, source: LogitsSource) -> None:
        self._source = source
        self._found: dict[bytes, NDArray[np.float32]] = {}

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,)."""
        key = tokens.tobytes()
        if key not in self._found:
            self._found[key] = self._source.logits(tokens)
        return self._found[key]


@dataclass(frozen=True)
class Subject:
    """A model, the text that it is scored on and another that it is calibrated on."""

    name: str
    model: str
    texts: list[str]
    calibration: Path
    checkpoint: Checkpoint
    reference: Remembered


def make_subject(name: str, data: Path, share: float) -> Subject:
    """Read a model's texts; ``share`` of the held-out one is scored. Calibration text is written where exports run."""
    stories, shakespeare = data / "text" / "tinystories", data / "text" / "tinyshakespeare" / "input.txt"
    if name == "demo":
        text = shakespeare.read_text(encoding="utf-8")
        cut = int(len(text) * (1 - HELD_OUT))
        texts, calibration, suffix = [text[cut : cut + math.ceil(share * (len(text) - cut))]], text[:cut], ".txt"
    else:
        kind, paragraph = PARAGRAPHS[name]
        held_out = read_documents(stories / f"stories_heldout_{kind}.jsonl")
        texts, suffix = held_out[: math.ceil(share * len(held_out))], ".jsonl"
        training = json.loads((stories / "tinystories_1000.json").read_text(encoding="utf-8"))
        calibration = "\n".join(json.dumps({"text": story.replace("\n\n", paragraph)}) for story in training)
    path = WORK / f"calibration-{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(calibration, encoding="utf-8")
    model = "demo" if name == "demo" else str(data / "models" / name)
    directory = resolve_model(model)
    return Subject(name, model, texts, path, Checkpoint.open(directory), Remembered(Reference(directory)))


def bits_per_weight(bundle: Path, manifest: Manifest, checkpoint: Checkpoint) -> float:
    """Stored bits over the checkpoint's parameters; rotations that the graph multiplies by are stored too."""
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    rotations = sum(4 * math.prod(i.dims) for i in graph.initializer if i.name.startswith("rotation."))
    stored = sum(int(str(tensor["bytes_after"])) for tensor in manifest.tensors)
    return 8 * (stored + rotations) / parameters(checkpoint)


def sample(subject: Subject, tool: str, name: str, result: Evaluation, *, bits: float, note: str = "") -> Sample:
    """Return one raw sample as a JSON line's content."""
    named = {"model": subject.name, "tool": tool, "name": name, "bits_per_weight": bits, "note": note}
    return {**named, **asdict(result)}


def ours(subject: Subject, name: str, recipe: str | Path) -> Sample:
    """Export with a preset or recipe file, and score the bundle."""
    out = WORK / f"accuracy-{subject.name}"
    texts = [subject.calibration]
    manifest = export(subject.model, out=out, recipe=recipe, force=True, calibration=texts, threads=1)
    result = evaluate(
        out, subject.texts, context=CONTEXT, stride=STRIDE, reference=subject.reference, threads=1, prepared=False
    )
    bits = bits_per_weight(out, manifest, subject.checkpoint)
    return sample(subject, "edgepress", name, result, bits=bits)


def asked(subject: Subject, recipe: Asked) -> Sample:
    """Export and score a recipe; what edgepress refuses is kept with its reason."""
    try:
        return ours(subject, recipe.name, recipe.write(WORK / f"recipes-{subject.name}")) | asdict(recipe)
    except InputError as error:
        return {"model": subject.name, "tool": "edgepress", "name": recipe.name, "refused": str(error)}


def theirs(subject: Subject, corpus: Corpus) -> Iterator[Sample]:
    """Store and score the checkpoint with each peer."""
    from peers import genai_builder, llama_cpp

    def score(tool: str, name: str, peer: Peer) -> Sample:
        result = evaluate_logits(peer.source, corpus, context=CONTEXT, stride=STRIDE, reference=subject.reference)
        return sample(subject, tool, name, result, bits=peer.bits_per_weight, note=peer.note)

    exact = WORK / f"accuracy-{subject.name}.gguf"
    exact.unlink(missing_ok=True)
    llama_cpp.write_gguf(subject.checkpoint, exact)
    window = corpus.documents[0][:CONTEXT]
    logits = llama_cpp.open_peer(exact, subject.checkpoint).source.logits(window)
    difference = float(np.abs(logits - subject.reference.logits(window)).max())
    if difference > SAME:
        sys.exit(f"{exact}: logits differ from transformers' by {difference:.2g}; the conversion is wrong")
    for ftype in llama_cpp.FTYPES:
        path = llama_cpp.quantize(exact, exact.with_suffix(f".{ftype}.gguf"), ftype)
        yield score("llama.cpp", ftype, llama_cpp.open_peer(path, subject.checkpoint))
    for algorithm in genai_builder.ALGORITHMS:
        path = genai_builder.build(subject.checkpoint, WORK / f"accuracy-genai-{subject.name}", algorithm)
        yield score("onnxruntime-genai", algorithm, genai_builder.open_peer(path, subject.checkpoint))


def measure(subject: Subject, recipes: Sequence[Asked], *, with_peers: bool) -> Iterator[Sample]:
    """Yield the samples of one model: presets, peers, then the recipes."""
    if with_peers:
        for preset in sorted(preset_names(), key=lambda name: name != "fp32"):
            yield ours(subject, preset, preset)
            if preset == "fp32":
                corpus = read_corpus(WORK / f"accuracy-{subject.name}", subject.texts)
        yield from theirs(subject, corpus)
    for recipe in recipes:
        yield asked(subject, recipe)


@dataclass(frozen=True)
class Run:
    """What a process of its own measures."""

    name: str
    data: Path
    share: float
    recipes: tuple[Asked, ...]
    with_peers: bool

    def __call__(self) -> list[Sample]:
        """Measure one model, printing each figure as it comes."""
        torch.set_num_threads(1)  # on models this small a second thread costs more than it brings
        found = []
        for one in measure(make_subject(self.name, self.data, self.share), self.recipes, with_peers=self.with_peers):
            found.append(one)
            print(" | ".join(row(one)), flush=True)
        return found


def nats_lost(found: Sample) -> float:
    """Loss over float32 in nats a token."""
    return float(math.log(found["perplexity"] / found["reference_perplexity"]))


def row(found: Sample) -> tuple[str, ...]:
    """Return one table row."""
    if "refused" in found:
        return (found["model"], found["tool"], found["name"], *["–"] * 6, found["refused"])
    return (
        found["model"],
        found["tool"],
        found["name"],
        f"{found['bits_per_weight']:.2f}",
        f"{found['bits_per_byte']:.4f}",
        f"{round(found['bits_per_byte'] / found['reference_bits_per_byte'] - 1, 4) + 0.0:+.2%}",
        f"{nats_lost(found):+.4f}",
        f"{found['kl']:.4f}",
        f"{found['top1_agreement']:.1%}",
        found["note"],
    )


HEADER = ("model", "tool", "recipe", "bits a weight", "bits per byte", "against float32", "nats a token lost")
HEADER += ("KL (nats)", "same top-1", "stored as")

GOAL = ("int4-fast", ROUND_TO_NEAREST.name, "Q4_K_M", "Q4_0", "rtn", "k_quant", "k_quant_mixed")


def goal(samples: list[Sample]) -> str:
    """Whether int4-fast loses at most half of block-32 round-to-nearest, and less than Q4_K_M at fewer bits."""
    rows, answers = [], []
    for model in dict.fromkeys(found["model"] for found in samples):
        named = {found["name"]: found for found in samples if found["model"] == model and "kl" in found}
        for name in GOAL:
            found = named[name]
            lost = found["bits_per_byte"] - found["reference_bits_per_byte"]
            figures = (
                f"{found['bits_per_weight']:.2f}",
                f"{nats_lost(found):+.4f}",
                f"{lost:+.4f}",
                f"{found['kl']:.4f}",
            )
            rows.append((model, name, *figures))
        fast, nearest, k_quant = (named[name] for name in GOAL[:3])
        for measure_name, loss in (("nats a token", nats_lost), ("KL", lambda found: float(found["kl"]))):
            answers.append((model, measure_name, *answer(fast, nearest, k_quant, loss)))
    header = ("model", "recipe", "bits a weight", "nats a token lost", "bits per byte lost", "KL (nats)")
    asked_for = ("at most half of block-32 rtn's loss", "less loss than Q4_K_M", "fewer bits than both")
    return f"{table(header, rows)}\n\nint4-fast:\n\n{table(('model', 'loss in', *asked_for), answers)}"


def answer(fast: Sample, nearest: Sample, k_quant: Sample, loss: Callable[[Sample], float]) -> tuple[str, ...]:
    """Yes or no, with the ratio that says it."""
    bits = [found["bits_per_weight"] for found in (fast, nearest, k_quant)]
    holds = loss(fast) <= loss(nearest) / 2, loss(fast) < loss(k_quant), bits[0] < min(bits[1:])
    ratios = f" ({loss(fast) / loss(nearest):.2f})", f" ({loss(fast) / loss(k_quant):.2f})", ""
    return tuple(("yes" if yes else "no") + ratio for yes, ratio in zip(holds, ratios, strict=True))


def main() -> None:
    """Export, score, keep the samples, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared/data"))
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--grid", action="store_true", help="every method on disk in every scheme; no peers")
    parser.add_argument("--methods", nargs="+", help="of the grid, only recipes that use one of these")
    parser.add_argument(
        "--documents", type=int, help=f"score so many of {STORIES} stories, and as much of the demo's text; grid: 40"
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} is absent; name the folder with models/ and text/ by --data")
    recipes = tuple(grid() if arguments.grid else chosen())
    if arguments.methods:
        recipes = tuple(recipe for recipe in recipes if recipe.methods & set(arguments.methods))
    share = min(1.0, (arguments.documents or (40 if arguments.grid else STORIES)) / STORIES)
    result = "accuracy_grid" if arguments.grid else "accuracy"
    samples: list[Sample] = []
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as processes:
        runs = [Run(name, arguments.data, share, recipes, not arguments.grid) for name in arguments.models]
        for found in processes.map(Run.__call__, runs):
            samples += found
            save(result, samples)  # each time, so that a long run that fails has not been for nothing
    print(f"raw samples: {save(result, samples)}")
    print(table(HEADER, map(row, samples)))
    if not arguments.grid:
        print(f"\n{goal(samples)}")
        draw([found for found in samples if "kl" in found], PICTURE)
        print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
