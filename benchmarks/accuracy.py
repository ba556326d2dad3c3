"""What does each way to store a model cost in accuracy, at how many bits a weight, here and in other tools?

Held-out text, bits per byte, KL and top-1 agreement against the checkpoint's own model in float32, windows of 256
tokens, stride 128. stories260k and tiny1m are scored on the TinyStories documents that their figures are known for and
calibrated on 1,000 other stories, the demo model on the last tenth of tinyshakespeare and calibrated on the rest, which
it was trained on. onnxruntime-genai's builder and llama.cpp store the same checkpoints and are scored by the same code
on the same tokens. ``bits a weight`` counts what is stored for quantized tensors and everything kept in
float, padding included, over the checkpoint's parameters, tied ones once.

    python benchmarks/accuracy.py [--data ../shared/data]                # presets, peers and chosen recipes
    python benchmarks/accuracy.py --grid [--models demo]                 # every method × bits × block, on less text
    python benchmarks/accuracy.py --sequences [--methods awq gptq]       # methods one after another; long

A run that is killed goes on where it stopped. One of some models, or methods, leaves the samples of others as they are.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from accuracy_picture import draw
from accuracy_recipes import Asked, chosen, grid, sequences
from accuracy_tables import Sample, report, row
from common import RESULTS, ROOT, WORK, host, save
from numpy.typing import NDArray
from peers import Peer, parameters
from spread import run

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
LESS = 20  # of them, where there are hundreds of recipes
PARAGRAPHS = {"stories260k": ("newline", "\n"), "tiny1m": ("blank", "\n\n")}  # as each model was trained
MODELS = (*PARAGRAPHS, "demo")
CONTEXT, STRIDE = 256, 128
SAME = 1e-3  # logits of a conversion in float32: the largest difference from transformers'
PICTURE = ROOT / "docs" / "accuracy.svg"


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
    calibration: str
    suffix: str
    checkpoint: Checkpoint
    reference: Remembered


@cache  # each process measures a model with many recipes
def make_subject(name: str, data: Path, share: float) -> Subject:
    """Read a model's texts; ``share`` of the held-out one is scored."""
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
    model = "demo" if name == "demo" else str(data / "models" / name)
    directory = resolve_model(model)
    return Subject(
        name, model, texts, calibration, suffix, Checkpoint.open(directory), Remembered(Reference(directory))
    )


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


def ours(subject: Subject, folder: Path, name: str, recipe: str | Path) -> Sample:
    """Export with a preset or recipe file, and score the bundle."""
    out, text = folder / "bundle", folder / f"calibration-{subject.name}{subject.suffix}"
    text.write_text(subject.calibration, encoding="utf-8")
    manifest = export(subject.model, out=out, recipe=recipe, force=True, calibration=[text], threads=1)
    result = evaluate(
        out, subject.texts, context=CONTEXT, stride=STRIDE, reference=subject.reference, threads=1, prepared=False
    )
    bits = bits_per_weight(out, manifest, subject.checkpoint)
    return sample(subject, "edgepress", name, result, bits=bits)


def asked(subject: Subject, folder: Path, recipe: Asked) -> Sample:
    """Export and score a recipe; what edgepress refuses is kept with its reason."""
    described = {"title": recipe.title, **asdict(recipe)}
    try:
        return ours(subject, folder, recipe.name, recipe.write(folder)) | described
    except InputError as error:
        named = {"model": subject.name, "tool": "edgepress", "name": recipe.name}
        return {**named, "refused": str(error).replace(f"{folder}/", ""), **described}


def scored(subject: Subject, corpus: Corpus, tool: str, name: str, peer: Peer) -> Sample:
    """Score a peer on the tokens that ours is scored on."""
    result = evaluate_logits(peer.source, corpus, context=CONTEXT, stride=STRIDE, reference=subject.reference)
    return sample(subject, tool, name, result, bits=peer.bits_per_weight, note=peer.note)


def by_llama_cpp(subject: Subject, folder: Path, corpus: Corpus) -> Iterator[Sample]:
    """Quantize and score with llama.cpp, after its logits in float32 were seen to be the checkpoint's."""
    from peers import llama_cpp

    exact = llama_cpp.write_gguf(subject.checkpoint, folder / "float32.gguf")
    window = corpus.documents[0][:CONTEXT]
    logits = llama_cpp.open_peer(exact, subject.checkpoint).source.logits(window)
    difference = float(np.abs(logits - subject.reference.logits(window)).max())
    if difference > SAME:
        raise RuntimeError(f"{exact}: logits differ from transformers' by {difference:.2g}; the conversion is wrong")
    for ftype in llama_cpp.FTYPES:
        path = llama_cpp.quantize(exact, exact.with_suffix(f".{ftype}.gguf"), ftype)
        yield scored(subject, corpus, "llama.cpp", ftype, llama_cpp.open_peer(path, subject.checkpoint))


def by_genai(subject: Subject, folder: Path, corpus: Corpus) -> Iterator[Sample]:
    """Quantize and score with onnxruntime-genai's builder."""
    from peers import genai_builder

    for algorithm in genai_builder.ALGORITHMS:
        path = genai_builder.build(subject.checkpoint, folder / "genai", algorithm)
        peer = genai_builder.open_peer(path, subject.checkpoint)
        yield scored(subject, corpus, "onnxruntime-genai", algorithm, peer)


PEERS: dict[str, Callable[[Subject, Path, Corpus], Iterator[Sample]]] = {
    "llama.cpp": by_llama_cpp,
    "onnxruntime-genai": by_genai,
}


@dataclass(frozen=True)
class Measure:
    """A :class:`~spread.Job`: a model stored by a preset, a recipe or a peer, and scored."""

    model: str
    data: Path
    share: float
    how: str | Asked

    @property
    def key(self) -> str:
        """Model, what stores it, and how much of the text it is scored on."""
        return f"{self.model}: {self.how if isinstance(self.how, str) else self.how.name}; {self.share:g} of the text"

    def __call__(self) -> list[Sample]:
        """Store and score."""
        torch.set_num_threads(1)  # on models this small a second thread costs more than it brings
        subject = make_subject(self.model, self.data, self.share)
        with TemporaryDirectory(dir=WORK, prefix="accuracy-") as name:
            folder = Path(name)
            if isinstance(self.how, Asked):
                return [asked(subject, folder, self.how)]
            if self.how not in PEERS:
                return [ours(subject, folder, self.how, self.how)]
            export(subject.model, out=folder / "fp32", recipe="fp32", threads=1)
            return list(PEERS[self.how](subject, folder, read_corpus(folder / "fp32", subject.texts)))


def earlier(path: Path, models: Sequence[str], *, whole: bool) -> list[Sample]:
    """Samples of ``path`` that a run of ``models`` leaves: those of other models, and unless ``whole`` all of them.

    Figures of other versions cannot stand beside this run's: that ends it before it begins.
    """
    if not path.is_file():
        return []
    header, *samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    taken_on = header["host"]
    kept = [{"cpu": taken_on["cpu"], **found} for found in samples if not (whole and found["model"] in models)]
    versions = host()["versions"]
    if kept and taken_on["versions"] != versions:
        sys.exit(
            f"{path} has samples of {taken_on['versions']}, and here are {versions}: measure all models and methods"
        )
    return kept


def merge(kept: Sequence[Sample], found: Sequence[Sample]) -> list[Sample]:
    """Put ``found`` in the place of what ``kept`` has under the same names; models in their order."""
    named = {(one["model"], one["tool"], one["name"]): one for one in (*kept, *found)}
    return sorted(named.values(), key=lambda one: MODELS.index(one["model"]))


def asked_for(suite: str) -> list[str | Asked]:
    """What stores the models: presets, peers and chosen recipes, or one of the long lists of recipes."""
    if suite:
        return [*(grid() if suite == "grid" else sequences())]
    return [*sorted(preset_names(), key=lambda name: name != "fp32"), *PEERS, *chosen()]


def measure(suite: str, models: Sequence[str], methods: Sequence[str] | None, data: Path, share: float) -> list[Sample]:
    """Measure what is asked for, save it with what other runs found, and return it all."""
    result = f"accuracy_{suite}" if suite else "accuracy"
    recipes = asked_for(suite)
    if methods:
        recipes = [one for one in recipes if isinstance(one, Asked) and set(one.methods) <= set(methods)]
    kept = earlier(RESULTS / f"{result}.jsonl", models, whole=not methods)
    jobs = [Measure(model, data, share, one) for model in models for one in recipes]
    partial = WORK / f"{result}.partial.jsonl"
    found = run(jobs, partial, processes=usable_cores(), show=lambda one: print(" | ".join(row(one)), flush=True))
    samples = merge(kept, [{**one, "cpu": host()["cpu"]} for one in found])
    print(f"raw samples: {save(result, samples)}")
    partial.unlink()
    return samples


def main() -> None:
    """Export, score, keep the samples, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared/data"))
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    suite = parser.add_mutually_exclusive_group()
    suite.add_argument("--grid", action="store_true", help="every method on disk in every scheme; no peers")
    suite.add_argument("--sequences", action="store_true", help="methods on disk one after another; no peers; long")
    parser.add_argument("--methods", nargs="+", help="of those, only recipes that use no other methods")
    parser.add_argument(
        "--documents",
        type=int,
        help=f"score so many of {STORIES} stories, and as much of the demo's text; {LESS} for --grid and --sequences",
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} is absent; name the folder with models/ and text/ by --data")
    suite = "grid" if arguments.grid else "sequences" if arguments.sequences else ""
    if arguments.methods and not suite:
        sys.exit("--methods chooses among the recipes of --grid or --sequences; name one of them")
    share = min(1.0, (arguments.documents or (LESS if suite else STORIES)) / STORIES)
    samples = measure(suite, arguments.models, arguments.methods, arguments.data.absolute(), share)
    print(report(samples))
    if not suite:
        draw([found for found in samples if "kl" in found], PICTURE)
        print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
