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
    python benchmarks/accuracy.py --presets int4-small int4-best         # these alone
    python benchmarks/accuracy.py --no-peers                             # ours anew; what peers gave stays

A run that is killed goes on where it stopped. One of some models, methods or presets leaves the samples of others as
they are.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from accuracy_picture import draw
from accuracy_recipes import Asked, chosen, grid, sequences
from accuracy_tables import Sample, report, row
from common import RESULTS, ROOT, TARGET, WORK, host, save
from peers.peer import Peer, parameters
from spread import run
from subjects import CONTEXT, MODELS, STORIES, STRIDE, Measure, Subject, add_data, earlier, merge

from edgepress.bundle.manifest import Manifest
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.recipe.reading import preset_names
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import Evaluation, evaluate
from edgepress.runtime.measures.evaluate import Corpus, evaluate_logits, read_corpus

LESS = 20  # of them, where there are hundreds of recipes
SAME = 1e-3  # logits of a conversion in float32: the largest difference from transformers'
PICTURE = ROOT / "docs" / "accuracy.svg"


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
    manifest = export(subject.model, out=out, recipe=recipe, target=TARGET, force=True, calibration=[text], threads=1)
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


def take(subject: Subject, folder: Path, how: str | Asked) -> list[Sample]:
    """Store a model by a preset, a recipe or a peer, and score it."""
    if isinstance(how, Asked):
        return [asked(subject, folder, how)]
    if how not in PEERS:
        return [ours(subject, folder, how, how)]
    export(subject.model, out=folder / "fp32", recipe="fp32", threads=1)
    return list(PEERS[how](subject, folder, read_corpus(folder / "fp32", subject.texts)))


def asked_for(suite: str) -> list[str | Asked]:
    """What stores the models: presets, peers and chosen recipes, or one of the long lists of recipes."""
    if suite:
        return [*(grid() if suite == "grid" else sequences())]
    return [*sorted(preset_names(), key=lambda name: name != "fp32"), *PEERS, *chosen()]


def measure(
    suite: str,
    models: Sequence[str],
    methods: Sequence[str] | None,
    data: Path,
    share: float,
    *,
    presets: Sequence[str] | None = None,
    peers: bool = True,
) -> list[Sample]:
    """Measure what is asked for, save it with what other runs found, and return it all."""
    result = f"accuracy_{suite}" if suite else "accuracy"
    recipes = [one for one in asked_for(suite) if peers or one not in PEERS] if presets is None else list(presets)
    if methods:
        recipes = [one for one in recipes if isinstance(one, Asked) and set(one.methods) <= set(methods)]
    whole = not methods and presets is None and peers
    again = () if peers or methods or presets is not None else ("edgepress",)
    kept = earlier(RESULTS / f"{result}.jsonl", models, whole=whole, again=again)
    jobs = [Measure(model, data, share, one, take) for model in models for one in recipes]
    partial = WORK / f"{result}.partial.jsonl"
    found = run(jobs, partial, processes=usable_cores(), show=lambda one: print(" | ".join(row(one)), flush=True))
    samples = merge(kept, [{**one, "cpu": host()["cpu"]} for one in found])
    print(f"raw samples: {save(result, samples)}")
    partial.unlink()
    return samples


def main() -> None:
    """Export, score, keep the samples, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    suite = parser.add_mutually_exclusive_group()
    suite.add_argument("--grid", action="store_true", help="every method on disk in every scheme; no peers")
    suite.add_argument("--sequences", action="store_true", help="methods on disk one after another; no peers; long")
    suite.add_argument("--presets", nargs="+", choices=preset_names(), help="only these presets; no peers")
    suite.add_argument("--no-peers", action="store_true", help="presets and recipes of ours; peers' samples stay")
    parser.add_argument("--methods", nargs="+", help="of those, only recipes that use no other methods")
    parser.add_argument(
        "--documents",
        type=int,
        help=f"score so many of {STORIES} stories, and as much of the demo's text; {LESS} for --grid and --sequences",
    )
    arguments = parser.parse_args()
    suite = "grid" if arguments.grid else "sequences" if arguments.sequences else ""
    if arguments.methods and not suite:
        sys.exit("--methods chooses among the recipes of --grid or --sequences; name one of them")
    share = min(1.0, (arguments.documents or (LESS if suite else STORIES)) / STORIES)
    asked = arguments.models, arguments.methods, arguments.data, share
    samples = measure(suite, *asked, presets=arguments.presets, peers=not arguments.no_peers)
    print(report(samples))
    if not suite:
        draw([found for found in samples if "kl" in found], PICTURE)
        print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
