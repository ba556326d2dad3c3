"""Does an encoder-decoder on Qualcomm's NPU write what it writes on the CPU?

The simulator of ``pip install 'edgepress[qnn]'``, in float16, beside the CPU in float32: a T5 of 0.17 M weights that
was trained to write words backwards (:mod:`sequences`), greedily and with beams, and random weights in the shape of
Whisper-tiny, of which the first tokens' logits are compared.

    python benchmarks/npu_sequences.py [--words 5] [--only t5 whisper-tiny]

Samples are kept as they come.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import torch
import transformers
from common import save, table
from sequences import held_out, share_reversed, train_reversing

from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.targets import find_target
from edgepress.targets.legality.check import check

CHIP, TARGETS = "sm8650", ["x86-cpu", "qnn-htp"]
TOKENS = 8  # of a target of Whisper's shape
Sample = dict[str, Any]


def placed(bundle: Path) -> Sample:
    """How many nodes of the static graphs the compiler takes."""
    reports = check(bundle, find_target("qnn-htp"), CHIP)
    placements = [one for report in reports for one in report.placements]
    return {
        "nodes": len(placements),
        "there": sum(report.provider == one.runs_on for report in reports for one in report.placements),
    }


def t5(folder: Path, words: int) -> Iterator[Sample]:
    """Words, ``words`` of each length, that are written backwards, and how many answers are the CPU's."""
    checkpoint = train_reversing(folder / "checkpoint")
    export(checkpoint, out=folder / "bundle", recipe="fp32", target=TARGETS, context_length=16, threads=1)
    here = load(folder / "bundle", on="cpu", threads=1)
    there = load(folder / "bundle", on="qnn-htp", soc=CHIP)
    asked = held_out(22, 8, words)
    for beams in (1, 4):
        answers = [[model.generate(word, beams=beams).text() for word in asked] for model in (here, there)]
        yield {
            "model": "T5, trained (0.17 M weights)",
            "beams": beams,
            **placed(folder / "bundle"),
            "words": len(asked),
            "right_here": share_reversed(here, asked, beams),
            "right": sum(said.replace(" ", "") == word[::-1] for said, word in zip(answers[1], asked, strict=True))
            / len(asked),
            "same": sum(one == other for one, other in zip(*answers, strict=True)) / len(asked),
        }


def whisper_tiny(folder: Path, _words: int) -> Iterator[Sample]:
    """The largest difference of a logit of some tokens, as a share of the largest."""
    torch.manual_seed(0)
    transformers.WhisperForConditionalGeneration(transformers.WhisperConfig()).save_pretrained(folder / "checkpoint")
    _tokenizer(folder / "checkpoint")
    asked = {"recipe": "fp16", "target": TARGETS, "context_length": 64, "threads": 1}
    export(folder / "checkpoint", out=folder / "bundle", **asked)
    draw = np.random.default_rng(0)
    feed = {
        "input_features": draw.standard_normal((1, 80, 3000)).astype(np.float32),
        "decoder_input_ids": draw.integers(0, 50000, (1, TOKENS)),
    }
    here, there = (
        load(folder / "bundle", on=on, soc=soc).session.compute(feed)["logits"]
        for on, soc in (("cpu", None), ("qnn-htp", CHIP))
    )
    yield {
        "model": "shape of Whisper-tiny (37.8 M random weights)",
        "beams": 1,
        **placed(folder / "bundle"),
        "difference": float(np.abs(here - there).max() / np.abs(here).max()),
        "tokens": TOKENS,
    }


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))


MODELS = {"t5": t5, "whisper-tiny": whisper_tiny}


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and number of beams."""
    rows = []
    for one in samples:
        if "words" in one:
            found = f"{one['right']:.1%} of {one['words']} words right, on the CPU {one['right_here']:.1%}"
            same = f"{one['same']:.1%} of answers the same"
        else:
            found, same = "", f"logits of {one['tokens']} tokens within {one['difference']:.1e} of the largest"
        rows.append([one["model"], str(one["beams"]), f"{one['there']} of {one['nodes']}", found, same])
    return table(["model", "beams", "nodes on the NPU", "answers", "beside the CPU"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=5, help="of each length, 2 to 8")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    samples: list[Sample] = []
    for name in asked.only:
        with TemporaryDirectory(prefix="npu-sequences-") as folder:
            for sample in MODELS[name](Path(folder), asked.words):
                samples.append(sample)
                save("npu_sequences", samples)
                print(sample, flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
